"""What a worker counts in plain numbers, and how Prometheus reads them: nothing is spent on a metric until somebody asks.

Whoever counts has `samples()`; a `Gathered` of all of them is one collector. Counting is `+= 1`, not `.labels(…).inc()`, which takes a
lock and a dictionary of labels for each file.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import structlog
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from export_service.metric_names import Kind, Metric


class Buckets:
    """A histogram in plain numbers."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> Iterator[tuple[str, float]]:
        """(`le`, count)."""
        total = 0
        for bound, count in zip((*map(float, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            yield str(bound), total


class Sample(NamedTuple):
    """`labels` in the order of the metric's own."""

    metric: Metric
    value: float | Buckets
    labels: tuple[str, ...] = ()


_FAMILIES: dict[Kind, Callable[..., Family]] = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
}
Source = Callable[[], Iterable[Sample]]


class Gathered:
    """A collector. `sources` are asked in the thread that serves /metrics, which is the worker's. One that fails is left out, and said
    once: who looks on must not end what he looks at."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self._failed: set[Source] = set()

    def collect(self) -> Iterator[Family]:
        families: dict[Metric, Family] = {}
        for source in self.sources:
            for metric, value, labels in self._ask(source):
                family = families.get(metric)
                if family is None:
                    family = families[metric] = _family(metric)
                if isinstance(family, HistogramMetricFamily):
                    assert isinstance(value, Buckets)
                    family.add_metric(labels, list(value.cumulative()), value.sum)
                else:
                    assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
                    assert not isinstance(value, Buckets)
                    family.add_metric(labels, value)
        yield from families.values()

    def _ask(self, source: Source) -> list[Sample]:
        try:
            return list(source())
        except Exception:
            if source not in self._failed:
                self._failed.add(source)
                structlog.get_logger().exception("Some metrics are missing: a source of them failed")
            return []


def _family(metric: Metric) -> Family:
    return _FAMILIES[metric.kind](metric.name.removesuffix("_total"), metric.says, labels=list(metric.labels))
