"""Encrypted keystores (Web3 Secret Storage, version 3): make one, open one. Never prints a key."""

import json
import os
import secrets
from pathlib import Path

from eth_account import Account
from eth_utils.exceptions import ValidationError

from keeper.config import read_private
from keeper.errors import ConfigError

PASSWORD_CHARACTERS_MIN = 12  # scrypt slows guessing down; it does not save a short password


def new_key() -> str:
    """Return a fresh private key, hexadecimal, from the system's random source."""
    return secrets.token_hex(32)


def create(path: Path, private_key: str, password: str) -> str:
    """Encrypt a key (hexadecimal) into a new file of mode 600; return its address.

    Raises ConfigError on a file that is there already, a weak password, or what is no key.
    """
    if len(password) < PASSWORD_CHARACTERS_MIN:
        msg = f"the password is too short: give at least {PASSWORD_CHARACTERS_MIN} characters"
        raise ConfigError([msg])
    try:
        account = Account.from_key(private_key)
    except (ValueError, TypeError, ValidationError):
        msg = "that is no private key: 32 bytes in hexadecimal are wanted"
        raise ConfigError([msg]) from None
    _write_new(path, json.dumps(Account.encrypt(account.key, password)))
    address: str = account.address
    return address


def unlock(path: Path, password: str) -> str:
    """Return the address of the key in a keystore.

    Raises ConfigError when others may read the file, it is no keystore, or the password is wrong.
    """
    try:
        key = Account.decrypt(json.loads(read_private(path)), password)
    except (ValueError, TypeError, KeyError):
        raise ConfigError([f"{path}: wrong password, or no keystore"]) from None
    address: str = Account.from_key(key).address
    return address


def _write_new(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        msg = f"{path}: is there already; name a new file, nothing is overwritten"
        raise ConfigError([msg]) from None
    except OSError as error:
        msg = f"{path}: {error.strerror}; name a file in a folder that may be written"
        raise ConfigError([msg]) from None
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)  # whatever the umask
        file.write(text + "\n")
        file.flush()
        os.fsync(descriptor)
