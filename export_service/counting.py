"""The outcomes that one event brings, by shard: what the fold joins to what is known."""

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from export_service.messages import Outcome
from export_service.shards import SHARD_TASKS

_SUCCEEDED = Outcome.SUCCEEDED
"""Enum members are slow to look up, and this is done for each result."""


class CountedResult(Protocol):
    """As much of a TaskResult as is counted."""

    @property
    def index(self) -> int: ...
    @property
    def outcome(self) -> Outcome: ...
    @property
    def bytes(self) -> int: ...


class Counted(NamedTuple):
    """Tasks of one shard as bitmaps; `sizes` is the bytes of those that succeeded, by their bit."""

    succeeded: int
    failed: int
    cancelled: int
    sizes: dict[int, int]

    def fresh(self, known: int) -> int:
        """Bytes of the tasks that had not succeeded, `known` being those that had."""
        if not self.succeeded & known:
            return sum(self.sizes.values())
        return sum(size for bit, size in self.sizes.items() if not known >> bit & 1)


def by_shard(results: Sequence[CountedResult], total: int | None) -> dict[int, Counted]:
    """Number of a shard -> what the results say of it. Tasks that are not in a plan of `total` tasks are left out.

    Of several outcomes of one task in one event all are noted, and the first size.
    """
    indices = [result.index for result in results]
    if not indices:
        return {}
    first, last = min(indices), max(indices)
    if total is not None and last >= total:
        return by_shard([result for result in results if result.index < total], None)
    if first // SHARD_TASKS == last // SHARD_TASKS:  # as all that the download step sends
        return {first // SHARD_TASKS: _count(results)}
    shards: dict[int, list[CountedResult]] = {}
    for result in results:
        shards.setdefault(result.index // SHARD_TASKS, []).append(result)
    return {number: _count(some) for number, some in shards.items()}


def _count(results: Sequence[CountedResult]) -> Counted:
    sizes = {result.index % SHARD_TASKS: result.bytes for result in reversed(results) if result.outcome is _SUCCEEDED}
    if len(sizes) == len(results):
        return Counted(_bitmap(sizes), 0, 0, sizes)
    failed = [result.index % SHARD_TASKS for result in results if result.outcome is Outcome.FAILED]
    cancelled = [result.index % SHARD_TASKS for result in results if result.outcome is Outcome.CANCELLED]
    return Counted(_bitmap(sizes), _bitmap(failed), _bitmap(cancelled), sizes)


def _bitmap(bits: Collection[int]) -> int:
    """Made in small numbers: a bit of a large one costs as much as all of it."""
    if not bits:
        return 0
    lowest, bitmap = min(bits), 0
    for bit in bits:
        bitmap |= 1 << bit - lowest
    return bitmap << lowest
