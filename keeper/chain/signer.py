"""The wallet: signs EIP-1559 transactions; its key never leaves this object."""

import json

import coincurve
import rlp
from eth_account import Account
from eth_utils.crypto import keccak
from eth_utils.exceptions import ValidationError

from keeper.config import WalletSettings
from keeper.decide.economics import Fee
from keeper.errors import ConfigError
from keeper.facts import Call

TYPE_2 = b"\x02"  # EIP-2718 type of an EIP-1559 transaction


class Signer:
    """One key. ``repr`` shows the address only.

    Transactions are encoded here (EIP-1559: keccak of ``0x02 ‖ rlp(fields)``, signed) and not by
    eth-account, which takes ten times as long in the hot path; tests compare the two byte for byte.
    """

    def __init__(self, private_key: str | bytes) -> None:
        """Load the key; raises ValueError, without the key in it, when it is not one."""
        try:
            account = Account.from_key(private_key)
        except (ValueError, TypeError, ValidationError):
            msg = "not a private key: 32 bytes of hex are wanted"
            raise ValueError(msg) from None
        self.address: str = account.address
        self._key = coincurve.PrivateKey(bytes(account.key))

    def __repr__(self) -> str:
        """Show the address, never the key."""
        return f"Signer({self.address})"

    def sign(
        self, call: Call, *, nonce: int, gas_limit: int, fee: Fee, chain_id: int
    ) -> tuple[str, bytes]:
        """Return (transaction hash, raw bytes)."""
        fields: list[int | bytes | list[bytes]] = [
            chain_id,
            nonce,
            fee.priority_fee_wei,
            fee.max_fee_wei,
            gas_limit,
            bytes.fromhex(call.to.removeprefix("0x")),
            call.value_wei,
            call.data,
            [],  # access list
        ]
        digest = keccak(TYPE_2 + rlp.encode(fields))
        signature = self._key.sign_recoverable(digest, hasher=None)
        r, s = (int.from_bytes(signature[start : start + 32], "big") for start in (0, 32))
        raw = TYPE_2 + rlp.encode([*fields, signature[64], r, s])
        return "0x" + keccak(raw).hex(), raw


def sent_value_wei(raw: bytes) -> int:
    """Return what a transaction signed here sends along, from its raw bytes."""
    return int.from_bytes(rlp.decode(raw.removeprefix(TYPE_2))[6], "big")


def worst_cost_wei(raw: bytes) -> int:
    """Return what a transaction signed here costs at most: gas limit × fee cap + value."""
    fields = rlp.decode(raw.removeprefix(TYPE_2))
    max_fee, gas_limit, value = (int.from_bytes(fields[at], "big") for at in (3, 4, 6))
    return gas_limit * max_fee + value


def load_signer(wallet: WalletSettings) -> Signer:
    """Make the signer that ``[wallet]`` describes; raises ConfigError without a secret in it."""
    try:
        if wallet.keystore is not None:
            password = wallet.password.read().get_secret_value() if wallet.password else ""
            stored = json.loads(wallet.keystore.read_text())
            return Signer(bytes(Account.decrypt(stored, password)))
        if wallet.key is not None:
            return Signer(wallet.key.read().get_secret_value())
    except OSError as error:
        msg = f"wallet.keystore: {wallet.keystore}: {error.strerror}"
        raise ConfigError([msg]) from None
    except (ValueError, TypeError, KeyError) as error:
        where = "wallet.keystore" if wallet.keystore is not None else "wallet.key"
        what = "wrong password, or no keystore" if wallet.keystore is not None else str(error)
        raise ConfigError([f"{where}: {what}"]) from None
    raise ConfigError(["wallet: give either key or keystore"])
