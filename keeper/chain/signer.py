"""The wallet: signs EIP-1559 transactions; its key never leaves this object."""

import json
from typing import Any

from eth_account import Account
from eth_keys.backends.coincurve import CoinCurveECCBackend
from eth_keys.main import lazy_key_api
from eth_utils.address import to_checksum_address
from eth_utils.exceptions import ValidationError

from keeper.config import WalletSettings
from keeper.errors import ConfigError
from keeper.facts import Call, Fee


class Signer:
    """One key. ``repr`` shows the address only."""

    def __init__(self, private_key: str | bytes) -> None:
        """Load the key; raises ValueError, without the key in it, when it is not one."""
        if not isinstance(lazy_key_api.backend, CoinCurveECCBackend):
            msg = "eth-keys does not use coincurve: signing would be ten times slower"
            raise TypeError(msg)
        try:
            self._account = Account.from_key(private_key)
        except (ValueError, TypeError, ValidationError):
            msg = "not a private key: 32 bytes of hex are wanted"
            raise ValueError(msg) from None
        self.address: str = self._account.address

    def __repr__(self) -> str:
        """Show the address, never the key."""
        return f"Signer({self.address})"

    def sign(
        self, call: Call, *, nonce: int, gas_limit: int, fee: Fee, chain_id: int
    ) -> tuple[str, bytes]:
        """Return (transaction hash, raw bytes)."""
        transaction: dict[str, Any] = {
            "type": 2,
            "chainId": chain_id,
            "nonce": nonce,
            "to": to_checksum_address(call.to),
            "data": call.data,
            "value": call.value_wei,
            "gas": gas_limit,
            "maxFeePerGas": fee.max_fee_wei,
            "maxPriorityFeePerGas": fee.priority_fee_wei,
        }
        signed = self._account.sign_transaction(transaction)
        return signed.hash.to_0x_hex(), bytes(signed.raw_transaction)


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
