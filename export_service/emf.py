"""CloudWatch's embedded metric format: a line of JSON on stdout, which an agent or a log driver of AWS turns into metrics.

What the alarms of `deploy/cloudwatch` need, and no more: each of these is billed. Counts are of the time since the line before.
"""

import json
from collections.abc import Callable, Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from export_service import metric_names as names
from export_service.metric_names import Kind, Metric

Labels = dict[str, str]
Wanted = Callable[[Labels], bool]


class _Value(NamedTuple):
    """`of`: metrics, and which of their series; counters are added, of gauges the largest counts."""

    name: str
    unit: str
    of: tuple[tuple[Metric, Wanted], ...]


def _all(_: Labels) -> bool:
    return True


_VALUES = (
    _Value("CallbacksAnswered", "Count", ((names.CALLBACKS, _all),)),
    _Value("CallbacksFailed", "Count", ((names.CALLBACKS, lambda labels: labels["outcome"] != "SENT"),)),
    _Value("CallbacksDenied", "Count", ((names.CALLBACK_ERRORS, lambda labels: labels["kind"] == "denied"),)),
    _Value(
        "StepFunctionTimeouts",
        "Count",
        (
            (names.CALLBACK_ERRORS, lambda labels: labels["error"] == "TaskTimedOut"),
            (names.HEARTBEATS, lambda labels: labels["outcome"] == "refused"),
        ),
    ),
    _Value("JobsAccepted", "Count", ((names.JOBS_ACCEPTED, _all),)),
    _Value("JobsAcceptedWithToken", "Count", ((names.JOBS_ACCEPTED, lambda labels: labels["has_task_token"] == "true"),)),
    _Value("JobsEnded", "Count", ((names.JOBS_ENDED, _all),)),
    _Value("FilesSucceeded", "Count", ((names.DOWNLOADS, lambda labels: labels["outcome"] == "SUCCEEDED"),)),
    _Value("FilesFailed", "Count", ((names.DOWNLOADS, lambda labels: labels["outcome"] == "FAILED"),)),
    _Value("FileBytes", "Bytes", ((names.DOWNLOAD_BYTES, _all),)),
    _Value("DeadLetters", "Count", ((names.DEAD_LETTERS, _all),)),
    _Value("JobsStuck", "Count", ((names.JOBS_STUCK, _all),)),
    # A request is not committed until its job is handed out, nor tasks until they are downloaded: those may rightly take long.
    _Value("OldestLagSeconds", "Seconds", ((names.LAG_SECONDS, lambda labels: labels["role"] not in ("plan", "download")),)),
    _Value("QueueAgeSeconds", "Seconds", ((names.QUEUE_AGE, _all),)),
    _Value("TablesRecovering", "Count", ((names.RECOVERING, _all),)),
    _Value("Ready", "Count", ((names.READY, _all),)),
)
NAMES = frozenset(value.name for value in _VALUES)


class Emf:
    """`line` gives one, in the order of time."""

    def __init__(self, registry: CollectorRegistry, namespace: str) -> None:
        self._registry, self._namespace = registry, namespace
        self._before: dict[str, float] = {}

    def line(self, now: float) -> str:
        """`now`: seconds since the epoch. What this worker does not have is left out."""
        series: dict[str, list[tuple[Labels, float]]] = {}
        for family in self._registry.collect():
            for sample in family.samples:
                series.setdefault(sample.name, []).append((sample.labels, float(sample.value)))
        found: dict[str, float] = {}
        for value in _VALUES:
            values = list(_values(value.of, series))
            if value.of[0][0].kind is Kind.COUNTER:
                total = sum(values)
                found[value.name] = max(0.0, total - self._before.get(value.name, 0.0))
                self._before[value.name] = total
            elif values:
                found[value.name] = max(values)
        metrics = [{"Name": value.name, "Unit": value.unit} for value in _VALUES if value.name in found]
        directive = {"Namespace": self._namespace, "Dimensions": [[]], "Metrics": metrics}
        return json.dumps({"_aws": {"Timestamp": int(now * 1000), "CloudWatchMetrics": [directive]}, **found})


def _values(wanted: Iterable[tuple[Metric, Wanted]], series: dict[str, list[tuple[Labels, float]]]) -> Iterable[float]:
    for metric, right in wanted:
        for labels, value in series.get(metric.name, ()):
            if right(labels):
                yield value
