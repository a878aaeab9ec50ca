"""results -> tables -> snapshots and completions: folds every event of a job, and says once when the job has ended. A later run of a job
that failed goes back to requests, for the plan step to hand out what is left.

The record is acked when its changelog writes and outputs are confirmed; records are pipelined, there is no round trip per record.
A completion that was lost in a crash is sent again, because the record that caused it is not acked and folds to the same completion.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from export_service import jobs as folding
from export_service import snapshots
from export_service.jobs import JobState, Step
from export_service.messages import AttemptOpened, ExportRequested, JobCancelled, JobCompleted, ResultsRange, job_events
from export_service.ports import Publisher
from export_service.shards import ReadShard, Shard, bitmap_to_text
from streams.ack_window import Entry
from streams.dead_letters import DeadLetters
from streams.steps import Handle, Incoming
from streams.topics import Topics
from tables.jobs import Jobs
from tables.shards import Shards

Flush = Callable[[], Awaitable[list["asyncio.Future[Any]"]]]
"""Sends the tables' unsent changelog writes; the futures confirm them."""


def tally(
    jobs: Jobs,
    shards: Shards,
    flush: Flush,
    publisher: Publisher,
    dead_letters: DeadLetters,
    topics: Topics,
    snapshot_every: timedelta,
) -> Handle:
    async def handle(record: Incoming, entry: Entry) -> None:
        def shard(run: int, number: int) -> Shard:
            return shards.get(job_id, run, number)

        try:
            event = job_events.validate_json(record.value or b"")
        except ValidationError as error:
            return entry.after([await dead_letters.put(record, error)])
        job_id = folding.job_of(event)
        before = jobs.get(job_id)
        step = folding.fold(before, event, record.offset, record.timestamp, shard)
        state, due = step.state, _snapshot_due(before, step, record, snapshot_every)
        if due:
            state = state.model_copy(update={"snapshot_at": record.timestamp})
        if step.changed:
            jobs.put(job_id, state)
        for (run, number), changed in step.shards.items():
            shards.put(job_id, run, number, changed)
        confirmations = await flush()
        key = job_id.encode()
        if due:
            snapshot = snapshots.of(job_id, state)
            confirmations.append(await publisher.send(topics.snapshots.name, key, snapshot.to_bytes()))
        if step.reruns and isinstance(event, AttemptOpened):
            again = _rerun(event.request, state, shard)
            confirmations.append(await publisher.send(topics.requests.name, key, again.to_bytes()))
        if step.cancels:
            cancelled = JobCancelled(job_id=job_id, attempt=state.attempt, cause=state.cause or "")
            confirmations.append(await publisher.send(topics.cancellations.name, key, cancelled.to_bytes()))
        if step.completes:
            completed = _completed(job_id, state, record)
            confirmations.append(await publisher.send(topics.completions.name, key, completed.to_bytes()))
        return entry.after(confirmations)

    return handle


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
