"""The records of each job, decoded by hand, and what they add up to: a fold of its own, written for clarity and not for speed.

It reads JSON with `json` and shards by their documented layout, so that a mistake in the pipeline's models or fold cannot hide in it.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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
        return int(_subject(self.body).get("attempt") or 1)


@dataclass(frozen=True)
class End:
    """How an attempt ended, and by which event. `at`, ms, is when the job did: an attempt that came later is told the same."""

    status: str
    total: int | None
    counts: tuple[int, int, int]
    raw: Raw
    at: int


@dataclass
class Folded:
    """What a job's events add up to. `ended` is the event that ended the newest attempt; outcomes after it do not count."""

    attempt: int = 1
    """The newest: its token is answered."""
    run: int = 1
    """The attempt that what failed before was tried again for."""
    plan: int = 1
    """The attempt that the list of files is of."""
    status: str = "PENDING"
    total: int | None = None
    tolerated: Mapping[str, Any] = field(default_factory=dict)
    best: dict[int, str] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """Shard -> bytes of the tasks that succeeded."""
    replan: bool = False
    """Its list could not be read: the next attempt reads it anew."""
    ends: dict[int, End] = field(default_factory=dict)
    closed: dict[tuple[int, int], tuple[int, int, int, int]] = field(default_factory=dict)
    """Shards of runs that have ended and were followed by another."""

    @property
    def ended(self) -> Raw | None:
        return self.end.raw if self.end else None

    @property
    def end(self) -> End | None:
        return self.ends.get(self.attempt)

    def count(self, outcome: str) -> int:
        return sum(each == outcome for each in self.best.values())

    @property
    def counts(self) -> tuple[int, int, int]:
        """Succeeded, failed, cancelled."""
        return self.count(SUCCEEDED), self.count(FAILED), self.count(CANCELLED)

    def shards(self) -> dict[tuple[int, int], tuple[int, int, int, int]]:
        """(run, shard) -> bitmaps of succeeded, failed, cancelled, and bytes."""
        found: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        for index, outcome in self.best.items():
            found[index // SHARD_TASKS][OUTCOMES.index(outcome)] |= 1 << index % SHARD_TASKS
        now = {(self.run, number): (*bits[:3], self.sizes.get(number, 0)) for number, bits in found.items()}
        return self.closed | now  # type: ignore[return-value]

    def finish(self, status: str, raw: Raw) -> None:
        self.status = status
        self.ends[self.attempt] = End(status, self.total, self.counts, raw, raw.timestamp)

    def fill(self) -> None:
        for index in range(self.total or 0):
            self.best.setdefault(index, CANCELLED)


def fold(events: Iterable[Decoded]) -> Folded:
    """`events`: of one job, in the order of their offsets. The first plan of a run stands, the better outcome of a task counts."""
    state = Folded()
    for number, event in enumerate(events):
        kind = event.body.get("type")
        if number == 0 and kind != "AttemptOpened":
            state.attempt = event.attempt
        if kind == "AttemptOpened":
            _open(state, event)
        elif state.end is None:
            _step(state, event, str(kind))
        if state.end is None:
            _finish_if_done(state, event.raw)
    return state


def _step(state: Folded, event: Decoded, kind: str) -> None:
    body = event.body
    if kind == "JobPlanned" and state.total is None and event.attempt >= state.plan:
        state.total, state.status, state.tolerated = body["totalTasks"], "RUNNING", body["job"]
        state.best = {index: outcome for index, outcome in state.best.items() if index < body["totalTasks"]}
    elif kind == "PlanFailed" and event.attempt >= state.run:
        state.replan = True
        state.fill()
        state.finish("FAILED", event.raw)
    elif kind == "TaskResults" and event.attempt >= state.plan:
        for result in body["results"]:
            if event.attempt >= state.run or result["outcome"] == SUCCEEDED:
                _count(state, result["index"], result["outcome"], result.get("bytes", 0))
    elif kind == "JobCancelled" and body.get("attempt") in (None, state.attempt):
        state.fill()
        state.finish("CANCELLED" if body.get("error", "ExportCancelled") == "ExportCancelled" else "FAILED", event.raw)


def _open(state: Folded, event: Decoded) -> None:
    """Somebody else waits for the job: for what goes on, for what is there, or for another try of what failed."""
    end, attempt = state.end, event.attempt
    if attempt <= state.attempt or (end is None and not _subject(event.body).get("hasTaskToken")):
        return
    state.attempt = attempt
    if end is None:
        return
    if end.status == "COMPLETED":
        state.ends[attempt] = replace(end, raw=event.raw)
        return
    state.closed, state.run = state.shards(), attempt
    if state.total is None or state.replan:
        state.plan, state.status, state.total, state.best, state.replan = attempt, "PENDING", None, {}, False
        # What the old list's runs have on the changelog counts nowhere.
        state.closed, state.sizes = {}, defaultdict(int)
    else:
        state.status, state.tolerated = "RUNNING", _subject(event.body)
        state.best = {index: outcome for index, outcome in state.best.items() if outcome == SUCCEEDED}


def _finish_if_done(state: Folded, raw: Raw) -> None:
    if state.total is None:
        return
    failed, limit = state.count(FAILED), state.tolerated.get("toleratedFailures", 0)
    most = state.tolerated.get("toleratedFailurePercentage", 0)
    fine = not failed or failed <= limit or 100 * failed / max(state.total, 1) <= most
    if len(state.best) >= state.total:
        state.finish("COMPLETED" if fine else "COMPLETED_WITH_FAILURES", raw)
    elif not fine and (limit or most):
        state.fill()
        state.finish("COMPLETED_WITH_FAILURES", raw)


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
        if evidence.since_ms:
            self.jobs = {job_id: job for job_id, job in self.jobs.items() if job.born >= evidence.since_ms}
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
    found = _subject(body).get("jobId")
    return found if isinstance(found, str) else None


def _subject(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a record of any kind says which job and attempt it is of."""
    body = body.get("request") or body
    found: Mapping[str, Any] = body.get("job") or body.get("snapshot") or body
    return found


def _short_place(source: str) -> str:
    """`export.tasks:0:7` -> `tasks:0:7`."""
    name, colon, rest = source.partition(":")
    return next((topic for topic in TOPICS if name.endswith(topic)), name) + colon + rest


def iso(millis: int) -> str:
    return datetime.fromtimestamp(millis / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
