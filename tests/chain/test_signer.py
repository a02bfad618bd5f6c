import json
from pathlib import Path

import pytest
from eth_account import Account
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from keeper.chain.signer import Signer, load_signer
from keeper.config import SecretRef, WalletSettings
from keeper.decide.economics import Fee
from keeper.errors import ConfigError
from keeper.facts import Call

KEYS = st.integers(1, 2**255).map(lambda number: number.to_bytes(32, "big"))
WEI = st.integers(0, 2**128)


@given(
    KEYS,
    st.binary(min_size=20, max_size=20),
    st.binary(max_size=200),
    WEI,
    st.integers(0, 2**40),
    st.integers(21_000, 2**32),
    WEI,
    WEI,
    st.integers(1, 2**53),
)
def test_bytes_are_those_of_eth_account(  # noqa: PLR0913, PLR0917 - the fields of a transaction
    key: bytes,
    to: bytes,
    data: bytes,
    value: int,
    nonce: int,
    gas: int,
    max_fee: int,
    priority: int,
    chain_id: int,
) -> None:
    call, fee = Call("0x" + to.hex(), data, value), Fee(max_fee, priority)
    tx_hash, raw = Signer(key).sign(call, nonce=nonce, gas_limit=gas, fee=fee, chain_id=chain_id)
    signed = Account.sign_transaction(
        {
            "type": 2,
            "chainId": chain_id,
            "nonce": nonce,
            "to": to_checksum_address(call.to),
            "data": data,
            "value": value,
            "gas": gas,
            "maxFeePerGas": max_fee,
            "maxPriorityFeePerGas": priority,
        },
        key,
    )
    assert raw == bytes(signed.raw_transaction)
    assert tx_hash == signed.hash.to_0x_hex()


def test_a_keystore_opens_with_its_password_only(tmp_path: Path) -> None:
    key = b"\x42" * 32
    store = Account.encrypt(key, "correct horse", kdf="pbkdf2", iterations=2)
    (tmp_path / "store.json").write_text(json.dumps(store))
    for name, password in (("right", "correct horse"), ("wrong", "battery")):
        (tmp_path / name).write_text(password)
        (tmp_path / name).chmod(0o600)

    def wallet(password: str) -> WalletSettings:
        reference = SecretRef(file=tmp_path / password)
        return WalletSettings(keystore=tmp_path / "store.json", password=reference)

    assert load_signer(wallet("right")).address == Signer(key).address
    with pytest.raises(ConfigError, match="wrong password, or no keystore") as raised:
        load_signer(wallet("wrong"))
    assert "battery" not in str(raised.value)


def test_a_key_file_that_holds_no_key_is_refused_unshown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("not-the-key-42424242")
    (tmp_path / "key").chmod(0o600)
    wallet = WalletSettings(key=SecretRef(file=tmp_path / "key"))
    with pytest.raises(ConfigError, match=r"wallet\.key: not a private key") as raised:
        load_signer(wallet)
    assert "42424242" not in str(raised.value)
