"""snapshots -> DynamoDB: the newest state of each job where people and programs can ask for it.

The store refuses anything older than what it has, so order and repeats do not matter here. While a write of a job is under way, and a
moment before it, newer snapshots of the same job wait as one: only the newest is written. The last one of a job waits for nothing.
"""

import asyncio
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from export_service.backoff import until_available
from export_service.messages import JobSnapshot
from export_service.ports import SnapshotStore
from streams.ack_window import Entry
from streams.dead_letters import DeadLetters
from streams.steps import Handle, Incoming

_MOMENT = 0.1
"""Seconds. A small job is over in it: then one write says all."""


def snapshot(store: SnapshotStore, dead_letters: DeadLetters, log: Any) -> Handle:
    waiting: dict[str, tuple[JobSnapshot, list[Entry]]] = {}
    writing: dict[str, asyncio.Event] = {}

    async def handle(record: Incoming, entry: Entry) -> None:
        try:
            new = JobSnapshot.model_validate_json(record.value or b"")
        except ValidationError as error:
            return entry.after([await dead_letters.put(record, error)])
        known, entries = waiting.get(new.job_id, (new, []))
        newest = max(known, new, key=lambda snapshot: (snapshot.attempt, snapshot.version))
        waiting[new.job_id] = (newest, [*entries, entry])
        ended = writing.get(new.job_id)
        if ended is not None:
            if newest.status.terminal:
                ended.set()
            return None
        ended = writing[new.job_id] = asyncio.Event()
        try:
            while new.job_id in waiting:
                if not waiting[new.job_id][0].status.terminal:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(ended.wait(), _MOMENT)
                newest, entries = waiting.pop(new.job_id)
                await until_available(lambda written=newest: store.put(written), log)  # type: ignore[misc]
                for done in entries:
                    done.done()
        finally:
            del writing[new.job_id]
        return None

    return handle
