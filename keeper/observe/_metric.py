"""What a row of the table of metrics is, and the short ways to write one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

# from half a millisecond (a decision) to a minute (five blocks of the slowest chain)
BUCKETS_S = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)

# from a microsecond (a tick at which nobody is near) to a gap with a million accounts
TICK_BUCKETS_S = (
    *(1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4),
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
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
    return Metric(f"keeper_{name}", "counter", text, labels, unit, zeroed)


def gauge(name: str, text: str, *, unit: str = "", **labels: Values) -> Metric:
    return Metric(f"keeper_{name}", "gauge", text, labels, unit)


def histogram(
    name: str, text: str, *, buckets_s: tuple[float, ...] = BUCKETS_S, **labels: Values
) -> Metric:
    return Metric(f"keeper_{name}", "histogram", text, labels, "seconds", buckets_s=buckets_s)


def one_of(*values: Iterable[str]) -> frozenset[str]:
    return frozenset(str(value) for group in values for value in group)
