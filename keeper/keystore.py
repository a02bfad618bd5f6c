"""Private keys, and keystores (Web3 Secret Storage, version 3) that hold one. Never prints a key.

What encrypts takes a second to import, so only who has a keystore does.
"""

import json
import os
import re
import secrets
from pathlib import Path

import coincurve
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from keeper.config import read_private
from keeper.errors import ConfigError

PASSWORD_CHARACTERS_MIN = 12  # scrypt slows guessing down; it does not save a short password


KEY_BYTES = 32
_KEY = re.compile(rf"(0x)?[0-9a-fA-F]{{{2 * KEY_BYTES}}}")


def load_key(private_key: str | bytes) -> coincurve.PrivateKey:
    """Return the key, given in hexadecimal or as bytes; raises ValueError without the key in it."""
    try:
        if isinstance(private_key, str):
            if _KEY.fullmatch(private_key) is None:
                raise ValueError  # noqa: TRY301 - told below, as everything that is no key
            private_key = bytes.fromhex(private_key.removeprefix("0x"))
        if len(private_key) != KEY_BYTES:
            raise ValueError  # noqa: TRY301
        return coincurve.PrivateKey(private_key)
    except ValueError:
        msg = f"not a private key: {KEY_BYTES} bytes of hex are wanted"
        raise ValueError(msg) from None


def address_of(key: coincurve.PrivateKey) -> str:
    """Return its address, with the checksum of EIP-55."""
    public = key.public_key.format(compressed=False)[1:]
    return to_checksum_address("0x" + keccak(public)[-20:].hex())


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
    from eth_account import Account  # noqa: PLC0415 - see the top

    try:
        key = load_key(private_key)
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    _write_new(path, json.dumps(Account.encrypt(key.secret, password)))
    return address_of(key)


def unlock(path: Path, password: str) -> coincurve.PrivateKey:
    """Return the key in a keystore.

    Raises ConfigError when others may read the file, it is no keystore, or the password is wrong.
    """
    from eth_account import Account  # noqa: PLC0415 - see the top

    try:
        return load_key(bytes(Account.decrypt(json.loads(read_private(path)), password)))
    except (ValueError, TypeError, KeyError):
        raise ConfigError([f"{path}: wrong password, or no keystore"]) from None


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
