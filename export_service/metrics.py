"""The metrics of one worker; what there is of them says `metric_names`. Nothing is global.

Series with known labels begin at 0, because to Prometheus the first event of a series that was not there before is no increase.
"""

from itertools import product
from typing import Any, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from export_service import metric_names as names
from export_service.failures import (
    CallbackDenied,
    CallbackError,
    CallbackInvalid,
    CallbackRefused,
    CallbackThrottled,
)
from export_service.messages import CallbackAnswered, CallbackOutcome
from export_service.metric_names import Metric
from export_service.samples import Gathered, Source

_ERRORS: dict[str, tuple[str, ...]] = {
    "refused": ("TaskTimedOut", "TaskDoesNotExist", "InvalidToken"),
    "invalid": ("InvalidOutput", "ValidationException"),
    "throttled": (
        "ThrottlingException",
        "KmsThrottlingException",
        "ServiceUnavailable",
        "InternalFailure",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "EndpointConnectionError",
        "ConnectionClosedError",
    ),
    "denied": (
        "AccessDeniedException",
        "UnrecognizedClientException",
        "InvalidSignatureException",
        "ExpiredTokenException",
        "NoCredentialsError",
    ),
}
"""The error codes that have a series of their own, by kind; any other is `other`: a label may not have as many values as AWS has words."""
_KINDS: dict[type[CallbackError], str] = {
    CallbackRefused: "refused",
    CallbackInvalid: "invalid",
    CallbackThrottled: "throttled",
    CallbackDenied: "denied",
}


class Metrics:
    """Attributes are what is counted a few times a job; all else is read from its `sources` when it is asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._gathered = Gathered()
        self.registry.register(cast(Any, self._gathered))
        self.jobs_accepted = self._counter(names.JOBS_ACCEPTED)
        self.requests_rejected = self._counter(names.REJECTED)
        self.callbacks = self._counter(names.CALLBACKS)
        self.callback_latency = self._histogram(names.CALLBACK_LATENCY)
        self.callback_errors = self._counter(names.CALLBACK_ERRORS)
        for kind, errors in _ERRORS.items():
            for error in (*errors, "other"):
                self.callback_errors.labels(kind, error)
        self.heartbeats = self._counter(names.HEARTBEATS)
        self.dead_letters = self._counter(names.DEAD_LETTERS)
        self.jobs_ended = self._counter(names.JOBS_ENDED)
        self.job_time = self._histogram(names.JOB_TIME)
        self.recovery_seconds = self._gauge(names.RECOVERY_SECONDS)
        self.recovery_records = self._gauge(names.RECOVERY_RECORDS)
        self.recovery_remaining = self._gauge(names.RECOVERY_REMAINING)

    def read(self, source: Source) -> None:
        """`source` is asked whenever somebody reads the metrics."""
        self._gathered.sources.append(source)

    def _counter(self, metric: Metric) -> Counter:
        counter = Counter(metric.name, metric.says, list(metric.labels), registry=self.registry)
        if metric.labels and all(metric.labels.values()):
            for values in product(*metric.labels.values()):
                counter.labels(*values)
        return counter

    def _histogram(self, metric: Metric) -> Histogram:
        made = Histogram(metric.name, metric.says, list(metric.labels), buckets=metric.buckets, registry=self.registry)
        for values in product(*metric.labels.values()) if metric.labels else ():
            made.labels(*values)
        return made

    def _gauge(self, metric: Metric) -> Gauge:
        return Gauge(metric.name, metric.says, list(metric.labels), registry=self.registry)

    def answered(self, answer: CallbackAnswered) -> None:
        """Of a job; called once for each, when the ledger has it."""
        self.callbacks.labels(answer.outcome).inc()
        if answer.outcome is CallbackOutcome.SENT and answer.latency_ms is not None:
            self.callback_latency.observe(answer.latency_ms / 1000)

    def not_accepted(self, error: CallbackError) -> None:
        kind = _KINDS[type(error)]
        self.callback_errors.labels(kind, error.code if error.code in _ERRORS[kind] else "other").inc()
