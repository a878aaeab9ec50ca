"""The tally without its consumer: what events do to the tables, and what they put on topics. A replay folds with it what was recorded."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from export_service import jobs as folding
from export_service import snapshots
from export_service.jobs import JobState, Step
from export_service.merging import fold_together
from export_service.messages import (
    AttemptOpened,
    ExportRequested,
    JobCancelled,
    JobCompleted,
    JobEvent,
    JobSnapshot,
    Record,
    ResultsRange,
    TaskResults,
)
from export_service.rebuilt import JobRebuilt, put_back
from export_service.shards import ReadShard, bitmap_to_text
from streams.ack_window import Entry
from streams.steps import Incoming
from streams.topics import Topics, TopicSpec
from tables.jobs import Jobs
from tables.shards import Shards

Outputs = list[tuple[TopicSpec, Record]]


Told = Callable[[JobEvent | JobRebuilt, Step, datetime], None]
"""Hears of each event that was folded, what came of it, and its record's time."""


class Happened(NamedTuple):
    """An event, its record, and, when it is counted, what it puts on topics. `entry` is the record's, if it has one."""

    event: JobEvent | JobRebuilt
    record: Incoming
    outputs: Outputs
    entry: Entry | None = None


class _Untold(NamedTuple):
    state: JobState
    entry: Entry | None


class Counter:
    """Nothing here waits: what is counted is counted before a partition can go away."""

    def __init__(self, jobs: Jobs, shards: Shards, topics: Topics, snapshot_every: timedelta, told: Told = lambda *_: None) -> None:
        self._jobs, self._shards, self._topics, self._every, self._told = jobs, shards, topics, snapshot_every, told
        self._untold: dict[str, _Untold] = {}
        """Jobs that have moved since their last snapshot."""
        self._were_untold: dict[str, _Untold] = {}

    def count(self, job_id: str, events: Sequence[Happened]) -> None:
        """Each of these of one job, in the order of their offsets; together, or else in halves."""
        if len(events) == 1:
            self._count_one(job_id, *events[0])
        elif not self._count_together(job_id, events):
            half = len(events) // 2
            self.count(job_id, events[:half])
            self.count(job_id, events[half:])

    def _count_together(self, job_id: str, events: Sequence[Happened]) -> bool:
        """Whether they were: if they are nothing but results, and none is due to be told of or ends the job."""
        before = self._jobs.get(job_id)
        if before is None or before.snapshot_at is None:
            return False
        results: list[TaskResults] = []
        for event, record, *_ in events:
            if not isinstance(event, TaskResults) or record.timestamp - before.snapshot_at >= self._every:
                return False
            results.append(event)
        first, last = events[0].record, events[-1].record
        step = fold_together(before, results, first.offset, last.offset, last.timestamp, self._shard_of(job_id))
        if step is None:
            return False
        for event, record, *_ in events:
            self._told(event, step, record.timestamp)
        self._put(job_id, step.state, step)
        if step.changed:
            self._untold[job_id] = _Untold(step.state, events[-1].entry)
        return True

    def _count_one(
        self, job_id: str, event: JobEvent | JobRebuilt, record: Incoming, outputs: Outputs, entry: Entry | None
    ) -> None:
        before, shard = self._jobs.get(job_id), self._shard_of(job_id)
        if isinstance(event, JobRebuilt):
            step = put_back(before, event, record.offset, shard)
        else:
            step = folding.fold(before, event, record.offset, record.timestamp, shard)
        self._told(event, step, record.timestamp)
        state, due = step.state, _snapshot_due(before, step, record, self._every)
        if due:
            state = state.but(snapshot_at=record.timestamp)
        self._put(job_id, state, step)
        if due:
            self._untold.pop(job_id, None)
            outputs.append((self._topics.snapshots, snapshots.of(job_id, state)))
        elif step.changed:
            self._untold[job_id] = _Untold(state, entry)
        if step.reruns and isinstance(event, AttemptOpened):
            outputs.append((self._topics.requests, _rerun(event.request, state, shard)))
        if step.cancels:
            cancelled = JobCancelled(job_id=job_id, attempt=state.attempt, cause=state.cause or "")
            outputs.append((self._topics.cancellations, cancelled))
        if step.completes:
            outputs.append((self._topics.completions, _completed(job_id, state, record.place.partition)))

    @property
    def has_untold(self) -> bool:
        return bool(self._untold)

    def still(self) -> Iterator[JobSnapshot]:
        """Of jobs that have moved since their last snapshot, and not since this was last asked: no event will tell of them soon. Not
        of those that somebody else has now."""
        before, self._were_untold = self._were_untold, self._untold.copy()
        for job_id, untold in before.items():
            # Looked at one by one: who sends them waits now and then, and a snapshot from before a job's end may not come after it.
            if self._untold.get(job_id) is untold:
                del self._untold[job_id]
                if untold.entry is None or not untold.entry.lost:
                    yield snapshots.of(job_id, untold.state)

    def _shard_of(self, job_id: str) -> ReadShard:
        return partial(self._shards.get, job_id)

    def _put(self, job_id: str, state: JobState, step: Step) -> None:
        if step.changed:
            self._jobs.put(job_id, state)
        for (run, number), changed in step.shards.items():
            self._shards.put(job_id, run, number, changed)


def _snapshot_due(before: JobState | None, step: Step, record: Incoming, every: timedelta) -> bool:
    """At the end, and whenever status or attempt change; else at most once per `every` of record time, so that a replay sends the same."""
    last = step.state.snapshot_at
    if step.completes or before is None or (before.status, before.attempt) != (step.state.status, step.state.attempt):
        return step.completes or step.changed
    return step.changed and (last is None or record.timestamp - last >= every)


def _rerun(request: ExportRequested, state: JobState, shard: ReadShard) -> ExportRequested:
    """The plan of a new run: without what is done, if the job still has the list of files that this counts in."""
    done = {}
    if state.plan < state.run:
        for number in range(len(state.tallies)):
            if bitmap := shard(state.run, number).succeeded:
                done[number] = bitmap_to_text(bitmap)
    return request.model_copy(update={"done": done or None, "plan_digest": state.plan_digest})


def _completed(job_id: str, state: JobState, partition: int) -> JobCompleted:
    assert state.completed_offset is not None
    return JobCompleted(
        id=f"{job_id}:{state.attempt}",
        snapshot=snapshots.of(job_id, state),
        report_format=state.job.report_format if state.job else "jsonl",
        events=ResultsRange(partition=partition, first=state.first_offset, last=state.completed_offset),
        plan=state.plan,
        run=state.run,
    )
