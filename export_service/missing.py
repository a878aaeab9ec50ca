"""Which tasks of a job have no outcome, in few words."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from export_service.jobs import JobState, all_numbers
from export_service.shards import SHARD_TASKS, ReadShard

_RANGES = 10
"""Named; a job with more gaps is told apart by the first ones and the number."""


@dataclass(frozen=True)
class Missing:
    """`count` tasks; `text` is `0-4, 17, 8192-8200`, and ends in `, …` if there are more."""

    count: int
    text: str


def missing(state: JobState, shard: ReadShard) -> Missing | None:
    """Of the newest run; None while the list of files is being read, because nobody knows then what there will be."""
    if state.total is None:
        return None
    lefts = [left(state.total, number, state.run, shard) for number in all_numbers(state)]
    return Missing(sum(map(int.bit_count, lefts)), ranges(lefts))


def ranges(bitmaps: list[int]) -> str:
    """`0-4, 17, …`: the tasks in the bitmaps of shards 0, 1, …"""
    found = list(islice(_joined(bitmaps), _RANGES + 1))
    named = [f"{first}-{last}" if last > first else str(first) for first, last in found[:_RANGES]]
    return ", ".join([*named, "…"] if len(found) > _RANGES else named)


def left(total: int, number: int, run: int, shard: ReadShard) -> int:
    """Tasks of a shard without an outcome, as a bitmap."""
    known, tasks = shard(run, number), min(SHARD_TASKS, total - number * SHARD_TASKS)
    return ~(known.succeeded | known.failed | known.cancelled) & ((1 << tasks) - 1)


def _joined(lefts: list[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of each range, over the borders of shards."""
    first = last = -1
    for number, left in enumerate(lefts):
        for begin, length in _runs(left):
            at = number * SHARD_TASKS + begin
            if first >= 0 and at > last + 1:
                yield first, last
                first = -1
            first, last = at if first < 0 else first, at + length - 1
    if first >= 0:
        yield first, last


def _runs(bits: int) -> Iterator[tuple[int, int]]:
    """(first bit, length) of each run of ones."""
    at = 0
    while bits:
        zeros = (bits & -bits).bit_length() - 1
        bits >>= zeros
        ones = (~bits & (bits + 1)).bit_length() - 1
        bits >>= ones
        yield at + zeros, ones
        at += zeros + ones
