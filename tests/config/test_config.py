import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from keeper.config import Settings, find_module, kinds, load
from keeper.config.load import CONFIG_BYTES_MAX, NESTING_MAX
from keeper.config.table import Table
from keeper.errors import ConfigError
from tests.config.support import GOOD, VENUE, add, mistakes, read

pytestmark = pytest.mark.usefixtures("rooms")


def test_a_short_config_is_filled_up_with_defaults(file: Path) -> None:
    found = read(file, GOOD)
    assert found.dry_run
    assert found.keeper.state_dir == file.parent / "state"
    assert (found.http.host, found.http.port) == ("127.0.0.1", 9464)
    assert found.chain.http[0].read().get_secret_value() == "http://127.0.0.1:8545"
    assert found.chain.ws == ()
    assert found.fees.max_fee_per_gas_wei_max == 200 * 10**9
    assert found.gate.transaction_cost_wei_max == 2 * 10**16
    assert found.feeds[0].sources == ("main",)
    venue = found.venues[0]
    assert (venue.kind, venue.id, venue.objective, venue.start_block) == (
        "acme",
        "acme",
        "profit",
        0,
    )
    assert venue.options.model_dump()["window_s"] == 30
    assert type(found.sources[0].options).__module__ == "keeper.prices.tape"
    assert found.secrets() == {}


def test_settings_are_frozen(file: Path) -> None:
    found = read(file, GOOD)
    with pytest.raises(ValueError, match="frozen"):
        found.gate.hold_ms = 1


WRONG = """\
[keeper]
state_dri = "x"
[log]
level = "loud"
[chain]
id = "ten"
http = ["htp://x", { env = "A", file = "b" }, { fil = "b" }, "http://u:hunter2@host"]
native_feed = "ETH-USD"
poll_ms = 1.5
rpc_attempts_max = true
[fees]
replacement_bump_ppm = 100000
[gate]
backoff_ms_min = 5000
backoff_ms_max = 50
p_win_ppm = 0
[[wallets]]
key = "hunter2"
keystore = "k.json"
[gat]
limit = 1
[[sources]]
kind = "tap"
name = "main"
[[sources]]
kind = "tape"
name = "main"
login = { user = 5, pasword = "hunter2" }
[[feeds]]
id = "ETH/USD"
sources = ["main", "man"]
age_ms_max = 0
[[feeds]]
id = "ETH-USD"
sources = []
[[feeds]]
id = "BTC+USD"
[[venues]]
kind = "acme"
id = "v"
address = "0x12"
feeds = { eth = "ETH/USDC" }
solvency_budget_wei = 5
reward_feed = "SNX"
[[venues]]
kind = "acme"
id = "v"
address = "0x00000000000000000000000000000000000000aa"
objective = "fame"
window = 3
feeds = {
"""
EXPECTED = [
    (2, "keeper.state_dri", "unknown key; did you mean state_dir? known keys: state_dir"),
    (4, 'log.level = "loud"', "should be 'debug', 'info', 'warning' or 'error'"),
    (6, 'chain.id = "ten"', "should be a whole number from 1 to"),
    (7, "chain.http[0] = (hidden)", "should be a URL that starts with http:// or https://"),
    (7, "chain.http[1]", "should have exactly one of env and file"),
    (7, "chain.http[2].fil", "unknown key; did you mean file? known keys: env, file"),
    (7, "chain.http[3] = (hidden)", "should not hold a password"),
    (9, "chain.poll_ms = 1.5", "should be a whole number from 10 to 60000 (Milliseconds between"),
    (10, "chain.rpc_attempts_max = true", "should be a whole number from 1 to 20"),
    (12, "fees.replacement_bump_ppm = 100000", "should be a whole number from 125000 to"),
    (14, "gate.backoff_ms_min", "should not be more than backoff_ms_max (5000 > 50)"),
    (16, "gate.p_win_ppm = 0", "should be a whole number from 1 to 1000000"),
    (17, "wallets[0]", "exactly one of key, keystore and signer"),
    (17, "wallets[0].password", 'is missing; a keystore needs one: password = { file = "path" }'),
    (18, "wallets[0].key = (hidden)", 'should say where the secret is: { file = "path" }'),
    (20, "gat", "unknown key; did you mean gate? known keys: keeper, log, http"),
    (
        23,
        'sources[0].kind = "tap"',
        "unknown kind; did you mean tape? kinds in keeper/prices: ",
    ),
    (25, "sources[1].host", "is missing; add it (Host.)"),
    (27, 'sources[1].name = "main"', "is taken by the one on line 24; choose another"),
    (28, "sources[1].login.user = 5", "should be a valid string (Who.)"),
    (
        28,
        "sources[1].login.pasword",
        "unknown key; did you mean password? known keys: user, password",
    ),
    (31, 'feeds[0].sources[1] = "man"', "no such source; did you mean main? sources: main"),
    (32, "feeds[0].age_ms_max = 0", "should be a whole number from 1 to 90000000"),
    (34, 'feeds[1].id = "ETH-USD"', 'has the same MQTT topic as "ETH/USD"'),
    (35, "feeds[1].sources", "is missing; name at least one source (or a denominator"),
    (36, "feeds[2].sources", "is missing; name at least one source"),
    (37, 'feeds[2].id = "BTC+USD"', "should match ^[A-Za-z0-9]"),
    (41, 'venues[0].address = "0x12"', "should match ^0x[0-9a-f]{40}$ (The contract.)"),
    (43, "venues[0].solvency_budget_wei = 5", 'has no effect without objective = "solvency"'),
    (
        44,
        'venues[0].reward_feed = "SNX"',
        "there is no such feed; feeds: ETH/USD, ETH-USD, BTC+USD",
    ),
    (47, 'venues[1].id = "v"', "is taken by the one on line 40; choose another"),
    (49, 'venues[1].objective = "fame"', "should be 'profit' or 'solvency'"),
    (
        50,
        "venues[1].window",
        "unknown key; did you mean window_s? known keys: kind, id, objective,",
    ),
]


def test_every_mistake_is_told_at_once_with_its_line(file: Path) -> None:
    found = mistakes(file, WRONG.removesuffix("feeds = {\n"))
    for line, key, mend in EXPECTED:
        hits = [text for text in found if text.startswith(f"{line}: {key}")]
        assert any(mend in text for text in hits), (line, key, mend, found)
    assert len(found) == len(EXPECTED), found
    assert [int(text.split(":")[0]) for text in found] == sorted(line for line, _, _ in EXPECTED)
    assert "hunter2" not in "".join(found)


@pytest.mark.parametrize(
    ("wallets", "more", "mend"),
    [
        (["main"], 'wallet = "vault"', "there is no such wallet; wallets: main"),
        (["vault"], 'wallet = "vault"', "is the only wallet and acts nowhere; add one that does"),
        (
            ["main", "vault"],
            'wallet = "vault"\nbelow_wei = 9\nto_wei = 8',
            "more than to_wei (9 > 8)",
        ),
    ],
)
def test_a_treasury_that_cannot_be_one(
    file: Path, wallets: list[str], more: str, mend: str
) -> None:
    tables = "".join(f'[[wallets]]\nname = "{name}"\nkey = {{ env = "K" }}\n' for name in wallets)
    (found,) = mistakes(file, f"{GOOD}\n{tables}[treasury]\n{more}\n")
    assert mend in found


def test_text_that_is_no_toml_names_the_line(file: Path) -> None:
    (found,) = mistakes(file, WRONG)
    assert found.startswith("51: not valid TOML: ")
    (found,) = mistakes(file, GOOD + "\n[chain]\n")
    assert found.startswith("22: not valid TOML: column 7: Cannot declare ('chain',) twice")


@pytest.mark.parametrize(
    ("text", "line", "mend"),
    [
        (b"a = " + b"1" * 5000, 1, "an integer is far too long"),
        (b"\n\na = " + b"[" * 5000 + b"]" * 5000, 1, f"nested deeper than {NESTING_MAX}"),
        (b"a = " + b"[" * 40 + b"]" * 40, 1, f"nested deeper than {NESTING_MAX}"),
        (b"\n# \xff\n", 2, "is not UTF-8"),
        (b"a = 1\r\nb = \r\n", 2, "not valid TOML"),
        (b"a = 1\n\nb = '''", 3, "not valid TOML"),
    ],
)
def test_hostile_text_is_refused(file: Path, text: bytes, line: int, mend: str) -> None:
    file.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.problems[0].startswith(f"{file}:{line}: ")
    assert mend in caught.value.problems[0]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: there is no such file; start from"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="is no file name"):
        load("a\0b")
    (tmp_path / "big.toml").write_bytes(b"#" * (CONFIG_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="has more than 1000000 bytes"):
        load(tmp_path / "big.toml")


def test_empty_config_names_everything_that_is_required(file: Path) -> None:
    found = mistakes(file, "")
    assert [text.split(": ")[1] for text in found] == [
        "sources",
        "feeds",
        "venues",
        "chain.id",
        "chain.http",
        "chain.native_feed",
    ]
    assert "1: sources: is missing; add at least one [[sources]] table" in found


def test_single_brackets_where_double_ones_belong(file: Path) -> None:
    found = mistakes(file, GOOD.replace("[[feeds]]", "[feeds]"))
    assert (
        "12: feeds = a table: should be an array of tables; write [[feeds]] instead of [feeds]"
        in (found)
    )
    found = mistakes(file, GOOD.replace("[chain]", "[[chain]]"))
    assert found == ["2: chain = an array of 1: should be a table"]


def test_unknown_kind_lists_the_kinds(file: Path) -> None:
    (found,) = mistakes(file, GOOD.replace('"acme"', '"acne"'))
    assert (
        'venues[0].kind = "acne": unknown kind; did you mean acme? kinds in keeper/venues: '
        in found
    )
    for no_kind in ("_template", "arithmetic", "..acme", "os.path", "", "board", "ACME", "a" * 999):
        with pytest.raises(
            ConfigError, match=r"unknown kind; .*kinds in keeper/venues: .*\bacme\b"
        ):
            find_module("venues", no_kind)
    assert find_module("venues", "acme").__name__ == "keeper.venues.acme"
    assert "acme" in kinds("venues")
    assert not {"_template", "arithmetic"} & set(kinds("venues"))
    assert not {"board", "half"} & set(kinds("prices"))


def test_a_kind_may_want_common_keys_as_well(file: Path, tmp_path: Path) -> None:
    (tmp_path / "rooms/venues/acme.py").write_text(
        VENUE.replace("    address", "    id: str\n    address")
    )
    found = read(file, GOOD)
    assert found.venues[0].options.model_dump()["id"] == found.venues[0].id == "acme"
    assert [found.show()["venues"][0][key] for key in ("id", "window_s")] == ["acme", 30]
    (missing,) = mistakes(file, GOOD.replace('id = "acme"', ""))
    assert missing.startswith("16: venues[0].id: is missing")
    (unknown,) = mistakes(file, add("[[venues]]", "window = 3"))
    assert unknown.count(" id,") == 1


def test_feeds_of_a_venue_must_exist(file: Path) -> None:
    (found,) = mistakes(file, GOOD.replace('eth = "ETH/USD"', 'eth = "ETH/USDT"'))
    assert found.startswith(
        '20: venues[0].feeds.eth = "ETH/USDT": there is no such feed; did you mean'
    )


def test_digest_follows_the_effective_config(file: Path) -> None:
    base = read(file, GOOD).digest
    assert re.fullmatch("[0-9a-f]{64}", base)
    assert read(file, add("[log]", 'level = "info"')).digest == base
    assert read(file, "# a comment\n" + GOOD).digest == base
    assert read(file, add("[log]", 'level = "debug"')).digest != base
    assert read(file, GOOD.replace("8545", "8546")).digest != base
    assert read(file, GOOD.replace('host = "localhost"', 'host = "h"')).digest != base


def test_every_model_describes_its_keys() -> None:
    def models(model: type[BaseModel]) -> set[type[BaseModel]]:
        return {model}.union(*(models(inner) for inner in model.__subclasses__()))

    ours = {model for model in models(Table) if model.__module__.startswith("keeper.config")}
    assert len(ours) > 10
    for model in ours:
        for name, field in model.model_fields.items():
            documented = field.description or name in {"options", *Settings.model_fields}
            assert documented, f"{model.__name__}.{name}"


RULES = """
[[feeds]]
id = "A"
sources = ["main"]
quorum = 2
contract_source = "mian"
denominator = "ETH/USD"
market_hours = ["Mon 9-17"]
[[feeds]]
id = "B"
denominator = "C"
[[feeds]]
id = "C"
numerator = "ETH/USDC"
denominator = "B"
market_timezone = "Mars"
[[feeds]]
id = "D"
numerator = "ETH/USD"
"""


def test_feeds_that_can_have_no_price_are_refused(file: Path) -> None:
    first = GOOD.count("\n") + 2
    found = mistakes(file, GOOD + RULES)
    for line, key, mend in (
        (4, "feeds[1].quorum = 2", "should not be more than its 1 sources"),
        (5, 'feeds[1].contract_source = "mian"', "none of its sources; did you mean main?"),
        (6, 'feeds[1].denominator = "ETH/USD"', "makes it a derived feed, which has no sources"),
        (7, "feeds[1].market_hours", "no span of market hours: 'Mon 9-17'; write one as Mon-Fri"),
        (9, 'feeds[2].id = "B"', "is derived from itself"),
        (12, 'feeds[3].id = "C"', "is derived from itself"),
        (13, 'feeds[3].numerator = "ETH/USDC"', "there is no such feed; did you mean ETH/USD?"),
        (15, "feeds[3].market_timezone", "there is no time zone 'Mars'"),
        (16, "feeds[4].sources", "is missing; name at least one source (or a denominator"),
    ):
        hits = [text for text in found if text.startswith(f"{first + line - 1}: {key}")]
        assert any(mend in text for text in hits), (line, key, mend, found)
