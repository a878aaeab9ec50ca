"""The records of each job, decoded by hand, and what they add up to: a fold of its own, written for clarity and not for speed.

It reads JSON with `json` and shards by their documented layout, so that a mistake in the pipeline's models or fold cannot hide in it.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from export_service.verify.evidence import TOPICS, Evidence, Raw

SHARD_TASKS = 8192
SUCCEEDED, FAILED, CANCELLED = "SUCCEEDED", "FAILED", "CANCELLED"
OUTCOMES = (SUCCEEDED, FAILED, CANCELLED)
"""The better one first."""
TERMINAL = ("COMPLETED", "COMPLETED_WITH_FAILURES", "FAILED", "CANCELLED")


@dataclass(frozen=True)
class Decoded:
    raw: Raw
    body: Mapping[str, Any]

    @property
    def attempt(self) -> int:
        """Of a record of any kind: each says it at one of these places."""
        return int((self.body.get("job") or self.body.get("snapshot") or self.body).get("attempt", 1))


@dataclass
class Folded:
    """What a job's events add up to. `ended` is the event that ended it; later ones do not count."""

    attempt: int = 1
    status: str = "PENDING"
    total: int | None = None
    best: dict[int, str] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """Shard -> bytes of the tasks that succeeded."""
    ended: Raw | None = None

    def count(self, outcome: str) -> int:
        return sum(each == outcome for each in self.best.values())

    @property
    def counts(self) -> tuple[int, int, int]:
        """Succeeded, failed, cancelled."""
        return self.count(SUCCEEDED), self.count(FAILED), self.count(CANCELLED)

    def shards(self) -> dict[int, tuple[int, int, int, int]]:
        """Shard -> bitmaps of succeeded, failed, cancelled, and bytes."""
        found: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        for index, outcome in self.best.items():
            found[index // SHARD_TASKS][OUTCOMES.index(outcome)] |= 1 << index % SHARD_TASKS
        return {number: (*bits[:3], self.sizes.get(number, 0)) for number, bits in found.items()}  # type: ignore[misc]


def fold(events: Iterable[Decoded]) -> Folded:
    """`events`: of one job, in the order of their offsets. The first plan stands, the better outcome of a task counts."""
    state = Folded()
    for number, event in enumerate(events):
        if number == 0:
            state.attempt = event.attempt
        if state.ended is not None:
            break
        body = event.body
        match body.get("type"):
            case "JobPlanned" if state.total is None:
                state.total, state.status = body["totalTasks"], "RUNNING"
                state.best = {index: outcome for index, outcome in state.best.items() if index < body["totalTasks"]}
                tolerated = body["job"]
            case "PlanFailed":
                state.status, state.ended = "FAILED", event.raw
            case "TaskResults":
                for result in body["results"]:
                    _count(state, result["index"], result["outcome"], result.get("bytes", 0))
        if state.ended is None and state.total is not None and len(state.best) >= state.total:
            failed, limit = state.count(FAILED), tolerated.get("toleratedFailures", 0)
            share = 100 * failed / max(state.total, 1)
            fine = not failed or failed <= limit or share <= tolerated.get("toleratedFailurePercentage", 0)
            state.status, state.ended = "COMPLETED" if fine else "COMPLETED_WITH_FAILURES", event.raw
    return state


def _count(state: Folded, index: int, outcome: str, size: int) -> None:
    if state.total is not None and index >= state.total:
        return
    before = state.best.get(index)
    if before is None or OUTCOMES.index(outcome) < OUTCOMES.index(before):
        state.best[index] = outcome
        if outcome == SUCCEEDED:
            state.sizes[index // SHARD_TASKS] += size


def shard(raw: bytes) -> tuple[int, int, int, int, int]:
    """Bitmaps of succeeded, failed, cancelled; bytes; offset. Raises ValueError.

    Layout, little endian: format (1), which bitmaps follow (bits 0 to 2), 8 bytes of size, 8 of offset (signed); then of each bitmap
    2 bytes of length and its bits.
    """
    if len(raw) < 18 or raw[0] != 1:
        raise ValueError(f"starts with {raw[:1].hex() or 'nothing'}, which is not shard format 1")
    bitmaps, at = [0, 0, 0], 18
    for bit in range(3):
        if raw[1] & 1 << bit:
            start = at + 2
            at = start + int.from_bytes(raw[at:start], "little")
            bitmaps[bit] = int.from_bytes(raw[start:at], "little")
    size, offset = int.from_bytes(raw[2:10], "little"), int.from_bytes(raw[10:18], "little", signed=True)
    return bitmaps[0], bitmaps[1], bitmaps[2], size, offset


@dataclass
class Job:
    """All records of one job, in the order of their topics' partitions and offsets."""

    id: str
    records: dict[str, list[Decoded]] = field(default_factory=lambda: defaultdict(list))
    folded: Folded = field(default_factory=Folded)
    ledger: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """Attempt -> its item."""
    whole: bool = False
    """Whether all of its events are there: retention has removed none."""

    def of(self, topic: str) -> list[Decoded]:
        return self.records.get(topic, [])

    @property
    def born(self) -> int:
        """Timestamp of its first request, ms."""
        return min((each.raw.timestamp for each in self.of("requests")), default=0)

    @property
    def destination(self) -> str | None:
        return next((str(each.body["job"]["destination"]) for each in self.of("requests")), None)

    def tasks(self) -> Iterable[tuple[Decoded, Mapping[str, Any]]]:
        return ((batch, task) for batch in self.of("tasks") for task in batch.body["tasks"])

    def files(self) -> dict[int, tuple[str, str]]:
        """Task -> (name, URL without query). Results say it too, where retention has removed the batch."""
        said = [result for event in self.of("results") for result in event.body.get("results", ())]
        return {each["index"]: (each["name"], each["url"]) for each in (*said, *(task for _, task in self.tasks()))}


class History:
    """Evidence, by job. Records that are not JSON, or that a step gave to the dead letters, belong to no job."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.letters = [each for raw in evidence.of("dead-letters") if (each := _decoded(raw)) is not None]
        self.dead = {_short_place(str(letter.body.get("source", ""))) for letter in self.letters}
        self.jobs: dict[str, Job] = {}
        for topic in ("requests", "tasks", "results", "snapshots", "completions", "callbacks"):
            for raw in evidence.of(topic):
                if raw.place not in self.dead and (found := _decoded(raw)) is not None and (job_id := _job_id(found.body)):
                    self.jobs.setdefault(job_id, Job(job_id)).records[topic].append(found)
        since = evidence.kept_since("results")
        attempts: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
        for (job_id, attempt), item in evidence.ledger.items():
            attempts[job_id][attempt] = item
        for job in self.jobs.values():
            job.folded = fold(job.of("results"))
            job.ledger = attempts[job.id]
            job.whole = bool(job.of("requests")) and job.born >= since


def _decoded(raw: Raw) -> Decoded | None:
    try:
        body = json.loads(raw.value or b"")
    except ValueError:
        return None
    return Decoded(raw, body) if isinstance(body, dict) else None


def _job_id(body: Mapping[str, Any]) -> str | None:
    found = (body.get("job") or body.get("snapshot") or body).get("jobId")
    return found if isinstance(found, str) else None


def _short_place(source: str) -> str:
    """`export.tasks:0:7` -> `tasks:0:7`."""
    name, colon, rest = source.partition(":")
    return next((topic for topic in TOPICS if name.endswith(topic)), name) + colon + rest


def iso(millis: int) -> str:
    return datetime.fromtimestamp(millis / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
