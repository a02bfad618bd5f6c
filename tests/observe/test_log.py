"""What comes out of the logs, and what never does."""

import io
import json
import logging
import sys
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from keeper.observe.log import MASK, Level, Style, blank, configure, last_words, redact

PRIVATE_KEY = "0x" + "4c0883a6" * 8
ADDRESS = "0x" + "ab" * 20


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _fail(*args: object) -> None:
    raise ZeroDivisionError(*args)


def _lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_off_a_terminal_each_line_is_a_json_object() -> None:
    out = io.StringIO()
    configure(stream=out)
    structlog.get_logger().info("settled", venue="perps", reward_wei=3 * 10**20, path=io)
    (line,) = _lines(out)
    assert line["event"] == "settled"
    assert line["level"] == "info"
    assert line["venue"] == "perps"
    assert line["reward_wei"] == 3 * 10**20
    when = datetime.fromisoformat(line["timestamp"])
    assert when.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - when) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("style", "terminal", "is_json"),
    [
        ("auto", False, True),
        ("auto", True, False),
        ("json", True, True),
        ("console", False, False),
    ],
)
def test_the_style(style: Style, *, terminal: bool, is_json: bool) -> None:
    out = Terminal() if terminal else io.StringIO()
    configure(style=style, stream=out)
    structlog.get_logger().info("settled", venue="perps")
    assert out.getvalue().startswith("{") == is_json
    assert ("\x1b[" in out.getvalue()) == (terminal and not is_json)


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    structlog.get_logger().info("settled")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "settled"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_only_what_is_severe_enough_is_written(level: Level, expected: list[str]) -> None:
    out = io.StringIO()
    configure(level, stream=out)
    logger = structlog.get_logger()
    for name in ("debug", "info", "warning", "error"):
        getattr(logger, name)("event")
    assert [line["level"] for line in _lines(out)] == expected


def test_filtered_out_lines_cost_no_processing() -> None:
    configure("info", stream=io.StringIO())

    class Explosive:
        def __repr__(self) -> str:
            raise AssertionError

    logger = structlog.get_logger().bind()
    logger.debug("event", value=Explosive())
    assert logger.debug.__name__ == "_nop"  # structlog's own empty method


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_traceback_is_whole_and_shows_no_local_variables(style: Style) -> None:
    out = io.StringIO()
    configure(style=style, stream=out)

    def sign(key: str) -> None:
        raise ZeroDivisionError(len(key))

    try:
        sign(PRIVATE_KEY)
    except ZeroDivisionError:
        structlog.get_logger().exception("quarantined")
    text = out.getvalue()
    assert "in sign" in text
    assert "ZeroDivisionError: 66" in text
    assert PRIVATE_KEY not in text
    if style == "json":
        (line,) = _lines(out)
        assert line["exception"].startswith("Traceback")


def test_libraries_come_out_in_the_same_form_from_warning_upwards() -> None:
    out = io.StringIO()
    configure("debug", stream=out)
    library = logging.getLogger("aiohttp.server")
    library.info("noise")
    library.warning("unusual: %s", "header")
    try:
        _fail()
    except ZeroDivisionError:
        library.exception("failed")
    first, second = _lines(out)
    assert (first["event"], first["level"]) == ("unusual: header", "warning")
    assert first["logger"] == "aiohttp.server"
    assert "timestamp" in first
    assert "ZeroDivisionError" in second["exception"]
    assert "_record" not in first


def test_libraries_obey_a_higher_level_and_are_redacted() -> None:
    out = io.StringIO()
    configure("error", stream=out)
    logging.getLogger("mqtt").warning("hidden")
    logging.getLogger("mqtt").error("lost %s", "mqtt://keeper:hunter22@broker:1883")
    (line,) = _lines(out)
    assert line["event"] == f"lost mqtt://{MASK}@broker:1883"


def test_python_warnings_are_logged() -> None:
    out = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure(stream=out)
        warnings.warn("deprecated thing", UserWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    (line,) = _lines(out)
    assert "deprecated thing" in line["event"]
    assert line["logger"] == "py.warnings"


def test_configuring_again_replaces_the_old_way_out() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure(stream=first)
    configure(stream=second)
    logging.getLogger("mqtt").warning("lost")
    structlog.get_logger().info("settled")
    assert first.getvalue() == ""
    assert [line["event"] for line in _lines(second)] == ["lost", "settled"]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("private_key", PRIVATE_KEY, MASK),
        ("privateKey", PRIVATE_KEY, MASK),
        ("wallet_private_key", "short", MASK),
        ("private_key", int(PRIVATE_KEY, 16), MASK),
        ("private_key", None, None),
        ("key", PRIVATE_KEY, MASK),
        ("key", PRIVATE_KEY[2:].upper(), MASK),
        ("key", bytes(32), MASK),
        ("key", "ETH/USD", "ETH/USD"),
        ("token", ADDRESS, ADDRESS),
        ("token", PRIVATE_KEY, MASK),
        ("api_key", "abc", MASK),
        ("password", "hunter2", MASK),
        ("Authorization", "Bearer abc", MASK),
        ("secret", ["a", "b"], MASK),
        ("has_secret", True, True),
        ("tx_hash", PRIVATE_KEY, PRIVATE_KEY),
        ("keys", 3, 3),
        ("error", "https://user:pass@node.example/x", f"https://{MASK}@node.example/x"),
        ("error", "mail a@b.c about https://node.example", "mail a@b.c about https://node.example"),
        ("options", {"broker": {"password": "x", 1: 2}}, {"broker": {"password": MASK, "1": 2}}),
        ("options", [{"key": PRIVATE_KEY}, ("a", 1.5)], [{"key": MASK}, ["a", 1.5]]),
    ],
)
def test_redaction(name: str, value: object, shown: object) -> None:
    assert redact(None, "info", {name: value}) == {name: shown}


@given(
    st.recursive(
        st.just(PRIVATE_KEY),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=2),
            st.dictionaries(st.sampled_from(["key", "secret", "token"]), inner, min_size=1),
        ),
        max_leaves=20,
    )
)
def test_a_key_under_its_name_is_found_however_deep(value: object) -> None:
    shown = redact(None, "info", {"key": value})
    assert PRIVATE_KEY not in json.dumps(shown)


@pytest.mark.parametrize("style", ["json", "console"])
def test_known_secrets_are_blanked_wherever_they_turn_up(style: Style) -> None:
    out = io.StringIO()
    awkward = 'pass"word\\1'
    configure(style=style, stream=out, secrets=["k3y-of-the-node", awkward, "id"])
    try:
        _fail("wss://node.example/v2/k3y-of-the-node refused")
    except ZeroDivisionError:
        structlog.get_logger().exception("lost", identity="identical", said=f"<{awkward}>")
    logging.getLogger("aiohttp").error("at /v2/k3y-of-the-node")
    text = out.getvalue()
    assert "k3y-of-the-node" not in text
    assert awkward not in text
    assert "identical" in text
    assert f"ZeroDivisionError: wss://node.example/v2/{MASK} refused" in text
    assert f"at /v2/{MASK}" in text
    if style == "json":
        assert _lines(out)[0]["said"] == f"<{MASK}>"


def test_the_exception_info_survives_redaction() -> None:
    try:
        _fail()
    except ZeroDivisionError:
        info = sys.exc_info()
        assert redact(None, "error", {"exc_info": info})["exc_info"] is info


def test_what_goes_elsewhere_is_without_secrets_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure(stream=io.StringIO(), secrets=["hunter2hunter2"])
    assert blank("no access with hunter2hunter2") == f"no access with {MASK}"
    last_words(ZeroDivisionError, ZeroDivisionError("hunter2hunter2"), None)
    assert capsys.readouterr().err == f"ZeroDivisionError: {MASK}\n"
    configure(stream=io.StringIO())
    assert blank("hunter2hunter2") == "hunter2hunter2"
