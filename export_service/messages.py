"""The records on the topics, in flow order, and how they become bytes and come back.

Every record is one JSON object in camelCase with a schema version `v` and, where a topic carries several kinds, a `type`.
Changes are additive only: a reader ignores fields that it does not know. Times are ISO-8601 UTC with milliseconds.
No record carries a task token, and no URL here carries its query: a query (it may be a signature) travels sealed, see `sealing`.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel


def iso_millis(when: datetime) -> str:
    """`2025-01-15T10:30:00.000Z`, the one time format that leaves the process."""
    if when.tzinfo is not UTC:
        when = when.astimezone(UTC)
    return when.isoformat(timespec="milliseconds")[:-6] + "Z"


def from_millis(millis: int) -> datetime:
    """A Kafka record timestamp (ms since the epoch) as an aware datetime."""
    return datetime.fromtimestamp(millis / 1000, UTC)


Timestamp = Annotated[datetime, PlainSerializer(iso_millis, when_used="json")]


class Record(BaseModel):
    """Base of everything on a topic."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, serialize_by_alias=True, frozen=True, extra="ignore")
    v: Literal[1] = 1

    def to_bytes(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()

    def but(self, **fields: Any) -> Self:
        """A copy with other values, which are not checked: as pydantic's own `model_copy`, in a quarter of its time."""
        copy = self.__class__.__new__(self.__class__)
        put = object.__setattr__  # the model is frozen
        put(copy, "__dict__", self.__dict__ | fields)
        put(copy, "__pydantic_fields_set__", self.__pydantic_fields_set__ | fields.keys())
        put(copy, "__pydantic_extra__", None)
        put(copy, "__pydantic_private__", None)
        return copy


class JobStatus(StrEnum):
    """PENDING: accepted, plan not known yet. The last four are terminal."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    COMPLETED_WITH_FAILURES = "COMPLETED_WITH_FAILURES"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        return self not in (JobStatus.PENDING, JobStatus.RUNNING)


class Outcome(StrEnum):
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class FileSpec(Record):
    """One file to export. `name` is the path below the destination; `query` is the sealed query of `url`."""

    url: str
    query: str | None = None
    name: str
    size: int | None = None
    sha256: str | None = None


class ManifestRef(Record):
    """A list of files kept elsewhere."""

    url: str
    query: str | None = None
    format: Literal["jsonl", "csv"]


class JobInfo(Record):
    """What every later step needs to know of a job, so that nobody has to look it up."""

    job_id: str
    attempt: int = 1
    export_id: str
    user_id: str
    requested_at: Timestamp
    destination: str
    """Folder (`file://…/`) or `s3://bucket/prefix/` that the files and the report go to."""
    report_format: Literal["jsonl", "csv"] = "jsonl"
    has_task_token: bool = False
    tolerated_failures: int = 0
    tolerated_failure_percentage: float = 0.0
    heartbeat_seconds: int | None = None
    deadline_seconds: int | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class ExportRequested(Record):
    """`requests`: plan this job. Exactly one of files, manifest and prefix is set."""

    type: Literal["ExportRequested"] = "ExportRequested"
    job: JobInfo
    files: tuple[FileSpec, ...] | None = None
    manifest: ManifestRef | None = None
    prefix: str | None = None
    message_id: str | None = None
    done: dict[int, str] | None = None
    """Of a later run: tasks that need not run again, as base64 of a little-endian bitmap for each shard that has any."""
    plan_digest: str | None = None
    """Of a later run: the list of files must still be the one that `done` counts in."""


class Packed(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Base of what travels by the million: read and written several times as quickly as a Record, and not checked when it is made."""

    def to_bytes(self) -> bytes:
        return _encoder.encode(self)


_encoder = msgspec.json.Encoder()


class Task(Packed, frozen=True, gc=False, omit_defaults=True):
    """One file of a plan; `index` is its place in the plan, 0 … total-1. The rest is as in FileSpec."""

    index: int
    url: str
    name: str
    query: str | None = None
    size: int | None = None
    sha256: str | None = None


class TaskBatch(Packed, frozen=True, gc=False, tag_field="type"):
    """`tasks`: download these."""

    job_id: str
    attempt: int
    destination: str
    tasks: tuple[Task, ...]
    user_id: str | None = None
    """Who shares the workers' slots with other users. None in old records."""
    v: Literal[1] = 1


class JobAccepted(Record):
    """`results`: the plan step has begun; until it ends this is all that is known of the job."""

    type: Literal["JobAccepted"] = "JobAccepted"
    job: JobInfo


class JobPlanned(Record):
    """`results`: the plan is complete; the job is `total_tasks` tasks."""

    type: Literal["JobPlanned"] = "JobPlanned"
    job: JobInfo
    total_tasks: int
    plan_digest: str | None = None
    """SHA-256 over the names and URLs of all tasks, in order."""


class PlanFailed(Record):
    """`results`: the job cannot be planned; `cause` is for the person who sent it."""

    type: Literal["PlanFailed"] = "PlanFailed"
    job: JobInfo
    cause: str


class AttemptOpened(Record):
    """`results`: somebody asked for a known job again, with a token of his own. `request` is as the first attempt's, of the new attempt."""

    type: Literal["AttemptOpened"] = "AttemptOpened"
    request: ExportRequested

    @property
    def job(self) -> JobInfo:
        return self.request.job


class JobCancelled(Record):
    """`results`: end this job now. `cancellations`: download nothing more of it, as far as it was planned for `attempt` or before.

    On `results`, `attempt` None ends whichever attempt there is; a number only that one, so that a token which nobody waits for any
    more does not end a job that a newer one waits for. `error` is what Step Functions is told.
    """

    type: Literal["JobCancelled"] = "JobCancelled"
    job_id: str
    attempt: int | None = None
    error: Literal["ExportCancelled", "ExportDeadlineExceeded", "JobCompletedWithFailures"] = "ExportCancelled"
    cause: str


class DownloadDemand(Record):
    """`demand`: how many tasks a download worker takes. Of no use a few seconds later, when it says it again."""

    type: Literal["DownloadDemand"] = "DownloadDemand"
    worker: str
    read: dict[int, int]
    """Partition of `tasks` that is this worker's -> the first offset that it has not read."""
    window: int
    """Tasks of one job that may wait here for a slot."""
    waiting: dict[str, int]
    """Job -> its tasks that do. Without the jobs that have less than half a window."""
    under_way: int | None = None
    """Transfers. Who has none leaves his share of the fleet's bandwidth to others. None in old records."""
    host: str | None = None
    """Name of its machine or container."""
    memory: int | None = None
    """Resident bytes of its process; None where the system does not say."""


class DownloadLimits(Record):
    """`limits`, key `download`: what all download workers together may do. The last record counts."""

    type: Literal["DownloadLimits"] = "DownloadLimits"
    bandwidth: int | None = None
    """Bytes a second. None: no limit."""
    host_concurrency: dict[str, int] = {}
    """`host` or `host:port` -> files at a time."""


class TaskResult(Packed, frozen=True, gc=False, omit_defaults=True):
    """The outcome of one task. `error` is a failure class such as `HttpNotFound`, `message` one sentence without URL query."""

    index: int
    outcome: Outcome
    name: str
    url: str
    bytes: int = 0
    sha256: str | None = None
    attempts: int = 1
    duration_ms: int = 0
    error: str | None = None
    message: str | None = None


class TaskResults(Packed, frozen=True, gc=False, tag_field="type"):
    """`results`: outcomes of some tasks of one batch."""

    job_id: str
    attempt: int
    results: tuple[TaskResult, ...]
    v: Literal[1] = 1


class JobSnapshot(Record):
    """`snapshots`, and the DynamoDB item: what a person asks about a job.

    Newer means greater (attempt, version). `version` is 1 + the offset of the event on `results` that made this state, so it never
    goes back, not even when a crash makes the tally fold events again.
    """

    type: Literal["JobSnapshot"] = "JobSnapshot"
    job_id: str
    attempt: int
    version: int
    export_id: str | None = None
    user_id: str | None = None
    status: JobStatus
    total_tasks: int | None = None
    completed_tasks: int = 0
    failed_tasks: int = 0
    cancelled_tasks: int = 0
    bytes: int = 0
    requested_at: Timestamp | None = None
    updated_at: Timestamp
    completed_at: Timestamp | None = None
    duration_ms: int | None = None
    destination: str | None = None
    report_uri: str | None = None
    error: str | None = None
    cause: str | None = None
    has_task_token: bool = False
    heartbeat_seconds: int | None = None
    deadline_at: Timestamp | None = None
    first_offset: int | None = None
    """Of the job's first event on its partition of `results`: who reads its history need not look before it. None in old records."""


class ResultsRange(Record):
    """Where a job's events are on `results`: first and last offset (both inclusive) in one partition."""

    partition: int
    first: int
    last: int


class JobCompleted(Record):
    """`completions`: the job ended. `id` is `job:attempt`, so receivers can drop a repeat."""

    type: Literal["JobCompleted"] = "JobCompleted"
    id: str
    snapshot: JobSnapshot
    report_format: Literal["jsonl", "csv"] = "jsonl"
    events: ResultsRange
    plan: int = 1
    """Outcomes of attempts before this one are of another list of files."""
    run: int = 1
    """Failures of attempts before this one were tried again."""


class CallbackOutcome(StrEnum):
    """SENT: accepted. DUPLICATE: ours was accepted earlier. ORPHANED: nobody waits for this token any more."""

    SENT = "SENT"
    DUPLICATE = "DUPLICATE"
    ORPHANED = "ORPHANED"


class CallbackAnswered(Record):
    """`callbacks`: what Step Functions said. `token` is a fingerprint (first 12 hex digits of its SHA-256)."""

    type: Literal["CallbackAnswered"] = "CallbackAnswered"
    job_id: str
    attempt: int
    call: Literal["SendTaskSuccess", "SendTaskFailure"] | None = None
    outcome: CallbackOutcome
    error: str | None = None
    token: str | None = None
    tries: int = 0
    answered_at: Timestamp
    latency_ms: int | None = None
    """From the event that ended the job, or asked for its answer again, to the answer."""


class DeadLetter(Record):
    """`dead-letters`: a record or message that cannot be processed, whole but for its secrets."""

    type: Literal["DeadLetter"] = "DeadLetter"
    source: str
    """`sqs:<queue name>` or `topic:partition:offset`."""
    reason: str
    job_id: str | None = None
    message_id: str | None = None
    receive_count: int | None = None
    key: str | None = None
    body: str | None = None
    body_base64: str | None = None
    """Set instead of `body` when the bytes are not UTF-8."""
    told_step_functions: bool | None = None
    at: Timestamp


class OperatorAction(Record):
    """`operations`: what a person did, by whom and when.

    `begun` is written before anything else is, `done` after all of it; `dropped`: nothing was done after all.
    """

    type: Literal["OperatorAction"] = "OperatorAction"
    id: str
    """The same in `begun` and in what ends it."""
    action: str
    """`redrive` or `discard` of a dead letter, `move-queue`, `redrive-job`, `rewind`, `replay`, and of its jobs `rebuild` or `re-emit`."""
    subject: str
    """A dead letter's `partition:offset`, a queue's ARN, a job's id, or the app's."""
    of: Timestamp | None = None
    """When a dead letter was written: its topic may have been made again, and then the same place is another's."""
    stage: Literal["begun", "done", "dropped"]
    who: str
    at: Timestamp
    why: str | None = None
    details: dict[str, Any] = Field(default_factory=dict)


RareEvent = JobAccepted | JobPlanned | PlanFailed | AttemptOpened | JobCancelled
JobEvent = RareEvent | TaskResults
"""What is on `results`."""
