"""One line a key, and what two configs differ in."""

from pathlib import Path

from keeper.config import difference, flat, load
from keeper.config.changes import Change

EXAMPLE = Path(__file__).parents[2] / "config.toml"


def changed(tmp_path: Path, old: str, new: str) -> list[Change]:
    text = EXAMPLE.read_text()
    assert text.count(old) == 1, old
    other = tmp_path / "other.toml"
    other.write_text(text.replace(old, new))
    return difference(load(EXAMPLE), load(other, base=EXAMPLE.parent))


def test_every_key_has_a_line_with_its_value() -> None:
    lines = flat(load(EXAMPLE))
    assert lines["chain.poll_ms"] == "500"
    assert lines["log.level"] == '"info"'
    assert lines["venues.demo.kind"] == '"demo_market"'
    assert len(lines) > 50


def test_the_same_file_differs_in_nothing() -> None:
    assert difference(load(EXAMPLE), load(EXAMPLE)) == []


def test_a_changed_key_is_told_with_both_values(tmp_path: Path) -> None:
    assert changed(tmp_path, "poll_ms = 500", "poll_ms = 400") == [
        Change("chain.poll_ms", "500", "400")
    ]


def test_a_key_that_comes_is_told(tmp_path: Path) -> None:
    assert changed(tmp_path, 'id = "demo"', 'id = "demo"\nreward_feed = "ETH/USD"') == [
        Change("venues.demo.reward_feed", None, '"ETH/USD"')
    ]


def test_a_new_api_key_in_a_url_is_a_change_and_is_not_shown(tmp_path: Path) -> None:
    old = "http://127.0.0.1:8545"
    changes = changed(tmp_path, f'"{old}"', f'"{old}/v3/abcdef"')
    assert [change.key for change in changes] == ["chain.http"]
    assert "abcdef" not in str(changes)
