"""results -> tables -> snapshots and completions: folds every event of a job, and says once when the job has ended. A later run of a job
that failed goes back to requests, for the plan step to hand out what is left.

The record is acked when its changelog writes and outputs are confirmed; records are pipelined, and write together (`streams/together.py`).
A completion that was lost in a crash is sent again, because the record that caused it is not acked and folds to the same completion.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from export_service import jobs as folding
from export_service import snapshots
from export_service.jobs import JobState, Step
from export_service.messages import AttemptOpened, ExportRequested, JobCancelled, JobCompleted, JobEvent, Record, ResultsRange
from export_service.ports import Publisher
from export_service.readers import Unreadable
from export_service.rebuilt import JobRebuilt, job_of, put_back, read
from export_service.shards import ReadShard, Shard, bitmap_to_text
from streams.ack_window import Entry
from streams.dead_letters import DeadLetters
from streams.steps import Handle, Incoming
from streams.together import Together
from streams.topics import Topics, TopicSpec
from tables.jobs import Jobs
from tables.shards import Shards

Count = Callable[[JobEvent | JobRebuilt, Incoming], Awaitable[list["asyncio.Future[Any]"]]]
"""Folds one event, and gives what confirms its outputs."""
Told = Callable[[JobEvent | JobRebuilt, Step, datetime], None]
"""Hears of each event that was folded, what came of it, and its record's time."""


def tally(
    jobs: Jobs,
    shards: Shards,
    together: Together,
    publisher: Publisher,
    dead_letters: DeadLetters,
    topics: Topics,
    snapshot_every: timedelta,
    told: Told,
) -> Handle:
    count = counter(jobs, shards, publisher, topics, snapshot_every, told)

    async def handle(record: Incoming, entry: Entry) -> None:
        try:
            event = read(record.value or b"")
        except (ValidationError, Unreadable) as error:
            return entry.after([await dead_letters.put(record, error)])
        return together.add(entry, await count(event, record))

    return handle


def counter(
    jobs: Jobs,
    shards: Shards,
    publisher: Publisher,
    topics: Topics,
    snapshot_every: timedelta,
    told: Told = lambda *_: None,
) -> Count:
    """The tally without its consumer: a replay folds with it what was recorded."""

    async def count(event: JobEvent | JobRebuilt, record: Incoming) -> list["asyncio.Future[Any]"]:
        job_id = job_of(event)

        def shard(run: int, number: int) -> Shard:
            return shards.get(job_id, run, number)

        before = jobs.get(job_id)
        if isinstance(event, JobRebuilt):
            step = put_back(before, event, record.offset, shard)
        else:
            step = folding.fold(before, event, record.offset, record.timestamp, shard)
        told(event, step, record.timestamp)
        state, due = step.state, _snapshot_due(before, step, record, snapshot_every)
        if due:
            state = state.but(snapshot_at=record.timestamp)
        if step.changed:
            jobs.put(job_id, state)
        for (run, number), changed in step.shards.items():
            shards.put(job_id, run, number, changed)
        outputs: list[tuple[TopicSpec, Record]] = []
        if due:
            outputs.append((topics.snapshots, snapshots.of(job_id, state)))
        if step.reruns and isinstance(event, AttemptOpened):
            outputs.append((topics.requests, _rerun(event.request, state, shard)))
        if step.cancels:
            outputs.append((topics.cancellations, JobCancelled(job_id=job_id, attempt=state.attempt, cause=state.cause or "")))
        if step.completes:
            outputs.append((topics.completions, _completed(job_id, state, record.place.partition)))
        return [await publisher.send(topic.name, job_id.encode(), output.to_bytes()) for topic, output in outputs]

    return count


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
