"""Everything the verdict looks at, as it was found: raw records, offsets, items, files. No judgement here.

Topics have their short names (`requests`, …, `jobs-changelog`), so that prefixes and app ids stay with who gathers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

READERS = {"requests": "plan", "tasks": "download", "results": "tally", "completions": "callback", "snapshots": "snapshot"}
"""Topic -> the role that commits offsets of it."""
TOPICS = (
    *READERS,
    "callbacks",
    "cancellations",
    "demand",
    "limits",
    "dead-letters",
    "operations",
    "jobs-changelog",
    "shards-changelog",
)
COMPACTED = ("snapshots", "cancellations", "limits", "jobs-changelog", "shards-changelog")


class Raw(NamedTuple):
    """One Kafka record. `timestamp` is ms since the epoch; `headers` are names and values, joined."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: bytes = b""

    @property
    def place(self) -> str:
        return f"{self.topic}:{self.partition}:{self.offset}"


@dataclass(frozen=True)
class Bounds:
    """Offsets of one partition when the reading began.

    `committed` is its reader's, None if it never committed; `since` is the timestamp (ms) of the first record that is still there.
    """

    begin: int
    end: int
    committed: int | None = None
    since: int | None = None

    @property
    def done(self) -> int:
        """Where the reader stands."""
        return max(self.begin, self.committed or 0)

    @property
    def lag(self) -> int:
        return max(self.end - self.done, 0)


@dataclass(frozen=True)
class Stored:
    """A file at its destination. `sha256` is hex."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Destination:
    """What is at one destination. `uploads` are keys of multipart uploads that nobody completed; `reports` name -> content."""

    files: Mapping[str, Stored]
    uploads: tuple[str, ...] = ()
    reports: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Execution:
    """A Step Functions execution; `events` as GetExecutionHistory gives them."""

    arn: str
    status: str
    job_id: str | None
    events: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Sent:
    """A message put on SQS: by its job, or, where that is not readable, by its message id."""

    job_id: str | None
    message_id: str | None = None


@dataclass(frozen=True)
class Sample:
    """One look at a worker. `rss` in bytes."""

    worker: str
    rss: int
    open_files: int


@dataclass(frozen=True)
class Limits:
    rss: int = 1024**3
    open_files: int = 1024


@dataclass(frozen=True)
class Evidence:
    """All of it. What could not be had is not checked, and never a violation.

    Attributes:
        since_ms: jobs that were asked for earlier are not looked at.
        missing: what -> why it could not be had. What: `table`, a destination, or a whole invariant such as `I7`.
        settled: faults are over and nothing is under way: every job must have ended, and lag must be 0.
        ledger: (job, attempt) -> item. Holds task tokens.
        queue_left: messages still on SQS, None if not known.
        sources: source URL without query -> SHA-256 of what it serves.
        secrets: strings that may be nowhere; the ledger's task tokens are added to them.
        logs: name -> content.
        ttl_ms: DynamoDB items may be gone this long after their last change; `now_ms` is when they were read.
    """

    settled: bool = False
    partitions: Mapping[tuple[str, int], Bounds] = field(default_factory=dict)
    records: Mapping[str, tuple[Raw, ...]] = field(default_factory=dict)
    snapshots: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ledger: Mapping[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    destinations: Mapping[str, Destination] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    executions: tuple[Execution, ...] = ()
    sent: tuple[Sent, ...] = ()
    queue_left: int | None = None
    secrets: tuple[str, ...] = ()
    logs: Mapping[str, bytes] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    limits: Limits = Limits()
    missing: Mapping[str, str] = field(default_factory=dict)
    now_ms: int = 0
    since_ms: int = 0
    ttl_ms: int = 400 * 86_400_000

    def of(self, topic: str) -> tuple[Raw, ...]:
        return self.records.get(topic, ())

    def bounds(self, topic: str) -> dict[int, Bounds]:
        return {partition: found for (name, partition), found in self.partitions.items() if name == topic}

    def committed(self, record: Raw) -> bool:
        """Whether the topic's reader says that it is done with the record."""
        found = self.partitions.get((record.topic, record.partition))
        return found is not None and found.committed is not None and record.offset < found.committed

    @property
    def cut(self) -> list[str]:
        """Topics whose beginning retention has removed, as far as it is looked at."""
        # Nothing depends on `demand`, which is kept for an hour.
        lasting = [topic for topic in TOPICS if topic not in (*COMPACTED, "demand")]
        return [topic for topic in lasting if self.kept_since(topic) > self.since_ms]

    def kept_since(self, topic: str) -> float:
        """Time (ms) from which on the topic has every record; earlier ones may have been removed by retention."""
        if topic in COMPACTED:
            return 0
        cut = [self.now_ms if each.since is None else each.since for each in self.bounds(topic).values() if each.begin > 0]
        return max(cut, default=0)
