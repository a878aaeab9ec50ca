"""What each event of a job has moved."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from export_service.jobs import JobState
from export_service.messages import AttemptOpened, JobEvent, JobStatus, TaskResults, from_millis, iso_millis
from export_service.verify.evidence import Raw


class Moved(NamedTuple):
    """What one record did to its job. `before` is None for its first."""

    raw: Raw
    event: JobEvent
    before: JobState | None
    after: JobState

    @property
    def ended(self) -> bool:
        """It ended the job, or answered a newer attempt of one that had."""
        return self.after.completed_offset == self.raw.offset


class Counted(NamedTuple):
    """Some records one after the other in one partition, and how they moved the counts together."""

    first: Raw
    last: Raw
    records: int
    succeeded: int
    failed: int
    cancelled: int
    bytes: int

    @property
    def place(self) -> str:
        more = f"-{self.last.offset}" if self.last.offset > self.first.offset else ""
        return self.first.place + more

    def as_json(self) -> dict[str, object]:
        moved = {"succeeded": self.succeeded, "failed": self.failed, "cancelled": self.cancelled, "bytes": self.bytes}
        return {"place": self.place, "at": iso_millis(from_millis(self.last.timestamp)), "records": self.records, **moved}


def counted(moves: Iterable[Moved]) -> list[Counted]:
    """Records that moved a count, one by one."""
    found = []
    for raw, _, before, after in moves:
        was = (before.succeeded, before.failed, before.cancelled, before.bytes) if before else (0, 0, 0, 0)
        change = after.succeeded - was[0], after.failed - was[1], after.cancelled - was[2], after.bytes - was[3]
        if any(change):
            found.append(Counted(raw, raw, 1, *change))
    return found


def grouped(found: list[Counted], most: int) -> list[Counted]:
    """At most `most`: neighbours together."""
    if len(found) <= most:
        return found
    size = -(-len(found) // most)
    return list(_grouped(found, size))


def _grouped(found: list[Counted], size: int) -> Iterator[Counted]:
    for start in range(0, len(found), size):
        some = found[start : start + size]
        records, succeeded, failed, cancelled, added = (sum(column) for column in zip(*(each[2:] for each in some), strict=True))
        yield Counted(some[0].first, some[-1].last, records, succeeded, failed, cancelled, added)


def ignored(moves: Iterable[Moved]) -> dict[str, int]:
    """Why records of outcomes moved nothing -> how many."""
    found: dict[str, int] = {}
    for moved in moves:
        if (why := _ignored(moved)) is not None:
            found[why] = found.get(why, 0) + 1
    return found


def _ignored(moved: Moved) -> str | None:
    _, event, before, after = moved
    if isinstance(event, AttemptOpened):
        return None if before is None or after.attempt != before.attempt else "attempt that was not the newest, or without a token"
    if not isinstance(event, TaskResults) or before is None or after.offset == moved.raw.offset:
        return None
    if before.status.terminal:
        return "came after the end"
    return "of an older list of files" if event.attempt < before.plan else "said again what was known"


def opened(moved: Moved) -> str:
    """What a new attempt meant."""
    before, after = moved.before, moved.after
    if before is None or after.attempt == before.attempt:
        return "changes nothing"
    if not before.status.terminal:
        return "takes over the answer of the job that runs"
    if before.status is JobStatus.COMPLETED:
        return "gets the answer of the job that has succeeded"
    return "begins a run of what has not succeeded" if after.plan < after.run else "begins anew, with a list of its own"
