"""Every metric, once: its name on the wire, its kind, its labels with their values, who has it and what it says.

Units are seconds and bytes. Labels are bounded: their values are listed here, or are topics, partitions and roles, or come from a setting.
`docs/metrics.md` is made from this list (`python -m deploy.generate`); rules, alarms and dashboards may name nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from export_service.messages import CallbackOutcome, JobStatus, Outcome

LATENCIES = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
"""Seconds. An answer takes tens of milliseconds; the report of a large job minutes; throttling or missing permissions any time."""
JOB_SECONDS = (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400)
FILE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
STAGES = ("begun", "planned", "ended")
_ENDS = tuple(status.value for status in JobStatus if status.terminal)


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, eq=False)
class Metric:
    """`labels`: name -> its values; none listed: what `says` or the name tells. `where`: the roles that have it."""

    name: str
    kind: Kind
    where: str
    says: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    buckets: tuple[float, ...] = ()


def _counter(name: str, where: str, says: str, **labels: tuple[str, ...]) -> Metric:
    return Metric(name, Kind.COUNTER, where, says, labels)


def _gauge(name: str, where: str, says: str, **labels: tuple[str, ...]) -> Metric:
    return Metric(name, Kind.GAUGE, where, says, labels)


def _histogram(name: str, where: str, says: str, buckets: tuple[float, ...], **labels: tuple[str, ...]) -> Metric:
    return Metric(name, Kind.HISTOGRAM, where, says, labels, buckets)


WORKER = _gauge("export_worker_info", "all", "1; its labels say what this worker is", version=(), roles=())
READY = _gauge("export_worker_ready", "all", "1 if /readyz says so")
LOOP_DELAY = _gauge(
    "export_worker_loop_delay_seconds", "all", "The longest that the event loop kept others waiting, in the last 10 seconds or so"
)

RECORDS_IN = _counter("export_topic_records_in_total", "all but connector, watch", "Records taken from a topic", topic=())
BYTES_IN = _counter("export_topic_bytes_in_total", "all but connector, watch", "Bytes of their keys and values", topic=())
RECORDS_OUT = _counter(
    "export_topic_records_out_total", "all", "Records that the broker has confirmed, changelogs included", topic=()
)
BYTES_OUT = _counter("export_topic_bytes_out_total", "all", "Bytes of keys and values that were sent", topic=())
UNCONFIRMED = _gauge("export_producer_unconfirmed_records", "all", "Records sent that the broker has not confirmed")
UNCONFIRMED_SECONDS = _gauge(
    "export_producer_silent_seconds", "all", "While some are not confirmed: seconds since the broker last confirmed one"
)

LAG = _gauge(
    "export_lag_records",
    "every role of its own group; watch of all",
    "Records of a partition that its group has not committed, by the broker's own offsets. Take `max by (role, topic, partition)`",
    role=(),
    topic=(),
    partition=(),
)
LAG_SECONDS = _gauge(
    "export_lag_age_seconds",
    "every role of its own group; watch of all",
    "Age of the next record that is not committed, by its timestamp; 0 if there is none",
    role=(),
    topic=(),
    partition=(),
)
LOOKED_SECONDS = _gauge(
    "export_lag_looked_seconds", "all", "Since the broker was last asked for offsets with success: lags are as old as this"
)

ACK_WINDOW = _gauge("export_ack_window_records", "all but connector, watch", "Records taken and not done", role=())
ASSIGNED = _gauge(
    "export_assigned_partitions", "all but connector, watch", "Partitions of the role's topic that this worker has", role=()
)
STILL_SECONDS = _gauge(
    "export_partition_still_seconds",
    "all but connector, watch",
    "The longest that one of these partitions has not moved while it had records to take and the role had room for them",
    role=(),
)
REBALANCES = _counter("export_rebalances_total", "all but connector, watch", "Times that partitions were given out anew", role=())
RECOVERING = _gauge("export_table_recovering", "all but connector, watch", "1 from an assignment until records flow", role=())
RECOVERY_SECONDS = _gauge(
    "export_table_recovery_seconds", "all but connector, watch", "How long the last recovery of a role's tables took", role=()
)
RECOVERY_RECORDS = _gauge(
    "export_table_recovery_records", "all but connector, watch", "Changelog records that the last recovery read", role=()
)
RECOVERY_REMAINING = _gauge(
    "export_table_recovery_remaining", "all but connector, watch", "Changelog records that a recovery still has to read", role=()
)
TABLE_ENTRIES = _gauge("export_table_entries", "tally", "Entries of a table here; an estimate where it is on disk", table=())
TABLE_UNSENT = _gauge("export_table_unsent_entries", "tally", "Entries changed and not sent to the changelog yet", table=())

JOBS_ACCEPTED = _counter(
    "export_jobs_accepted_total",
    "connector",
    "Jobs, each once: not its repeats, not its later attempts",
    has_task_token=("true", "false"),
)
REJECTED = _counter(
    "export_requests_rejected_total",
    "connector",
    "Messages that became dead letters. `told`: whether the waiting state got `ExportRejected`; `no_token`: nobody is known to wait",
    told=("true", "false", "no_token"),
)
QUEUE_MESSAGES = _gauge(
    "export_queue_messages",
    "connector",
    "Of the SQS queue, about, as SQS says. in_flight: taken by some connector",
    state=("visible", "in_flight", "delayed"),
)
QUEUE_WORK = _gauge("export_queue_work_messages", "connector", "Messages that this worker has and has not deleted yet")
QUEUE_AGE = _gauge(
    "export_queue_age_seconds",
    "connector",
    "Since the oldest of the last messages received, or of those in work, was sent; 0 if there is none and the queue is empty",
)
TASKS_PLANNED = _counter("export_tasks_planned_total", "plan", "Tasks handed out, repeats included")
PLANS = _gauge("export_plans_open", "plan", "Jobs whose list is read, or not yet handed out to its end")

DOWNLOADS = _counter(
    "export_downloads_total",
    "download",
    "Tasks that ended, repeats included. `error`: failure class, empty without one, `other` beyond the first 64. `hosts`: the set of"
    " EXPORT_METRICS_HOSTS that the host is in, else its scheme",
    outcome=tuple(outcome.value for outcome in Outcome),
    error=(),
    hosts=(),
)
DOWNLOAD_BYTES = _counter("export_download_bytes_total", "download", "Bytes of files that are in place", hosts=())
DOWNLOAD_RETRIES = _counter("export_download_retries_total", "download", "Tries after the first of a file", hosts=())
DOWNLOAD_SECONDS = _histogram(
    "export_download_seconds", "download", "From the first try of a file to its outcome, pauses included", FILE_SECONDS, hosts=()
)
SLOTS = _gauge("export_download_slots", "download", "`most` is EXPORT_DOWNLOAD_CONCURRENCY", state=("busy", "most"))
WAITING = _gauge("export_download_waiting_tasks", "download", "Tasks read that wait for a slot")
PAUSED = _gauge("export_download_paused_hosts", "download", "Hosts that are left alone because they answered 429 or 503")

EVENTS = _counter("export_tally_events_total", "tally", "Events of jobs folded, repeats included")
OUTCOMES = _counter("export_tally_outcomes_total", "tally", "Outcomes of tasks folded, repeats included")
JOBS_ENDED = _counter("export_jobs_ended_total", "tally", "Jobs that ended, once for each attempt", status=_ENDS)
JOB_TIME = _histogram(
    "export_job_seconds",
    "tally",
    "From the taking of a job's message until its plan was begun, its list was read, and it ended. The next is"
    " `export_callback_latency_seconds`",
    JOB_SECONDS,
    stage=STAGES,
)

CALLBACKS = _counter(
    "export_callbacks_total",
    "callback",
    "Answers to task tokens, when the ledger has them: SENT, DUPLICATE (refused, after a try that may have been accepted),"
    " ORPHANED (nobody waited)",
    outcome=tuple(outcome.value for outcome in CallbackOutcome),
)
CALLBACK_LATENCY = _histogram(
    "export_callback_latency_seconds",
    "callback",
    "SENT answers: from the end of the job, or a new token for one that has ended, to the answer. The report is written in between",
    LATENCIES,
)
CALLBACK_ERRORS = _counter(
    "export_callback_errors_total",
    "callback, connector",
    "Calls that were not accepted, by Step Functions' error. `kind` says what follows: `throttled` and `denied` are tried again,"
    " `refused` is for good, `invalid` becomes a failure. An error that has no series of its own is `other`",
    kind=("refused", "invalid", "throttled", "denied"),
    error=(),
)
HEARTBEATS = _counter(
    "export_heartbeats_total",
    "watch",
    "Heartbeats; refused: nobody waits any more; failed: tried again",
    outcome=("sent", "refused", "failed"),
)
JOBS_OPEN = _gauge("export_jobs_open", "watch", "Jobs that have not ended, of this worker's share", status=("PENDING", "RUNNING"))
JOBS_STUCK = _gauge("export_jobs_stuck", "watch", "Of those, jobs that have not moved for EXPORT_WATCH_STUCK_SECONDS")
JOB_STILL_SECONDS = _gauge("export_job_still_seconds", "watch", "Since the job that has stood still the longest moved")
DEAD_LETTERS = _counter(
    "export_dead_letters_total",
    "all",
    "Dead letters, by where the record came from",
    source=("sqs", "requests", "tasks", "results", "completions", "snapshots"),
)

ALL: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
BY_NAME: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in ALL})
