"""The ordered ack window: which offset of each partition may be committed.

Faust's own bookkeeping commits past records that are still under way (it forgives gaps), so we do not use it. Here a record is
*admitted* when its agent takes it, *done* when all its outputs and changelog writes are confirmed, and the position of a partition is
the first offset that is not done. Records finish in any order; the position moves over a contiguous prefix only.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple


class Place(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class SkippedRecord(Exception):
    """The consumer skipped `expected`. Committing past it would lose a record: it must be read again."""

    def __init__(self, place: Place, expected: int, offset: int) -> None:
        super().__init__(f"{place.topic}[{place.partition}]: offset {offset} came, {expected} was next")
        self.expected = expected


class _Partition:
    __slots__ = ("admitted", "entries", "lost")

    def __init__(self, admitted: int) -> None:
        self.entries: deque[Entry] = deque()
        self.admitted = admitted
        self.lost = False


class Entry:
    """One admitted record. Exactly one of `after(futures)` and `done()` is called, once."""

    __slots__ = ("_open", "_partition", "_window", "finished", "offset", "place")

    def __init__(self, window: "AckWindow", partition: _Partition, place: Place, offset: int) -> None:
        self._window, self._partition, self.place, self.offset = window, partition, place, offset
        self.finished = False

    @property
    def lost(self) -> bool:
        """The partition went to another worker; what is left of this record is that worker's work."""
        return self._partition.lost

    def done(self) -> None:
        assert not self.finished, f"{self.place}@{self.offset} was finished twice"
        self.finished = True
        self._window._finished(self._partition)

    def after(self, futures: Iterable["asyncio.Future[Any]"]) -> None:
        """Done once all futures are. One that fails is fatal, and the record is never acked."""
        pending = list(futures)
        if not pending:
            return self.done()
        self._open = len(pending)
        for future in pending:
            future.add_done_callback(self._one_done)
        return None

    def _one_done(self, future: "asyncio.Future[Any]") -> None:
        if (error := _failure(future)) is not None:
            return self._window.fail(error)
        self._open -= 1
        if not self._open:
            self.done()
        return None


class AckWindow:
    """All partitions of one agent.

    Args:
        limit: records under way at a time; `admit` waits when it is reached.
        fatal: told once of an error after which nothing is acked any more.
    """

    def __init__(self, limit: int, fatal: Callable[[BaseException], None]) -> None:
        self._limit, self._fatal = limit, fatal
        self._partitions: dict[Place, _Partition] = {}
        self._under_way = 0
        self._moved = asyncio.Event()
        self._failed = False

    def __len__(self) -> int:
        """Records under way."""
        return self._under_way

    @property
    def full(self) -> bool:
        return self._under_way >= self._limit

    def begin(self, place: Place, offset: int) -> None:
        """A partition came to us; `offset` is its first record that is not done yet."""
        self._partitions[place] = _Partition(offset - 1)

    def knows(self, place: Place) -> bool:
        return place in self._partitions

    async def admit(self, place: Place, offset: int) -> Entry | None:
        """None if this record was admitted before (after a rebalance Kafka repeats what is not committed yet), or if the partition
        went away while we waited.

        Raises SkippedRecord if the offset is not the next one.
        """
        while self.full:
            self._moved.clear()
            await self._moved.wait()
        partition = self._partitions.get(place)
        if partition is None or offset <= partition.admitted:
            return None
        if offset != partition.admitted + 1:
            raise SkippedRecord(place, partition.admitted + 1, offset)
        entry = Entry(self, partition, place, offset)
        partition.admitted = offset
        partition.entries.append(entry)
        self._under_way += 1
        return entry

    def accept_hole(self, place: Place, offset: int) -> None:
        """There is nothing between what was admitted and `offset`, which may be admitted next."""
        self._partitions[place].admitted = offset - 1

    def position(self, place: Place) -> int | None:
        """The offset to commit: the first one that is not done. None: not our partition."""
        partition = self._partitions.get(place)
        if partition is None or self._failed:
            return None
        return partition.entries[0].offset if partition.entries else partition.admitted + 1

    def admitted(self, place: Place) -> int:
        """The first offset that was not admitted yet; 0 if the partition is not known."""
        partition = self._partitions.get(place)
        return partition.admitted + 1 if partition else 0

    def places(self) -> list[Place]:
        return list(self._partitions)

    def keep_only(self, assigned: Collection[Place]) -> None:
        """Forget partitions that went to another worker."""
        for place in self._partitions.keys() - set(assigned):
            partition = self._partitions.pop(place)
            partition.lost = True
            self._under_way -= sum(not entry.finished for entry in partition.entries)
        self._moved.set()

    async def empty(self, timeout: float) -> bool:
        """Wait until nothing is under way; False at the deadline (seconds)."""
        try:
            async with asyncio.timeout(timeout):
                while self._under_way:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    def finish(self, entries: Iterable[Entry], confirmed: "asyncio.Future[Any]") -> None:
        """Done once `confirmed` is, which has ended. If it failed, that is fatal, and the records are never acked."""
        if (error := _failure(confirmed)) is not None:
            return self.fail(error)
        for entry in entries:
            entry.done()
        return None

    def fail(self, error: BaseException) -> None:
        if not self._failed:
            self._failed = True
            self._fatal(error)

    def _finished(self, partition: _Partition) -> None:
        if partition.lost:
            return
        self._under_way -= 1
        while partition.entries and partition.entries[0].finished:
            partition.entries.popleft()
        self._moved.set()


def _failure(future: "asyncio.Future[Any]") -> BaseException | None:
    return asyncio.CancelledError("output cancelled") if future.cancelled() else future.exception()
