"""Why tasks of a job have no outcome: where each of them is."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

from export_service.history.records import JobRecords, body
from export_service.jobs import JobState, all_numbers
from export_service.missing import left, ranges
from export_service.shards import SHARD_TASKS, ReadShard
from export_service.verify.evidence import Raw

NOT_HANDED_OUT, UNDER_WAY, LOST = "not handed out", "handed out", "lost"


class Gap(NamedTuple):
    """Some tasks, as `0-4, 17`, and why they miss. `kind` is one of the three above."""

    kind: str
    number: int
    tasks: str
    why: str

    def as_json(self) -> dict[str, Any]:
        return self._asdict()


def gaps(job: JobRecords, state: JobState, shard: ReadShard, *, now: bool) -> list[Gap]:
    """Of a job whose list of files is known. `now`: what the workers have committed is of the same moment as the records."""
    if state.total is None or state.status.terminal:
        return []
    latest = _batches(job, state)
    kinds: dict[str, dict[int, int]] = {kind: defaultdict(int) for kind in (LOST, UNDER_WAY, NOT_HANDED_OUT)}
    oldest: dict[str, Raw] = {}
    for number in all_numbers(state):
        bits = left(state.total, number, state.run, shard)
        while bits:
            lowest = bits & -bits
            bits ^= lowest
            raw = latest.get(number * SHARD_TASKS + lowest.bit_length() - 1)
            kind = NOT_HANDED_OUT if raw is None else LOST if now and job.committed(raw) else UNDER_WAY
            kinds[kind][number] |= lowest
            if raw is not None and (kind not in oldest or raw.timestamp < oldest[kind].timestamp):
                oldest[kind] = raw
    size = len(all_numbers(state))
    return [
        Gap(kind, sum(map(int.bit_count, found.values())), ranges([found[number] for number in range(size)]), why)
        for kind, found in kinds.items()
        if found
        for why in [_WHY[kind](job, oldest.get(kind), now)]
    ]


def _batches(job: JobRecords, state: JobState) -> dict[int, Raw]:
    """Task -> the last batch of this run that it was in."""
    found: dict[int, Raw] = {}
    for raw in sorted(job.of("tasks"), key=lambda raw: raw.timestamp):
        batch = body(raw) or {}
        if batch.get("attempt", 1) >= state.run:
            for task in batch.get("tasks", ()):
                found[task["index"]] = raw
    return found


def _not_handed_out(job: JobRecords, _raw: Raw | None, now: bool) -> str:
    if not now:
        return "the plan step had not handed them out yet"
    if not job.of("tasks") and job.cut is not None:
        return "no batch of them is on tasks; retention may have removed it"
    return "the plan step hands out as fast as download workers take; no batch of them is on tasks yet"


def _under_way(job: JobRecords, raw: Raw | None, now: bool) -> str:
    assert raw is not None
    if not now:
        return f"handed out ({raw.place} is the oldest), and not ended by then"
    at = job.bounds[raw.topic, raw.partition].done
    before = raw.offset - at
    waits = f"{before:,} other records of the partition before it" if before > 0 else "it is next, or being downloaded"
    return f"handed out; the oldest is {raw.place}, and the download workers have finished up to {at}: {waits}"


def _lost(_job: JobRecords, raw: Raw | None, _now: bool) -> str:
    assert raw is not None
    return f"{raw.place} is committed, and no outcome is on results: it is a dead letter, or lost"


_WHY: dict[str, Callable[[JobRecords, Raw | None, bool], str]] = {
    NOT_HANDED_OUT: _not_handed_out,
    UNDER_WAY: _under_way,
    LOST: _lost,
}
