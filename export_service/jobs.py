"""The fold: what a job is after one more event. Pure, so that order, duplicates and restarts can be tested without Kafka.

A job is its plan (total, or not known yet) and, for each task, the best outcome so far. Outcomes are kept as bitmaps, one shard per
8,192 tasks. Outcomes form a lattice, SUCCEEDED over FAILED over CANCELLED, so neither order nor duplicates matter. Once an attempt has
ended its verdict is frozen, because somebody may already have been told.

A new attempt of a job that is under way takes over its answer; that of one that succeeded is answered at once; that of one that failed
begins a *run*: what succeeded is kept, all else is tried again. Each run has shards of its own, so that those of a run that has ended
never change, and a replay finds the end of the run before where it was.

The state of a job and its shards are separate table keys, and a crash can keep the last writes of one and lose those of the other.
Therefore each carries the offset of the last event folded into it, counters are copies of the shards' cardinalities, never increments,
and folding events again brings whichever is behind up to date without moving the one that is ahead.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from export_service.counting import Counted, by_shard
from export_service.messages import (
    AttemptOpened,
    JobAccepted,
    JobCancelled,
    JobEvent,
    JobInfo,
    JobPlanned,
    JobStatus,
    PlanFailed,
    Record,
    TaskResults,
    Timestamp,
)
from export_service.shards import SHARD_TASKS, ReadShard, Shard, ShardKey, Shards, ShardTally


class Run(NamedTuple):
    """The attempt that began it, and the offsets of the events that began and ended it. `stopped`: before its tasks had ended."""

    attempt: int
    begun: int
    ended: int | None = None
    stopped: bool = False


class JobState(Record):
    """The `jobs` table's value. Offsets are of the job's partition of `results`."""

    attempt: int = 1
    """The newest; its token is answered."""
    runs: tuple[Run, ...] = (Run(1, -1),)
    plan: int = 1
    """The attempt that the list of files is from. Outcomes of earlier ones are of another list."""
    plan_digest: str | None = None
    status: JobStatus = JobStatus.PENDING
    job: JobInfo | None = None
    total: int | None = None
    tallies: tuple[ShardTally, ...] = ()
    """Of shards 0, 1, … of this run."""
    first_offset: int
    origin: int | None = None
    """Of the job's very first event, where `first_offset` is that of a later list of files."""
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
    def run(self) -> int:
        return self.runs[-1].attempt

    def run_at(self, offset: int) -> int | None:
        """The run that the event at `offset` was in; None if it came after its end."""
        run = self.runs[-1]
        if run.begun >= offset:
            run = next(each for each in reversed(self.runs) if each.begun < offset)
        return run.attempt if run.ended is None or offset <= run.ended else None

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
        finished = 0
        for succeeded, failed, cancelled, _ in self.tallies:
            finished += succeeded + failed + cancelled
        return finished


class Step(NamedTuple):
    """What one event did: `changed` of the state, `shards` holds the changed ones only, `completes`: this event ends the attempt,
    `cancels`: what is left of it must not be downloaded, `reruns`: what has not succeeded is to be planned again."""

    state: JobState
    shards: Shards = MappingProxyType({})
    changed: bool = False
    completes: bool = False
    cancels: bool = False
    reruns: bool = False


def fold(state: JobState | None, event: JobEvent, offset: int, at: datetime, shard: ReadShard) -> Step:
    """(state, event) -> state.

    Args:
        state: the job so far, None before its first event.
        offset: of the event's record.
        at: the record's timestamp; the only clock here, so that a replay gives the same times.
    """
    if state is None:
        attempt = 1 if isinstance(event, AttemptOpened) else event_attempt(event)
        state = JobState(attempt=attempt, first_offset=offset, updated_at=at)
    if offset <= state.offset:
        return _again(state, event, offset, shard)
    if isinstance(event, TaskResults):  # nearly all are, and pydantic's classes are slow to ask
        return Step(state) if state.status.terminal else _results(state, event, offset, at, shard)
    if isinstance(event, AttemptOpened):
        return _opened(state, event, offset, at, shard)
    if state.status.terminal:
        return Step(state)
    match event:
        case JobAccepted():
            if state.job is not None:
                return Step(state)
            return Step(state.model_copy(update={"job": event.job, "updated_at": at, "offset": offset}), changed=True)
        case JobPlanned():
            return _planned(state, event, offset, at, shard)
        case PlanFailed():
            if event.job.attempt < state.run:
                return Step(state)
            failed = state.model_copy(update={"job": _answered_as(state, event.job)})
            if state.total is not None:
                # Another owner of the plan could not go on with it: what was not handed out never will be.
                return _stop(failed, {}, JobStatus.FAILED, "ExportPlanFailed", event.cause, offset, at, shard)
            failed = failed.model_copy(update={"error": "ExportPlanFailed", "cause": event.cause})
            return Step(_end(failed, JobStatus.FAILED, offset, at), changed=True, completes=True)
        case JobCancelled():
            if event.attempt not in (None, state.attempt):
                return Step(state)
            status = JobStatus.CANCELLED if event.error == "ExportCancelled" else JobStatus.FAILED
            return _stop(state, {}, status, event.error, event.cause, offset, at, shard)


def job_of(event: JobEvent) -> str:
    """The job's id."""
    return event.job_id if isinstance(event, TaskResults | JobCancelled) else event.job.job_id


def event_attempt(event: JobEvent) -> int:
    if isinstance(event, TaskResults | JobCancelled):
        return event.attempt or 1
    return event.job.attempt


def _again(state: JobState, event: JobEvent, offset: int, shard: ReadShard) -> Step:
    """A replay after a crash that kept the state and lost shards. A later run needs them, so they are made whole."""
    repaired: Shards = {}
    if isinstance(event, TaskResults):
        repaired = _join(state, event.attempt, by_shard(event.results, state.total), offset, shard)
    for before, run in pairwise(state.runs):
        if run.begun == offset and state.plan < run.attempt:
            repaired = _kept(state, before.attempt, run.attempt, offset, shard)
    for run in state.runs:
        if run.ended == offset and run.stopped and run.attempt >= state.plan:
            repaired = _fill(state, run.attempt, repaired, offset, shard)
    newest = state.runs[-1]
    return Step(
        state,
        repaired,
        completes=offset == state.completed_offset,
        cancels=offset == newest.ended and newest.stopped,
        reruns=offset == newest.begun and not state.status.terminal,
    )


def _opened(state: JobState, event: AttemptOpened, offset: int, at: datetime, shard: ReadShard) -> Step:
    job = event.job
    if job.attempt <= state.attempt or not (job.has_task_token or state.status.terminal):
        # A token that is not the newest, or a request without one that must not take the answer from somebody who waits.
        return Step(state)
    moved = state.model_copy(update={"attempt": job.attempt, "updated_at": at, "offset": offset})
    if not state.status.terminal or state.status is JobStatus.COMPLETED:
        waiting = {"attempt": job.attempt, "has_task_token": job.has_task_token}
        moved = moved.model_copy(update={"job": state.job.model_copy(update=waiting) if state.job else job})
        if state.status is not JobStatus.COMPLETED:
            return Step(moved, changed=True)
        return Step(moved.model_copy(update={"completed_offset": offset}), changed=True, completes=True)
    begun = {"job": job, "runs": (*state.runs, Run(job.attempt, offset)), "snapshot_at": None}
    nothing = {"completed_at": None, "completed_offset": None, "error": None, "cause": None}
    moved = moved.model_copy(update=begun | nothing)
    if state.total is None or state.error == "ExportPlanFailed":
        # No list of files that the outcomes so far could be matched with.
        anew = {"status": JobStatus.PENDING, "plan": job.attempt, "plan_digest": None, "total": None, "tallies": ()}
        anew |= {"first_offset": offset, "origin": state.origin if state.origin is not None else state.first_offset}
        return Step(moved.model_copy(update=anew), changed=True, reruns=True)
    # The shards that this run will have; where a crash kept later ones of it, the replay counts those when it gets there.
    tallies = tuple(_visible(state, state.run, number, shard).kept().tally() for number in range(len(state.tallies)))
    moved = moved.model_copy(update={"status": JobStatus.RUNNING, "tallies": tallies})
    return Step(moved, _kept(state, state.run, job.attempt, offset, shard), changed=True, reruns=True)


def _kept(state: JobState, before: int, run: int, offset: int, shard: ReadShard) -> Shards:
    """What a run takes over from the one before it."""
    kept: dict[ShardKey, Shard] = {}
    for number in range(len(state.tallies)):
        known = _visible(state, before, number, shard)
        if known.succeeded and shard(run, number).offset < offset:
            kept[run, number] = known.kept()._replace(offset=offset)
    return kept


def _answered_as(state: JobState, job: JobInfo) -> JobInfo:
    """A plan's job, answered as the newest attempt that is known."""
    if state.job is None:
        return job
    return job.model_copy(update={"attempt": state.job.attempt, "has_task_token": state.job.has_task_token})


def _planned(state: JobState, event: JobPlanned, offset: int, at: datetime, shard: ReadShard) -> Step:
    if state.total is not None or event.job.attempt < state.plan:
        return Step(state)
    # A plan that was made twice from a manifest that shrank in between has outcomes beyond its end: they are not of this job.
    tallies = list(state.tallies)
    for number in range(len(tallies)):
        if (known := shard(state.run, number)).offset <= offset:
            tallies[number] = known.within(event.total_tasks - number * SHARD_TASKS).tally()
    planned = {
        "job": _answered_as(state, event.job),
        "total": event.total_tasks,
        "plan_digest": event.plan_digest,
        "status": JobStatus.RUNNING,
        "tallies": tuple(tallies),
        "updated_at": at,
        "offset": offset,
    }
    return _advance(state.model_copy(update=planned), {}, offset, at, shard)


def _results(state: JobState, event: TaskResults, offset: int, at: datetime, shard: ReadShard) -> Step:
    if event.attempt < state.plan:
        return Step(state)
    run, counted = state.run, by_shard(event.results, state.total)
    shards = _join(state, event.attempt, counted, offset, shard)
    numbers: Iterable[int] = counted
    tallies = list(state.tallies)
    tallies += [(0, 0, 0, 0)] * (max(numbers, default=-1) + 1 - len(tallies))
    for number in counted:
        if (run, number) not in shards and shard(run, number).offset == offset:
            # A replay of an event that may have stopped the job: then it changed all shards.
            numbers = range(len(tallies))
    for number in numbers:
        known = shards.get((run, number)) or _visible(state, run, number, shard)
        # A shard from a later event (its write was kept, the state's lost) is counted when the replay gets there.
        if known.offset <= offset:
            tallies[number] = known.tally()
    if not shards and tuple(tallies) == state.tallies:
        return Step(state)
    moved = state.but(tallies=tuple(tallies), updated_at=at, offset=offset)
    return _advance(moved, shards, offset, at, shard)


def _join(state: JobState, attempt: int, counted: Mapping[int, Counted], offset: int, shard: ReadShard) -> dict[ShardKey, Shard]:
    """The shards that an event of this attempt changes."""
    run = state.run_at(offset)
    changed: dict[ShardKey, Shard] = {}
    if run is None or attempt < state.plan or run < state.plan:
        return changed
    for number, new in counted.items():
        before = _visible(state, run, number, shard)
        if before.offset >= offset:
            continue
        # Failures of an attempt before this run are being tried again; a file that is there is there.
        failed, cancelled = (0, 0) if attempt < run else (new.failed, new.cancelled)
        after = before.join(new.succeeded, failed, cancelled, new.fresh(before.succeeded), offset)
        if after is not before:
            changed[run, number] = after
    return changed


def all_numbers(state: JobState) -> range:
    """Of the plan's shards."""
    return range(-(-(state.total or 0) // SHARD_TASKS))


def _visible(state: JobState, run: int, number: int, shard: ReadShard) -> Shard:
    known = shard(run, number)
    return known if state.total is None else known.within(state.total - number * SHARD_TASKS)


def _fill(state: JobState, run: int, shards: Shards, offset: int, shard: ReadShard) -> Shards:
    """`shards` and all others of the run with CANCELLED for each task that has no outcome."""
    filled = dict(shards)
    for number in all_numbers(state):
        before = shards.get((run, number)) or _visible(state, run, number, shard)
        every = (1 << min(SHARD_TASKS, (state.total or 0) - number * SHARD_TASKS)) - 1
        if (after := before.join(0, 0, every, 0, offset)) is not before:
            filled[run, number] = after
    return filled


def _stop(
    state: JobState, shards: Shards, status: JobStatus, error: str, cause: str, offset: int, at: datetime, shard: ReadShard
) -> Step:
    """End the job before its tasks have."""
    shards = _fill(state, state.run, shards, offset, shard)
    known = (
        shards.get((state.run, number)) or _visible(state, state.run, number, shard)
        for number in range(max(len(state.tallies), len(all_numbers(state))))
    )
    tallies = tuple(each.tally() for each in known)
    stopped = state.model_copy(update={"tallies": tallies, "error": error, "cause": cause})
    ended = _end(stopped, status, offset, at, stopped=True)
    return Step(ended, shards, changed=True, completes=True, cancels=True)


def _advance(state: JobState, shards: Shards, offset: int, at: datetime, shard: ReadShard) -> Step:
    """After `state`, which this event has moved."""
    over = state.total is not None and (state.finished >= state.total or _hopeless(state))
    if not over or any(shard(state.run, number).offset > offset for number in all_numbers(state)):
        # A shard from a later event (its write was kept, the state's lost) says that the run did not end here, whatever is counted so far.
        return Step(state, shards, changed=True)
    if _hopeless(state):
        step = _stop(state, shards, JobStatus.COMPLETED_WITH_FAILURES, "JobCompletedWithFailures", "", offset, at, shard)
        # Counted afterwards: a replay may find the shards as this very event left them.
        if left := step.state.cancelled:
            failed, total = step.state.failed, step.state.total
            cause = f"Job stopped after {failed} failed tasks, more than it tolerates; {left} of {total} total were cancelled"
            return step._replace(state=step.state.model_copy(update={"cause": cause}))
    status = JobStatus.COMPLETED if _tolerated(state) else JobStatus.COMPLETED_WITH_FAILURES
    if status is JobStatus.COMPLETED_WITH_FAILURES:
        cause = f"Job completed with {state.failed} failed tasks out of {state.total} total"
        state = state.model_copy(update={"error": "JobCompletedWithFailures", "cause": cause})
    return Step(_end(state, status, offset, at), shards, changed=True, completes=True)


def _hopeless(state: JobState) -> bool:
    """More tasks have failed than the caller said to tolerate. Who said nothing gets all that can be had."""
    job = state.job
    asked = job is not None and (job.tolerated_failures > 0 or job.tolerated_failure_percentage > 0)
    return asked and bool(state.total) and not _tolerated(state)


def _tolerated(state: JobState) -> bool:
    """Default 0: every failure counts. Either limit may allow it, as in a Distributed Map's tolerated failures."""
    if not state.failed:
        return True
    assert state.job is not None and state.total
    percentage = 100 * state.failed / state.total
    return state.failed <= state.job.tolerated_failures or percentage <= state.job.tolerated_failure_percentage


def _end(state: JobState, status: JobStatus, offset: int, at: datetime, *, stopped: bool = False) -> JobState:
    return state.model_copy(
        update={
            "status": status,
            "updated_at": at,
            "offset": offset,
            "completed_at": at,
            "completed_offset": offset,
            "runs": (*state.runs[:-1], state.runs[-1]._replace(ended=offset, stopped=stopped)),
        }
    )
