"""Every metric of a worker, in one typed list. Units are seconds and bytes; labels have few, known values.

A worker has one `Metrics`; nothing is global. `serve` answers Prometheus on `EXPORT_METRICS_PORT`.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from export_service.failures import SettingsError
from export_service.settings import Metrics as MetricsSettings


class Metrics:
    """Attributes are the metrics; their names on the wire begin with `export_`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.callbacks = Counter(
            "export_callbacks", "Answers to Step Functions, by what came of them", ["outcome", "error"], registry=self.registry
        )
        self.callback_latency = Histogram(
            "export_callback_latency_seconds", "From a job's end to its accepted answer", registry=self.registry
        )
        self.jobs_ended = Counter(
            "export_jobs_ended", "Jobs that ended, with a task token or not", ["token"], registry=self.registry
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
