"""The metrics registry: ``ports.Telemetry`` over prometheus-client, with cached label children.

Which metrics there are stands in ``catalogue.py``. Label values come from closed sets; what is in
none becomes ``unknown``, so that neither a stranger's message nor a slip of ours can grow the
number of series.
"""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from itertools import product
from typing import Generic, TypeVar

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    exposition,
)
from prometheus_client.openmetrics import exposition as openmetrics

from keeper.observe.catalogue import FEED, TABLE, VERSION, Given, Metric

log = structlog.get_logger(__name__)

UNKNOWN = "unknown"
_OPENMETRICS = "application/openmetrics-text"
_OPENMETRICS_TYPE = f"{_OPENMETRICS}; version=1.0.0; charset=utf-8"
_TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ChildT = TypeVar("_ChildT", Counter, Gauge, Histogram)
_Given = Mapping[str, AbstractSet[str]]


class _Family(Generic[_ChildT]):
    """One metric of the table and its children, one for each combination of label values."""

    def __init__(
        self, metric: Metric, parent: _ChildT, given: _Given, registry: CollectorRegistry
    ) -> None:
        self.metric = metric
        self._parent: _ChildT = parent
        self._given = given
        self._registry = registry
        self._children: dict[tuple[tuple[str, str], ...], _ChildT] = {}
        self._warned: set[str] = set()
        # a gauge without labels would show 0 before it is known: it is registered when first set
        self._late = metric.kind == "gauge" and not metric.labels
        if not self._late:
            registry.register(parent)

    def child(self, labels: Mapping[str, str]) -> _ChildT:
        key = tuple(labels.items())
        child = self._children.get(key)
        return self._find(key, labels) if child is None else child

    def _find(self, key: tuple[tuple[str, str], ...], labels: Mapping[str, str]) -> _ChildT:
        if labels.keys() != self.metric.labels.keys():
            msg = f"{self.metric.name} has labels {list(self.metric.labels)}, got {list(labels)}"
            raise ValueError(msg)
        if self._late:
            self._late = False
            self._registry.register(self._parent)
        values = {name: self._admit(name, labels[name]) for name in self.metric.labels}
        child: _ChildT = self._parent.labels(**values) if values else self._parent
        if values == labels:  # strangers' values must not fill the cache either
            self._children[key] = child
        return child

    def _admit(self, label: str, value: str) -> str:
        known = self.known(label)
        if value in known:
            return value
        expected = self.metric.labels[label] == FEED  # anybody may name a feed that is none of ours
        if not expected and label not in self._warned:
            self._warned.add(label)
            log.warning("label value not in the table", metric=self.metric.name, label=label)
        return UNKNOWN

    def known(self, label: str) -> AbstractSet[str]:
        values = self.metric.labels[label]
        return self._given[values.what] if isinstance(values, Given) else values

    def zero(self) -> None:
        """Let every series that is known now start at 0, if the table says so."""
        if self.metric.zeroed and self.metric.labels:
            for values in product(*map(self.known, self.metric.labels)):
                self._parent.labels(*values)


class Metrics:
    """Counters, gauges and histograms by full name, for one process (``ports.Telemetry``).

    Change them on the event loop; ``render`` may run in a thread.
    """

    def __init__(self, version: str) -> None:
        """Build every metric of the table, beside the process's own (memory, CPU, files)."""
        # no second series beside each one, that no query here asks for
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._given: dict[str, set[str]] = {
            values.what: set()
            for metric in TABLE
            for values in metric.labels.values()
            if isinstance(values, Given)
        }
        self._counters: dict[str, _Family[Counter]] = {}
        self._gauges: dict[str, _Family[Gauge]] = {}
        self._histograms: dict[str, _Family[Histogram]] = {}
        self._refreshers: list[Callable[[], None]] = []
        for metric in TABLE:
            self._add(metric)
        self.know(VERSION.what, [version])
        self.gauge("keeper_build_info", 1, version=version)

    def _add(self, metric: Metric) -> None:
        name, text, labels, unit = metric.name, metric.help, tuple(metric.labels), metric.unit
        given, registry = self._given, self._registry
        match metric.kind:
            case "counter":
                counter = Counter(name, text, labels, unit=unit, registry=None)
                family = self._counters[name] = _Family(metric, counter, given, registry)
                family.zero()
            case "gauge":
                gauge = Gauge(name, text, labels, unit=unit, registry=None)
                self._gauges[name] = _Family(metric, gauge, given, registry)
            case "histogram":
                buckets = metric.buckets_s
                histogram = Histogram(name, text, labels, unit=unit, registry=None, buckets=buckets)
                self._histograms[name] = _Family(metric, histogram, given, registry)

    def know(self, what: str, values: Iterable[str]) -> None:
        """Add to a set of label values; ``what``: see the ``Given`` ones in the catalogue.

        Zeroed counters get their series. Raises KeyError when no label takes values of this sort.
        """
        self._given[what].update(values)
        for family in self._counters.values():
            family.zero()

    def count(self, metric: str, amount: float = 1.0, /, **labels: str) -> None:
        """Add to a counter.

        Raises KeyError for a name that is no counter of the table, ValueError for other labels than
        the table's or a negative amount. A label value from outside its set counts as ``unknown``.
        """
        self._counters[metric].child(labels).inc(amount)

    def gauge(self, metric: str, value: float, /, **labels: str) -> None:
        """Set a gauge; raises as ``count`` does."""
        self._gauges[metric].child(labels).set(value)

    def observe(self, metric: str, seconds: float, /, **labels: str) -> None:
        """Put a duration into a histogram; raises as ``count`` does."""
        self._histograms[metric].child(labels).observe(seconds)

    def counted(self, metric: str, /, **labels: str) -> float:
        """Return what a counter has counted so far; raises as ``count`` does."""
        samples = self._counters[metric].child(labels).collect()
        return float(next(iter(samples)).samples[0].value)

    def before_render(self, refresh: Callable[[], None]) -> None:
        """Have ``refresh`` called by ``refresh()``: it sets gauges that change by themselves."""
        self._refreshers.append(refresh)

    def refresh(self) -> None:
        """Bring ages and sizes up to date; on the event loop, before ``render``."""
        for refresh in self._refreshers:
            refresh()

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition and its content type: OpenMetrics when ``accept`` names it.

        Takes about 30 ms for 400 series: call it in a thread.
        """
        if _OPENMETRICS in accept:
            body: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return body, _OPENMETRICS_TYPE
        return exposition.generate_latest(self._registry), _TEXT_TYPE
