"""results -> tables -> snapshots and completions: folds every event of a job, and says once when the job has ended. A later run of a job
that failed goes back to requests, for the plan step to hand out what is left.

The record is acked when its changelog writes and outputs are confirmed; records are pipelined, and write together (`streams/together.py`).
A completion that was lost in a crash is sent again, because the record that caused it is not acked and folds to the same completion.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from pydantic import ValidationError

from export_service import jobs as folding
from export_service import snapshots
from export_service.jobs import JobState, Step
from export_service.merging import fold_together
from export_service.messages import (
    AttemptOpened,
    Event,
    ExportRequested,
    JobCancelled,
    JobCompleted,
    QuickResults,
    Record,
    ResultsRange,
    read_event,
)
from export_service.ports import Publisher
from export_service.shards import ReadShard, bitmap_to_text
from streams.ack_window import Entry
from streams.dead_letters import DeadLetters
from streams.steps import Incoming, Taken
from streams.together import Together
from streams.topics import Topics, TopicSpec
from tables.jobs import Jobs
from tables.shards import Shards


class _Counted(NamedTuple):
    """An event, and what it puts on topics."""

    event: Event
    record: Incoming
    entry: Entry
    outputs: list[tuple[TopicSpec, Record]]


class Tally:
    """The tally step. `handle` takes records of one partition."""

    def __init__(
        self,
        jobs: Jobs,
        shards: Shards,
        together: Together,
        publisher: Publisher,
        dead_letters: DeadLetters,
        topics: Topics,
        snapshot_every: timedelta,
    ) -> None:
        self._jobs, self._shards, self._together, self._topics = jobs, shards, together, topics
        self._publisher, self._dead_letters, self._every = publisher, dead_letters, snapshot_every

    async def handle(self, taken: Sequence[Taken]) -> None:
        by_job: dict[str, list[_Counted]] = {}
        refused: list[tuple[Incoming, Entry, ValidationError]] = []
        for record, entry in taken:
            try:
                event = read_event(record.value or b"")
            except ValidationError as error:
                refused.append((record, entry, error))
            else:
                by_job.setdefault(folding.job_of(event), []).append(_Counted(event, record, entry, []))
        # Nothing is waited for before all is counted: until then no partition goes away.
        for job_id, events in by_job.items():
            self._count(job_id, events)
        for job_id, events in by_job.items():
            for counted in events:
                self._together.add(counted.entry, await self._send(job_id, counted) if counted.outputs else ())
        for record, entry, invalid in refused:
            entry.after([await self._dead_letters.put(record, invalid)])

    async def _send(self, job_id: str, counted: _Counted) -> list["asyncio.Future[Any]"]:
        return [await self._publisher.send(topic.name, job_id.encode(), output.to_bytes()) for topic, output in counted.outputs]

    def _count(self, job_id: str, events: Sequence[_Counted]) -> None:
        """Each of them, in the order of their offsets; together, or else in halves."""
        if len(events) == 1:
            self._count_one(job_id, events[0])
        elif not self._count_together(job_id, events):
            half = len(events) // 2
            self._count(job_id, events[:half])
            self._count(job_id, events[half:])

    def _count_together(self, job_id: str, events: Sequence[_Counted]) -> bool:
        """Whether they were: if they are nothing but results, and none is due to be told of or to end the job."""
        before = self._jobs.get(job_id)
        if before is None or before.snapshot_at is None:
            return False
        results: list[QuickResults] = []
        for event, record, _, _ in events:
            if type(event) is not QuickResults or record.timestamp - before.snapshot_at >= self._every:
                return False
            results.append(event)
        last = events[-1].record
        step = fold_together(before, results, last.offset, last.timestamp, self._shard_of(job_id))
        if step is not None:
            self._put(job_id, step.state, step)
        return step is not None

    def _count_one(self, job_id: str, counted: _Counted) -> None:
        event, record, _, outputs = counted
        before, shard = self._jobs.get(job_id), self._shard_of(job_id)
        step = folding.fold(before, event, record.offset, record.timestamp, shard)
        state, due = step.state, _snapshot_due(before, step, record, self._every)
        if due:
            state = state.but(snapshot_at=record.timestamp)
        self._put(job_id, state, step)
        if due:
            outputs.append((self._topics.snapshots, snapshots.of(job_id, state)))
        if step.reruns and isinstance(event, AttemptOpened):
            outputs.append((self._topics.requests, _rerun(event.request, state, shard)))
        if step.cancels:
            cancelled = JobCancelled(job_id=job_id, attempt=state.attempt, cause=state.cause or "")
            outputs.append((self._topics.cancellations, cancelled))
        if step.completes:
            outputs.append((self._topics.completions, _completed(job_id, state, record)))

    def _shard_of(self, job_id: str) -> ReadShard:
        return partial(self._shards.get, job_id)

    def _put(self, job_id: str, state: JobState, step: Step) -> None:
        if step.changed:
            self._jobs.put(job_id, state)
        for (run, number), changed in step.shards.items():
            self._shards.put(job_id, run, number, changed)


def _snapshot_due(before: JobState | None, step: Step, record: Incoming, every: timedelta) -> bool:
    """At the end, and whenever the status changes; else at most once per `every` of record time, so that a replay sends the same ones."""
    last = step.state.snapshot_at
    if step.completes or before is None or before.status is not step.state.status:
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


def _completed(job_id: str, state: JobState, record: Incoming) -> JobCompleted:
    return JobCompleted(
        id=f"{job_id}:{state.attempt}",
        snapshot=snapshots.of(job_id, state),
        report_format=state.job.report_format if state.job else "jsonl",
        events=ResultsRange(partition=record.place.partition, first=state.first_offset, last=record.offset),
        plan=state.plan,
        run=state.run,
    )
