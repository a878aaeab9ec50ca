"""Every metric of a worker, in one typed list. Units are seconds and bytes; labels have few, known values.

A worker has one `Metrics`; nothing is global. `serve` answers Prometheus on `EXPORT_METRICS_PORT`. Series with known labels begin at 0,
because to Prometheus the first event of a series that was not there before is no increase.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from export_service.failures import (
    CallbackDenied,
    CallbackError,
    CallbackInvalid,
    CallbackRefused,
    CallbackThrottled,
    SettingsError,
)
from export_service.messages import CallbackAnswered, CallbackOutcome
from export_service.settings import Metrics as MetricsSettings

_LATENCIES = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
"""Seconds. An answer takes tens of milliseconds; the report of a large job minutes; throttling or missing permissions any time."""
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
    """Attributes are the metrics; their names on the wire begin with `export_`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.jobs_accepted = self._counter(
            "export_jobs_accepted", "Jobs taken from the queue, with a task token or without", has_task_token=("true", "false")
        )
        self.requests_rejected = self._counter(
            "export_requests_rejected",
            "Messages that are wrong, and whether the state that waits was told; no_token: nobody is known to wait",
            told=("true", "false", "no_token"),
        )
        self.callbacks = self._counter(
            "export_callbacks", "Answers to jobs' task tokens, by what came of them", outcome=tuple(CallbackOutcome)
        )
        self.callback_latency = Histogram(
            "export_callback_latency_seconds",
            "From the end of a job, or a new token for one that has ended, to the accepted answer",
            buckets=_LATENCIES,
            registry=self.registry,
        )
        self.callback_errors = Counter(
            "export_callback_errors",
            "Calls that Step Functions did not accept, those that are tried again (throttled, denied) included",
            ["kind", "error"],
            registry=self.registry,
        )
        for kind, errors in _ERRORS.items():
            for error in (*errors, "other"):
                self.callback_errors.labels(kind, error)
        self.heartbeats = self._counter(
            "export_heartbeats",
            "Heartbeats, by what came of them; refused: nobody waits any more",
            outcome=("sent", "refused", "failed"),
        )
        self.recovery_seconds = Gauge(
            "export_table_recovery_seconds", "How long the last recovery of a role's tables took", ["role"], registry=self.registry
        )
        self.recovery_records = Gauge(
            "export_table_recovery_records", "Changelog records that the last recovery read", ["role"], registry=self.registry
        )
        self.recovery_remaining = Gauge(
            "export_table_recovery_remaining",
            "Changelog records that a recovery still has to read",
            ["role"],
            registry=self.registry,
        )

    def _counter(self, name: str, documentation: str, **label: tuple[str, ...]) -> Counter:
        ((label_name, values),) = label.items()
        counter = Counter(name, documentation, [label_name], registry=self.registry)
        for value in values:
            counter.labels(value)
        return counter

    def answered(self, answer: CallbackAnswered) -> None:
        """Of a job; called once for each, when the ledger has it."""
        self.callbacks.labels(answer.outcome).inc()
        if answer.outcome is CallbackOutcome.SENT and answer.latency_ms is not None:
            self.callback_latency.observe(answer.latency_ms / 1000)

    def not_accepted(self, error: CallbackError) -> None:
        kind = _KINDS[type(error)]
        self.callback_errors.labels(kind, error.code if error.code in _ERRORS[kind] else "other").inc()


def serve(metrics: Metrics, settings: MetricsSettings) -> Callable[[], None]:
    """Answer GET /metrics until the returned function is called. Raises SettingsError if the port is taken."""
    if settings.port is None:
        return lambda: None
    try:
        server, thread = start_http_server(settings.port, settings.host, metrics.registry)
    except OSError as error:
        raise SettingsError(
            f"EXPORT_METRICS_PORT={settings.port}: cannot listen on {settings.host}: {error.strerror}; choose another port"
        ) from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
