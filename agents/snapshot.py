"""snapshots -> DynamoDB: the newest state of each job where people and programs can ask for it.

The store refuses anything older than what it has, so order and repeats do not matter here. While a write of a job is under way, newer
snapshots of the same job wait as one: only the newest is written.
"""

from typing import Any

from pydantic import ValidationError

from export_service.backoff import until_available
from export_service.messages import JobSnapshot
from export_service.ports import SnapshotStore
from streams.ack_window import Entry
from streams.dead_letters import DeadLetters
from streams.steps import Handle, Incoming


def snapshot(store: SnapshotStore, dead_letters: DeadLetters, log: Any) -> Handle:
    waiting: dict[str, tuple[JobSnapshot, list[Entry]]] = {}
    writing: set[str] = set()

    async def handle(record: Incoming, entry: Entry) -> None:
        try:
            new = JobSnapshot.model_validate_json(record.value or b"")
        except ValidationError as error:
            return entry.after([await dead_letters.put(record, error)])
        known, entries = waiting.get(new.job_id, (new, []))
        newest = max(known, new, key=lambda snapshot: (snapshot.attempt, snapshot.version))
        waiting[new.job_id] = (newest, [*entries, entry])
        if new.job_id in writing:
            return None
        writing.add(new.job_id)
        try:
            while new.job_id in waiting:
                newest, entries = waiting.pop(new.job_id)
                await until_available(lambda written=newest: store.put(written), log)  # type: ignore[misc]
                for done in entries:
                    done.done()
        finally:
            writing.discard(new.job_id)
        return None

    return handle
