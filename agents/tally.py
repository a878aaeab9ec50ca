"""results -> tables -> snapshots and completions: folds every event of a job, and says once when the job has ended. A later run of a job
that failed goes back to requests, for the plan step to hand out what is left.

The record is acked when its changelog writes and outputs are confirmed; records are pipelined, and write together (`streams/together.py`).
A completion that was lost in a crash is sent again, because the record that caused it is not acked and folds to the same completion.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from agents.counter import Counter, Happened, Outputs, Told
from export_service.ports import Publisher
from export_service.readers import Unreadable
from export_service.rebuilt import job_of, read
from streams.ack_window import Entry
from streams.dead_letters import DeadLetters
from streams.steps import Incoming, Taken
from streams.together import Together
from streams.topics import Topics
from tables.jobs import Jobs
from tables.shards import Shards


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
        told: Told,
    ) -> None:
        self._counter, self._together = Counter(jobs, shards, topics, snapshot_every, told), together
        self._publisher, self._dead_letters, self._snapshots = publisher, dead_letters, topics.snapshots.name

    async def handle(self, taken: Sequence[Taken]) -> None:
        by_job: dict[str, list[Happened]] = {}
        counted: list[tuple[Entry, str, Outputs]] = []
        refused: list[tuple[Incoming, Entry, ValidationError | Unreadable]] = []
        for record, entry in taken:
            try:
                event = read(record.value or b"")
            except (ValidationError, Unreadable) as error:
                refused.append((record, entry, error))
                continue
            job_id = job_of(event)
            outputs: Outputs = []
            by_job.setdefault(job_id, []).append(Happened(event, record, outputs, entry))
            counted.append((entry, job_id, outputs))
        for job_id, events in by_job.items():
            self._counter.count(job_id, events)
        for entry, job_id, outputs in counted:
            self._together.add(entry, await self._send(job_id, outputs) if outputs else ())
        for record, entry, invalid in refused:
            entry.after([await self._dead_letters.put(record, invalid)])

    async def flush(self) -> list["asyncio.Future[Any]"]:
        """Tell of jobs that stand still before their next snapshot was due."""
        if self._counter.has_untold:
            self._together.again()
        return [
            await self._publisher.send(self._snapshots, snapshot.job_id.encode(), snapshot.to_bytes())
            for snapshot in self._counter.still()
        ]

    async def _send(self, job_id: str, outputs: Outputs) -> list["asyncio.Future[Any]"]:
        return [await self._publisher.send(topic.name, job_id.encode(), output.to_bytes()) for topic, output in outputs]
