"""The liquidation map as a picture: bars in a terminal, an SVG by matplotlib (extra ``plot``)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from keeper.errors import FatalError

Document = Mapping[str, Any]

BLOCKS = " ▁▂▃▄▅▆▇█"
LEVELS = 8  # of a block
SHADE = "░"
ROWS = 6  # a panel's height in lines
LABEL = 8  # columns beside the bars
PANELS_MAX = 12
OWN, OTHER = "red", "bright_black"
PCT = 4  # characters of the longest move: -50%
WIDE = 40  # columns of bars that have room for five moves below


def short(usd: float) -> str:
    """Return an amount in few characters: 31.3M."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(usd) >= 0.9995 * unit:
            return f"{usd / unit:.3g}{letter}"
    return f"{usd:.3g}"


class Panel:
    """One ray, ready to be drawn: USD by move."""

    def __init__(self, venue: str, name: str, ray: Document) -> None:
        """Take what the document has; ``own`` is the part in markets that follow the price."""
        self.markets = list(ray["markets_usd"])
        self.notional: list[float] = ray["notional_usd"]
        self.own = [sum(values) for values in zip(*ray["markets_usd"].values(), strict=True)]
        self.own = self.own or [0.0] * len(self.notional)
        self.accounts: list[int] = ray["accounts"]
        self.peak = max(self.notional)
        price = "" if ray["price_usd"] is None else f" from {ray['price_usd']:,.6g}"
        moved = "all prices" if name == "all" else f"{name}{price}"
        named = "" if name == "all" or not self.markets else f": {', '.join(self.markets)}"
        self.title = f"{venue}, {moved}{named}"


def panels(document: Document) -> list[Panel]:
    """Return the rays at which something can be liquidated, all prices first, then the largest."""
    found = [
        Panel(id_, name, ray)
        for id_, venue in document["venues"].items()
        for name, ray in venue["rays"].items()
    ]
    found = [panel for panel in found if panel.peak]
    found.sort(key=lambda panel: ("all prices" not in panel.title, -panel.peak))
    return found


def terminal(document: Document, width: int) -> Group:
    """Return the map for a terminal of so many columns."""
    moves: Sequence[int] = document["moves_pct"]
    chosen = panels(document)
    said = "notional that can be liquidated once a price has moved, USD of now\n"
    key = ("█ in its markets", OWN), ", ", (f"{SHADE} in others", OTHER)
    parts: list[Text] = [Text.assemble(said, *key)]
    for panel in chosen[:PANELS_MAX]:
        parts += [Text(), *_drawn(panel, moves, width)]
    if len(chosen) > PANELS_MAX:
        parts.append(Text(f"\nand {len(chosen) - PANELS_MAX} smaller ones: --json has them"))
    if not chosen:
        parts.append(Text(f"\nnothing from {moves[0]} to {moves[-1]:+} %"))
    return Group(*parts, *(Text(line, "yellow") for line in unknown(document)))


def unknown(document: Document) -> list[str]:
    """Return what the map does not show, a line each."""
    lines = [f"{id_}: left out, {why}" for id_, why in document["left_out"].items()]
    for id_, venue in document["venues"].items():
        missing = venue["unknown"]
        unpriced, failed = missing["unpriced_accounts"], missing["quarantined_accounts"]
        if unpriced or failed:
            said = f"{unpriced} accounts without a price, {failed} set aside by a bug"
            lines.append(f"{id_}: {said}: not shown")
    return lines


def _drawn(panel: Panel, moves: Sequence[int], width: int) -> list[Text]:
    """Draw one panel: a title, rows of bars, the moves below."""
    room = max(width - LABEL - 2, PCT)
    each = max(1, room // len(moves))  # columns a move
    every = -(-len(moves) // room)  # moves a column, where there is no room for each
    middle = moves.index(0)
    places = [k for k in range(len(moves)) if (k - middle) % every == 0]
    lines = [Text(panel.title, "bold")]
    for row in range(ROWS, 0, -1):
        label = short(panel.peak) if row == ROWS else "0" if row == 1 else ""
        line = Text(f"{label:>{LABEL}} ")
        for k in places:
            block, style = _cell(panel.own[k], panel.notional[k], panel.peak, row)
            line.append(block * each, style)
        lines.append(line)
    columns = len(places) * each
    few = (places[0], middle, places[-1])
    several = (*few, middle // 2, middle + (len(moves) - middle) // 2)
    lines.append(_axis(several if columns >= WIDE else few, places, moves, each))
    return lines


def _axis(marks: Sequence[int], places: Sequence[int], moves: Sequence[int], each: int) -> Text:
    """Return the line below the bars, with the moves at these places."""
    line = [" "] * (len(places) * each + PCT)
    for mark in marks:
        place = min(range(len(places)), key=lambda k: abs(places[k] - mark))
        move = moves[places[place]]
        text = f"{move:+}%" if move else "now"
        first = max(0, place * each + each // 2 - len(text) // 2)
        line[first : first + len(text)] = text
    return Text(" " * (LABEL + 1) + "".join(line).rstrip(), "dim")


def _cell(own: float, whole: float, peak: float, row: int) -> tuple[str, str]:
    """Return a block of a bar and its colour: the own part stands below the others', shaded."""
    level = round(whole / peak * ROWS * LEVELS) or (1 if whole else 0)
    own_level = round(own / peak * ROWS * LEVELS) or (1 if own else 0)
    filled = min(max(level - (row - 1) * LEVELS, 0), LEVELS)
    own_filled = min(max(own_level - (row - 1) * LEVELS, 0), LEVELS)
    if own_filled:
        return BLOCKS[own_filled], OWN
    return (SHADE, OTHER) if filled * 2 >= LEVELS or (filled and row == 1) else (" ", OTHER)


def svg(document: Document, file: Path) -> None:
    """Write the map as an SVG; raises FatalError with the mend without matplotlib or a place."""
    try:
        from matplotlib import rc_context  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        msg = (
            "an SVG needs matplotlib, which is not installed: "
            "pip install 'liquidation-keeper[plot]'"
        )
        raise FatalError(msg) from None
    moves, chosen = document["moves_pct"], panels(document)[:PANELS_MAX]
    columns = 2 if len(chosen) > 1 else 1
    rows = max(1, -(-len(chosen) // columns))
    figure = Figure(figsize=(6.5 * columns, 0.6 + 2.9 * rows), layout="constrained")
    figure.suptitle("Notional that can be liquidated once a price has moved")
    for place, panel in enumerate(chosen, start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.bar(moves, panel.notional, 1.8, color="0.75", label="in other markets")
        axes.bar(moves, panel.own, 1.8, color="firebrick", label="in its markets")
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel("move of the price, %")
        axes.set_ylabel("USD of now")
        axes.yaxis.set_major_formatter(lambda value, _at: short(value))
        axes.axvline(0, color="0.3", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        if place == 1:
            axes.legend(frameon=False, fontsize=8)
    notes = unknown(document) if chosen else ["nothing can be liquidated", *unknown(document)]
    if notes:
        figure.supxlabel("; ".join(notes), fontsize=8)
    try:
        with rc_context({"svg.fonttype": "none"}):  # text that can be searched and selected
            figure.savefig(file, format="svg", metadata={"Date": None})
    except OSError as error:
        msg = f"{file}: cannot be written ({error.strerror}); choose another --svg"
        raise FatalError(msg) from None
