"""Wallets: who signs. A key in this process, or a signer that is asked over HTTP.

Transactions are encoded here and not by eth-account, which takes ten times as long in the hot path;
tests compare the two byte for byte. EIP-1559: keccak of ``0x02 ‖ rlp(fields)``; on chains without a
base fee EIP-155: keccak of ``rlp(fields, chain id, 0, 0)``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import coincurve
import rlp
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from keeper.config import WalletSettings
from keeper.decide.economics import Fee
from keeper.errors import ConfigError, TransientError
from keeper.facts import Call
from keeper.keystore import address_of, load_key, unlock

TYPE_2 = b"\x02"  # EIP-2718 type of an EIP-1559 transaction
# where gas price or fee cap, gas limit and value are among the fields, by whether it is of type 2
_COSTS_AT = {True: (3, 4, 6), False: (1, 2, 4)}
_EIP155_V = 35
_RLP_BYTES, _RLP_LIST, _RLP_LONG = 0x80, 0xC0, 56

Fields = list[int | bytes | list[bytes]]


def encoded(field: int | bytes | Fields | list[bytes]) -> bytes:
    """Return it in RLP; pyrlp takes ten times as long, most of it to find out what it was given."""
    if isinstance(field, list):
        body, offset = b"".join(map(encoded, field)), _RLP_LIST
    else:
        body, offset = _minimal(field) if isinstance(field, int) else field, _RLP_BYTES
        if len(body) == 1 and body[0] < _RLP_BYTES:
            return body
    if len(body) < _RLP_LONG:
        return bytes([offset + len(body)]) + body
    length = _minimal(len(body))
    return bytes([offset + _RLP_LONG - 1 + len(length)]) + length + body


def _minimal(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


class SigningError(TransientError):
    """The signer did not answer, refused, or signed something else than was asked."""


@dataclass(frozen=True, slots=True)
class Unsigned:
    """Everything of a transaction but its signature."""

    call: Call
    nonce: int
    gas_limit: int
    fee: Fee
    chain_id: int

    @property
    def fields(self) -> Fields:
        """Return what is signed, in the order of the encoding."""
        to, data = bytes.fromhex(self.call.to.removeprefix("0x")), self.call.data
        gas, value = self.gas_limit, self.call.value_wei
        if self.fee.legacy:
            return [self.nonce, self.fee.max_fee_wei, gas, to, value, data]
        fees = (self.fee.priority_fee_wei, self.fee.max_fee_wei)
        return [self.chain_id, self.nonce, *fees, gas, to, value, data, []]

    @property
    def digest(self) -> bytes:
        """Return the hash that is signed."""
        if self.fee.legacy:
            return keccak(encoded([*self.fields, self.chain_id, 0, 0]))
        return keccak(TYPE_2 + encoded(self.fields))

    def with_signature(self, r: int, s: int, parity: int) -> bytes:
        """Return the raw bytes of the signed transaction."""
        if self.fee.legacy:
            return encoded([*self.fields, self.chain_id * 2 + _EIP155_V + parity, r, s])
        return TYPE_2 + encoded([*self.fields, parity, r, s])


class Signer(Protocol):
    """Signs for one address."""

    address: str

    async def sign(self, unsigned: Unsigned) -> tuple[str, bytes]:
        """Return (transaction hash, raw bytes); raises SigningError."""
        ...


class KeySigner:
    """A key in this process, that never leaves this object. ``repr`` shows the address only."""

    def __init__(self, private_key: str | bytes) -> None:
        """Load the key; raises ValueError, without the key in it, when it is not one."""
        self._key = load_key(private_key)
        self.address = address_of(self._key)

    def __repr__(self) -> str:
        """Show the address, never the key."""
        return f"KeySigner({self.address})"

    async def sign(self, unsigned: Unsigned) -> tuple[str, bytes]:
        """Sign without waiting for anything."""
        return self.signed(unsigned)

    def signed(self, unsigned: Unsigned) -> tuple[str, bytes]:
        """Return (transaction hash, raw bytes)."""
        signature = self._key.sign_recoverable(unsigned.digest, hasher=None)
        r, s = (int.from_bytes(signature[start : start + 32], "big") for start in (0, 32))
        raw = unsigned.with_signature(r, s, signature[64])
        return "0x" + keccak(raw).hex(), raw


class RemoteSigner:
    """A signer asked over HTTP with ``eth_signTransaction``, as Web3Signer takes it.

    What it answers is only used when it is the very transaction that was asked for, signed by the
    wallet's address.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: str, label: str, address: str, timeout_ms: int
    ) -> None:
        """``label`` names it in errors: the URL may hold a secret."""
        self.address: str = to_checksum_address(address)
        self._session = session
        self._url = url
        self._label = label
        self._timeout = aiohttp.ClientTimeout(total=timeout_ms / 1000)

    def __repr__(self) -> str:
        """Show address and place."""
        return f"RemoteSigner({self.address} at {self._label})"

    async def sign(self, unsigned: Unsigned) -> tuple[str, bytes]:
        """Ask for the signature and check what comes back, field by field."""
        answer = await self._ask("eth_signTransaction", [self._wanted(unsigned)])
        raw = self._verified(answer.get("raw") if isinstance(answer, dict) else answer, unsigned)
        return "0x" + keccak(raw).hex(), raw

    async def check(self) -> None:
        """Ask whether it signs for the address; raises SigningError."""
        accounts = await self._ask("eth_accounts", [])
        known = [str(one).lower() for one in accounts] if isinstance(accounts, list) else []
        if self.address.lower() not in known:
            msg = f"does not sign for {self.address}"
            raise self._trouble(msg)

    def _wanted(self, unsigned: Unsigned) -> dict[str, str]:
        fee, call = unsigned.fee, unsigned.call
        fees = {"gasPrice": hex(fee.max_fee_wei)}
        if not fee.legacy:
            fees = {
                "maxFeePerGas": hex(fee.max_fee_wei),
                "maxPriorityFeePerGas": hex(fee.priority_fee_wei),
            }
        return {
            "from": self.address,
            "to": call.to,
            "gas": hex(unsigned.gas_limit),
            "value": hex(call.value_wei),
            "data": "0x" + call.data.hex(),
            "nonce": hex(unsigned.nonce),
            "chainId": hex(unsigned.chain_id),
            **fees,
        }

    async def _ask(self, method: str, params: Sequence[object]) -> Any:  # noqa: ANN401 - JSON
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        try:
            async with self._session.post(self._url, json=body, timeout=self._timeout) as response:
                answer = json.loads(await response.read())
        except TimeoutError:
            msg = "did not answer in time"
            raise self._trouble(msg) from None
        except (aiohttp.ClientError, OSError) as error:
            msg = f"cannot be asked ({type(error).__name__})"
            raise self._trouble(msg) from None
        except ValueError:
            msg = f"answered no JSON (HTTP {response.status})"
            raise self._trouble(msg) from None
        if not isinstance(answer, dict) or "result" not in answer:
            fault = answer.get("error") if isinstance(answer, dict) else None
            said = fault.get("message", "") if isinstance(fault, dict) else ""
            msg = f"refused: {str(said)[:200]!r} (HTTP {response.status})"
            raise self._trouble(msg)
        return answer["result"]

    def _verified(self, answer: object, unsigned: Unsigned) -> bytes:
        """Return the raw bytes if they are what was asked for, signed by this wallet."""
        try:
            raw = bytes.fromhex(str(answer).removeprefix("0x"))
            body = raw if unsigned.fee.legacy else raw.removeprefix(TYPE_2)
            v, r, s = (int.from_bytes(part, "big") for part in rlp.decode(body)[-3:])
            parity = v - unsigned.chain_id * 2 - _EIP155_V if unsigned.fee.legacy else v
            signature = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([parity])
            key = coincurve.PublicKey.from_signature_and_message(
                signature, unsigned.digest, hasher=None
            )
        except (ValueError, TypeError, OverflowError, rlp.DecodingError):
            msg = "answered no signed transaction"
            raise self._trouble(msg) from None
        sender = to_checksum_address(keccak(key.format(compressed=False)[1:])[-20:])
        if raw != unsigned.with_signature(r, s, parity) or sender != self.address:
            msg = "signed another transaction, or with another key"
            raise self._trouble(msg)
        return raw

    def _trouble(self, said: str) -> SigningError:
        return SigningError(f"signer {self._label}: {said}")


@dataclass(frozen=True, slots=True)
class Wallet:
    """An address that pays and is paid. ``signer`` None: it is only watched."""

    name: str
    address: str
    signer: Signer | None
    balance_wei_min: int = 0


def sent_value_wei(raw: bytes) -> int:
    """Return what a transaction signed here sends along, from its raw bytes."""
    _, _, value = _costs(raw)
    return value


def worst_cost_wei(raw: bytes) -> int:
    """Return what a transaction signed here costs at most: gas limit × fee cap + value."""
    fee, gas_limit, value = _costs(raw)
    return gas_limit * fee + value


def _costs(raw: bytes) -> list[int]:
    fields = rlp.decode(raw.removeprefix(TYPE_2))
    return [int.from_bytes(fields[at], "big") for at in _COSTS_AT[raw.startswith(TYPE_2)]]


def load_signer(wallet: WalletSettings, session: aiohttp.ClientSession, at: str) -> Signer:
    """Make the signer that a ``[[wallets]]`` table describes.

    Raises ConfigError, without a secret in it, that names the key below ``at``.
    """
    if wallet.signer is not None and wallet.address is not None:
        url = wallet.signer.read().get_secret_value()
        label = wallet.signer.label
        return RemoteSigner(session, url, label, wallet.address, wallet.signer_timeout_ms)
    if wallet.keystore is not None:
        password = wallet.password.read().get_secret_value() if wallet.password else ""
        try:
            return KeySigner(unlock(wallet.keystore, password).secret)
        except ConfigError as error:
            raise ConfigError([f"{at}.keystore: {one}" for one in error.problems]) from None
    if wallet.key is not None:
        try:
            return KeySigner(wallet.key.read().get_secret_value())
        except ValueError as error:
            raise ConfigError([f"{at}.key: {error}"]) from None
    raise ConfigError([f"{at}: give one of key, keystore and signer"])


def load_wallets(wallets: Sequence[WalletSettings], session: aiohttp.ClientSession) -> list[Wallet]:
    """Make every wallet of the config; raises ConfigError with all that is wrong with them.

    Two wallets of one address would use the same nonces: that is refused.
    """
    loaded: dict[str, Wallet] = {}
    problems: list[str] = []
    for index, wallet in enumerate(wallets):
        at = f"wallets[{index}]"
        try:
            signer = load_signer(wallet, session, at)
        except ConfigError as error:
            problems += error.problems
            continue
        other = loaded.get(signer.address)
        if other is not None:
            said = f'has the address of wallet "{other.name}" ({signer.address}); give it its own'
            problems.append(f"{at}: {said}")
        loaded[signer.address] = Wallet(wallet.name, signer.address, signer, wallet.balance_wei_min)
    if problems:
        raise ConfigError(problems)
    return list(loaded.values())
