"""The fold: what a job is after one more event. Pure, so that order, duplicates and restarts can be tested without Kafka.

A job is its plan (total, or not known yet) and, for each task, the best outcome so far. Outcomes are kept as bitmaps, one shard per
8,192 tasks. Outcomes form a lattice, SUCCEEDED over FAILED over CANCELLED, so neither order nor duplicates matter. Once an attempt has
ended its verdict is frozen, because somebody may already have been told.

The state of a job and its shards are separate table keys, and a crash can keep the last writes of one and lose those of the other.
Therefore each carries the offset of the last event folded into it, counters are copies of the shards' cardinalities, never increments,
and folding events again brings whichever is behind up to date without moving the one that is ahead.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Self

from export_service.messages import (
    JobEvent,
    JobInfo,
    JobPlanned,
    JobSnapshot,
    JobStatus,
    Outcome,
    PlanFailed,
    Record,
    TaskResults,
    Timestamp,
)

SHARD_TASKS = 8192
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Shard:
    """Outcomes of tasks [n * 8192, (n + 1) * 8192). The three bitmaps are disjoint; bit i is task n * 8192 + i.

    `size` is the bytes of the succeeded tasks together, `offset` that of the last event that changed the shard.
    """

    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    size: int = 0
    offset: int = -1

    def join(self, succeeded: int, failed: int, cancelled: int, size: int = 0) -> "Shard":
        """The better outcome of each task; `size` is that of tasks that had not succeeded before."""
        succeeded |= self.succeeded
        failed = (failed | self.failed) & ~succeeded
        cancelled = (cancelled | self.cancelled) & ~(succeeded | failed)
        return Shard(succeeded, failed, cancelled, self.size + size, self.offset)

    def within(self, tasks: int) -> "Shard":
        """Without tasks whose bit is `tasks` or more."""
        mask = (1 << max(tasks, 0)) - 1
        return Shard(self.succeeded & mask, self.failed & mask, self.cancelled & mask, self.size, self.offset)

    def tally(self) -> "ShardTally":
        return (self.succeeded.bit_count(), self.failed.bit_count(), self.cancelled.bit_count(), self.size)

    def to_bytes(self) -> bytes:
        """Format byte, which bitmaps follow (bits 0-2), 8 bytes each of size and offset, then of each bitmap 2 bytes
        of length, and the bits. All little endian."""
        present, parts = 0, [self.size.to_bytes(8, "little"), self.offset.to_bytes(8, "little", signed=True)]
        for bit, bitmap in enumerate((self.succeeded, self.failed, self.cancelled)):
            if bitmap:
                present |= 1 << bit
                length = (bitmap.bit_length() + 7) // 8
                parts.append(length.to_bytes(2, "little") + bitmap.to_bytes(length, "little"))
        return bytes((_FORMAT, present)) + b"".join(parts)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Raises ValueError for a format that this version does not know."""
        if len(raw) < 18 or raw[0] != _FORMAT:
            raise ValueError(f"shard format {raw[:1].hex() or 'empty'} is not known to this version")
        bitmaps, at = [0, 0, 0], 18
        for bit in range(3):
            if raw[1] >> bit & 1:
                length = int.from_bytes(raw[at : at + 2], "little")
                bitmaps[bit] = int.from_bytes(raw[at + 2 : at + 2 + length], "little")
                at += 2 + length
        size, offset = int.from_bytes(raw[2:10], "little"), int.from_bytes(raw[10:18], "little", signed=True)
        return cls(bitmaps[0], bitmaps[1], bitmaps[2], size, offset)


ShardTally = tuple[int, int, int, int]
"""Succeeded, failed, cancelled tasks, and bytes, of one shard."""


class JobState(Record):
    """The `jobs` table's value. Offsets are of the job's partition of `results`."""

    attempt: int = 1
    status: JobStatus = JobStatus.PENDING
    job: JobInfo | None = None
    total: int | None = None
    tallies: tuple[ShardTally, ...] = ()
    """Of shards 0, 1, …"""
    first_offset: int
    offset: int = -1
    """Of the last event that changed this state."""
    completed_offset: int | None = None
    """The event that ended the attempt. Folding it again repeats the completion: that is how a completion survives a crash."""
    completed_at: Timestamp | None = None
    updated_at: Timestamp
    snapshot_at: Timestamp | None = None
    error: str | None = None
    cause: str | None = None

    @property
    def succeeded(self) -> int:
        return sum(tally[0] for tally in self.tallies)

    @property
    def failed(self) -> int:
        return sum(tally[1] for tally in self.tallies)

    @property
    def cancelled(self) -> int:
        return sum(tally[2] for tally in self.tallies)

    @property
    def bytes(self) -> int:
        return sum(tally[3] for tally in self.tallies)

    @property
    def finished(self) -> int:
        return sum(tally[0] + tally[1] + tally[2] for tally in self.tallies)


@dataclass(frozen=True, slots=True)
class Step:
    """What one event did: `changed` of the state, `shards` holds the changed ones only, `completes`: this event ends the attempt."""

    state: JobState
    shards: Mapping[int, Shard] = field(default_factory=dict)
    changed: bool = False
    completes: bool = False


def fold(state: JobState | None, event: JobEvent, offset: int, at: datetime, shard: Callable[[int], Shard]) -> Step:
    """(state, event) -> state.

    Args:
        state: the job so far, None before its first event.
        offset: of the event's record.
        at: the record's timestamp; the only clock here, so that a replay gives the same times.
        shard: reads shard n of this job (an empty Shard if there is none).
    """
    if state is None:
        state = JobState(attempt=event_attempt(event), first_offset=offset, updated_at=at)
    if offset <= state.offset:
        # A replay after a crash that kept the state and lost shards. A redrive needs them, so they are made whole.
        repaired = _join(state, event, offset, shard) if isinstance(event, TaskResults) else {}
        return Step(state, repaired, completes=offset == state.completed_offset)
    if state.status.terminal:
        return Step(state)
    match event:
        case JobPlanned():
            return _planned(state, event, offset, at, shard)
        case PlanFailed():
            failed = state.model_copy(update={"job": event.job, "error": "ExportPlanFailed", "cause": event.cause})
            return Step(_end(failed, JobStatus.FAILED, offset, at), changed=True, completes=True)
        case TaskResults():
            return _results(state, event, offset, at, shard)


def event_attempt(event: JobEvent) -> int:
    return event.attempt if isinstance(event, TaskResults) else event.job.attempt


def _planned(state: JobState, event: JobPlanned, offset: int, at: datetime, shard: Callable[[int], Shard]) -> Step:
    if state.total is not None:
        return Step(state)
    # A plan that was made twice from a manifest that shrank in between has outcomes beyond its end: they are not of this job.
    tallies = list(state.tallies)
    for number in range(event.total_tasks // SHARD_TASKS, len(tallies)):
        if (known := shard(number)).offset < offset:
            tallies[number] = known.within(event.total_tasks - number * SHARD_TASKS).tally()
    planned = {"job": event.job, "total": event.total_tasks, "status": JobStatus.RUNNING, "tallies": tuple(tallies)}
    return _advance(state.model_copy(update=planned), {}, offset, at)


def _results(state: JobState, event: TaskResults, offset: int, at: datetime, shard: Callable[[int], Shard]) -> Step:
    shards = _join(state, event, offset, shard)
    numbers = _numbers(state, event)
    tallies = list(state.tallies)
    tallies += [(0, 0, 0, 0)] * (max(numbers, default=-1) + 1 - len(tallies))
    for number in numbers:
        known = shards.get(number) or _visible(state, number, shard)
        # A shard from a later event (its write was kept, the state's lost) is counted when the replay gets there.
        if known.offset <= offset:
            tallies[number] = known.tally()
    if not shards and tuple(tallies) == state.tallies:
        return Step(state)
    return _advance(state.model_copy(update={"tallies": tuple(tallies)}), shards, offset, at)


def _join(state: JobState, event: TaskResults, offset: int, shard: Callable[[int], Shard]) -> dict[int, Shard]:
    """The shards that the event changes."""
    changed: dict[int, Shard] = {}
    for number in _numbers(state, event):
        before = _visible(state, number, shard)
        if before.offset >= offset:
            continue
        bitmaps, fresh = dict.fromkeys(Outcome, 0), 0
        for result in event.results:
            if result.index // SHARD_TASKS != number or not _planned_index(state, result.index):
                continue
            bit = 1 << result.index % SHARD_TASKS
            if result.outcome is Outcome.SUCCEEDED and not (bitmaps[result.outcome] | before.succeeded) & bit:
                fresh += result.bytes
            bitmaps[result.outcome] |= bit
        after = before.join(bitmaps[Outcome.SUCCEEDED], bitmaps[Outcome.FAILED], bitmaps[Outcome.CANCELLED], fresh)
        if after != before:
            changed[number] = replace(after, offset=offset)
    return changed


def _numbers(state: JobState, event: TaskResults) -> set[int]:
    return {result.index // SHARD_TASKS for result in event.results if _planned_index(state, result.index)}


def _planned_index(state: JobState, index: int) -> bool:
    return state.total is None or index < state.total


def _visible(state: JobState, number: int, shard: Callable[[int], Shard]) -> Shard:
    return shard(number) if state.total is None else shard(number).within(state.total - number * SHARD_TASKS)


def _advance(state: JobState, shards: Mapping[int, Shard], offset: int, at: datetime) -> Step:
    if state.total is None or state.finished < state.total:
        moved = state.model_copy(update={"updated_at": at, "offset": offset})
        return Step(moved, shards, changed=True)
    status = JobStatus.COMPLETED if _tolerated(state) else JobStatus.COMPLETED_WITH_FAILURES
    if status is JobStatus.COMPLETED_WITH_FAILURES:
        cause = f"Job completed with {state.failed} failed tasks out of {state.total} total"
        state = state.model_copy(update={"error": "JobCompletedWithFailures", "cause": cause})
    return Step(_end(state, status, offset, at), shards, changed=True, completes=True)


def _tolerated(state: JobState) -> bool:
    """Default 0: every failure counts. Either limit may allow it, as in a Distributed Map's tolerated failures."""
    if not state.failed:
        return True
    assert state.job is not None and state.total
    percentage = 100 * state.failed / state.total
    return state.failed <= state.job.tolerated_failures or percentage <= state.job.tolerated_failure_percentage


def _end(state: JobState, status: JobStatus, offset: int, at: datetime) -> JobState:
    return state.model_copy(
        update={
            "status": status,
            "updated_at": at,
            "offset": offset,
            "completed_at": at,
            "completed_offset": offset,
        }
    )


def snapshot(job_id: str, state: JobState) -> JobSnapshot:
    """What people and receivers see of a state."""
    job = state.job
    duration = None
    if state.completed_at and job:
        duration = max(0, round((state.completed_at - job.requested_at).total_seconds() * 1000))
    return JobSnapshot(
        job_id=job_id,
        attempt=state.attempt,
        version=state.offset + 1,
        export_id=job.export_id if job else None,
        user_id=job.user_id if job else None,
        status=state.status,
        total_tasks=state.total,
        completed_tasks=state.succeeded,
        failed_tasks=state.failed,
        cancelled_tasks=state.cancelled,
        bytes=state.bytes,
        requested_at=job.requested_at if job else None,
        updated_at=state.updated_at,
        completed_at=state.completed_at,
        duration_ms=duration,
        destination=job.destination if job else None,
        report_uri=report_uri(job) if job and state.completed_at and state.total is not None else None,
        error=state.error,
        cause=state.cause,
        has_task_token=job.has_task_token if job else False,
    )


def report_name(job: JobInfo) -> str:
    return f"_report.{job.report_format}"


def report_uri(job: JobInfo) -> str:
    return job.destination.rstrip("/") + "/" + report_name(job)
