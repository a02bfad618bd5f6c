import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from eth_account import Account
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from keeper.chain.signer import (
    KeySigner,
    RemoteSigner,
    Signer,
    SigningError,
    Unsigned,
    load_signer,
    load_wallets,
    sent_value_wei,
)
from keeper.config import HttpEndpoint, SecretRef, WalletSettings
from keeper.decide.economics import Fee
from keeper.errors import ConfigError
from keeper.facts import Call
from tests.chain.signing import RemoteKeys, remote_keys

KEY = "0x" + "42" * 32
ADDRESS = KeySigner(KEY).address
FEE, LEGACY = Fee(3_000, 20), Fee(3_000, 3_000, legacy=True)
SOME = Unsigned(Call("0x" + "77" * 20, b"\x01\x02", 5), 7, 21_000, FEE, 31337)
KEYS = st.integers(1, 2**255).map(lambda number: number.to_bytes(32, "big"))
WEI = st.integers(0, 2**128)


@given(
    KEYS,
    st.binary(min_size=20, max_size=20),
    st.binary(max_size=200),
    WEI,
    st.tuples(st.integers(0, 2**40), st.integers(21_000, 2**32), st.integers(1, 2**53)),
    st.builds(Fee, WEI, WEI) | WEI.map(lambda wei: Fee(wei, wei, legacy=True)),
)
async def test_bytes_are_those_of_eth_account(
    key: bytes, to: bytes, data: bytes, value: int, numbers: tuple[int, int, int], fee: Fee
) -> None:
    nonce, gas, chain_id = numbers
    call = Call("0x" + to.hex(), data, value)
    tx_hash, raw = await KeySigner(key).sign(Unsigned(call, nonce, gas, fee, chain_id))
    fees: dict[str, object] = {"gasPrice": fee.max_fee_wei}
    if not fee.legacy:
        fees = {"type": 2, "maxFeePerGas": fee.max_fee_wei}
        fees["maxPriorityFeePerGas"] = fee.priority_fee_wei
    signed = Account.sign_transaction(
        {
            "chainId": chain_id,
            "nonce": nonce,
            "to": to_checksum_address(call.to),
            "data": data,
            "value": value,
            "gas": gas,
            **fees,
        },
        key,
    )
    assert raw == bytes(signed.raw_transaction)
    assert tx_hash == signed.hash.to_0x_hex()
    assert sent_value_wei(raw) == value


# --- a remote signer ------------------------------------------------------------------------------


@pytest.fixture
async def keys() -> AsyncIterator[RemoteKeys]:
    async with remote_keys(KEY) as served:
        yield served


@pytest.fixture
async def remote(keys: RemoteKeys, session: aiohttp.ClientSession) -> RemoteSigner:
    return RemoteSigner(session, keys.url, "the vault", ADDRESS.lower(), 500)


@pytest.mark.parametrize("fee", [FEE, LEGACY], ids=["EIP-1559", "legacy"])
@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_remote_signer_signs_as_a_key_does(
    keys: RemoteKeys,
    remote: RemoteSigner,
    fee: Fee,
    wrapped: bool,  # noqa: FBT001
) -> None:
    keys.wrapped = wrapped
    wanted = replace(SOME, fee=fee)
    assert await remote.sign(wanted) == await KeySigner(KEY).sign(wanted)
    await remote.check()


@pytest.mark.parametrize(
    "lie",
    [
        {"to": "0x" + "66" * 20},
        {"value": "0x6"},
        {"data": "0x"},
        {"nonce": "0x8"},
        {"gas": "0x5209"},
        {"chainId": "0x1"},
        {"maxFeePerGas": "0xbb9"},
        {"maxPriorityFeePerGas": "0x15"},
    ],
    ids=lambda lie: next(iter(lie)),
)
async def test_another_transaction_than_was_asked_for_is_refused(
    keys: RemoteKeys, remote: RemoteSigner, lie: dict[str, object]
) -> None:
    keys.lie = lie
    with pytest.raises(SigningError, match="signed another transaction"):
        await remote.sign(SOME)


async def test_another_key_is_refused(keys: RemoteKeys, remote: RemoteSigner) -> None:
    keys.key = "0x" + "43" * 32
    with pytest.raises(SigningError, match="with another key"):
        await remote.sign(SOME)
    with pytest.raises(SigningError, match=f"signer the vault: does not sign for {ADDRESS}"):
        await remote.check()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("<html>", "answered no JSON"),
        ('{"error":{"code":-32000,"message":"locked"}}', "refused: 'locked'"),
        ('{"result":"0x02f8"}', "answered no signed transaction"),
        ('{"result":null}', "answered no signed transaction"),
        ("[]", "refused"),
    ],
)
async def test_what_is_no_signature_is_told(
    keys: RemoteKeys, remote: RemoteSigner, answer: str, said: str
) -> None:
    keys.answer = answer
    with pytest.raises(SigningError, match=said):
        await remote.sign(SOME)


async def test_a_signer_that_hangs_or_is_gone_is_given_up(
    keys: RemoteKeys, session: aiohttp.ClientSession
) -> None:
    keys.hang = True
    remote = RemoteSigner(session, keys.url, "the vault", ADDRESS, 50)
    with pytest.raises(SigningError, match="did not answer in time"):
        await remote.sign(SOME)
    gone = RemoteSigner(session, "http://127.0.0.1:9/secret", "the vault", ADDRESS, 500)
    with pytest.raises(SigningError, match="cannot be asked") as raised:
        await gone.sign(SOME)
    assert "secret" not in str(raised.value)
    assert "secret" not in repr(gone)


# --- from the config ------------------------------------------------------------------------------


def secret(folder: Path, name: str, text: str) -> SecretRef:
    (folder / name).write_text(text)
    (folder / name).chmod(0o600)
    return SecretRef(file=folder / name)


async def test_a_keystore_opens_with_its_password_only(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    key = b"\x42" * 32
    store = Account.encrypt(key, "correct horse", kdf="pbkdf2", iterations=2)
    secret(tmp_path, "store.json", json.dumps(store))

    def opened(password: str) -> Signer:
        reference = secret(tmp_path, "password", password)
        wallet = WalletSettings(keystore=tmp_path / "store.json", password=reference)
        return load_signer(wallet, session, "wallets[0]")

    assert opened("correct horse").address == KeySigner(key).address
    with pytest.raises(ConfigError, match="wrong password, or no keystore") as raised:
        opened("battery")
    assert "battery" not in str(raised.value)
    (tmp_path / "store.json").chmod(0o640)
    with pytest.raises(
        ConfigError, match=r"store\.json is open to others \(mode 0640\): chmod 600"
    ):
        opened("correct horse")
    (tmp_path / "store.json").unlink()
    with pytest.raises(ConfigError, match=r"store\.json: No such file"):
        opened("correct horse")


async def test_a_key_file_that_holds_no_key_is_refused_unshown(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    wallet = WalletSettings(key=secret(tmp_path, "key", "not-the-key-42424242"))
    with pytest.raises(ConfigError, match=r"wallets\[1\]\.key: not a private key") as raised:
        load_signer(wallet, session, "wallets[1]")
    assert "42424242" not in str(raised.value)


async def test_two_wallets_of_one_address_are_refused(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    """They would both be the only owner of the same nonces."""
    one = WalletSettings(name="one", key=secret(tmp_path, "key", KEY))
    url = HttpEndpoint(url=SecretStr("http://127.0.0.1:1"))
    two = WalletSettings(name="two", signer=url, address=ADDRESS.lower())
    assert [wallet.name for wallet in load_wallets([two], session)] == ["two"]
    with pytest.raises(ConfigError, match=r'wallets\[1\]: has the address of wallet "one"'):
        load_wallets([one, two], session)
