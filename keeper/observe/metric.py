"""A row of the table of metrics, and how rows are made."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

# from half a millisecond (a decision) to a minute (five blocks of the slowest chain)
BUCKETS_S = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Given:
    """Label values known when the keeper starts, most of them from the configuration.

    They are handed to ``Metrics.know(what, …)``.
    """

    what: str


Values = Given | frozenset[str]
"""Where a label's values come from: given at the start, or a set fixed here."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table. ``unit``: the base unit at the end of the name, or "".

    ``zeroed``: every series starts at 0. A counter that appears with its first event shows no
    increase to a query, so those that alerts watch are zeroed.
    """

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, Values] = field(default_factory=dict)
    unit: str = ""
    zeroed: bool = False
    buckets_s: tuple[float, ...] = BUCKETS_S


def counter(
    name: str, text: str, *, unit: str = "", zeroed: bool = True, **labels: Values
) -> Metric:
    """Make a row of a counter."""
    return Metric(f"keeper_{name}", "counter", text, labels, unit, zeroed)


def gauge(name: str, text: str, *, unit: str = "", **labels: Values) -> Metric:
    """Make a row of a gauge."""
    return Metric(f"keeper_{name}", "gauge", text, labels, unit)


def histogram(
    name: str, text: str, *, buckets_s: tuple[float, ...] = BUCKETS_S, **labels: Values
) -> Metric:
    """Make a row of a histogram, of durations in seconds."""
    return Metric(f"keeper_{name}", "histogram", text, labels, "seconds", buckets_s=buckets_s)


def label_set(*values: Iterable[str]) -> frozenset[str]:
    """Return the values of a label that are fixed."""
    return frozenset(str(value) for group in values for value in group)


VENUE = Given("venue")
