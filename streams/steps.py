"""How a step reads its topic: one Faust agent, concurrency 1, and our ack window in front of the step's own concurrency.

A step is a function `handle(record, entry)`. It keeps the entry and finishes it later (download), or runs beside its neighbours
(`concurrent`: plan, callback, snapshot). The tally takes many records of a partition at a time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from export_service.messages import from_millis
from streams.ack_window import AckWindow, Entry, Place, SkippedRecord
from streams.rereads import Rereads


class Incoming(NamedTuple):
    """One record as bytes. `timestamp` is the record's own."""

    place: Place
    offset: int
    timestamp: datetime
    key: bytes | None
    value: bytes | None

    def __str__(self) -> str:
        return f"{self.place.topic}:{self.place.partition}:{self.offset}"


class Taken(NamedTuple):
    """A record, and the entry that is finished when all that it led to is confirmed."""

    record: Incoming
    entry: Entry


class Volume:
    """What a step's agent has taken, repeats included."""

    __slots__ = ("bytes", "records")

    def __init__(self) -> None:
        self.records = self.bytes = 0


Handle = Callable[[Incoming, Entry], Awaitable[None]]
HandleMany = Callable[[Sequence[Taken]], Awaitable[None]]
"""Given records of one partition, in order."""
_TURN = 32
"""Records after which others have a turn of the loop."""
_MANY_BYTES = 512 * 1024
"""After which a step that takes many records at a time handles them."""


def one_by_one(handle: Handle) -> HandleMany:
    async def each(taken: Sequence[Taken]) -> None:
        for record, entry in taken:
            await handle(record, entry)

    return each


def step_agent(
    window: AckWindow,
    rereads: Rereads,
    handle: HandleMany,
    current: Callable[[int], bool],
    volume: Volume,
    most: int = 1,
) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """The Faust agent function of a step. What escapes `handle` stops the worker: offsets stay, the record replays.

    Args:
        most: records that `handle` is given at a time.
        current: whether records of this generation of the group may be handled. What is left of a bundle comes again otherwise.
    """

    async def admit(place: Place, offset: int) -> Entry | None:
        if not window.knows(place):
            await rereads.begin(place)
        try:
            return await window.admit(place, offset)
        except SkippedRecord as skipped:
            return await window.admit(place, offset) if await rereads.skipped(place, offset, skipped) else None

    async def take(place: Place, records: Sequence[Any], generation: int) -> int:
        """Handle the first of these; how many. 0 if they are not ours any more."""
        taken: list[Taken] = []
        number = size = 0
        for record in records:
            # What was taken may be what keeps the window full.
            if size >= _MANY_BYTES or (taken and window.full) or not current(generation):
                break
            number, size = number + 1, size + len(record.value or b"")
            entry = await admit(place, record.offset)
            if entry is not None:
                incoming = Incoming(place, record.offset, from_millis(record.timestamp), record.key, record.value)
                taken.append(Taken(incoming, entry))
                volume.records += 1
                volume.bytes += len(record.key or b"") + len(record.value or b"")
        # A wait for an entry may have taken the partition with those before it.
        if taken := [each for each in taken if not each.entry.lost]:
            await handle(taken)
        return number

    async def agent(stream: Any) -> None:
        try:
            async for event in stream.noack().events():
                bundle = event.message
                place, first, turn = Place(bundle.topic, bundle.partition), 0, 0
                while number := await take(place, bundle.records[first : first + most], bundle.generation_id):
                    first, turn = first + number, turn + number
                    if turn >= _TURN:
                        turn = 0
                        await asyncio.sleep(0)
        except Exception as error:
            window.fail(error)
            # Returning would let Faust restart the agent and take the next record.
            await asyncio.Event().wait()

    return agent


def beside(work: Coroutine[Any, Any, None], fatal: Callable[[BaseException], None]) -> "asyncio.Task[None]":
    """Run `work` beside everything else. It may be cancelled but must not fail: `fatal` is told if it does."""

    def ended(done: "asyncio.Task[None]") -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            fatal(error)

    task = asyncio.create_task(work)
    task.add_done_callback(ended)
    return task


class Concurrent:
    """Runs a step's records beside each other, at most `limit` at a time."""

    def __init__(self, window: AckWindow, handle: Handle, limit: int) -> None:
        self._window, self._handle = window, handle
        self._slots = asyncio.Semaphore(limit)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, record: Incoming, entry: Entry) -> None:
        await self._slots.acquire()
        task = asyncio.create_task(self._run(record, entry), name=f"step {record}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, record: Incoming, entry: Entry) -> None:
        try:
            await self._handle(record, entry)
        except Exception as error:
            self._window.fail(error)
        finally:
            self._slots.release()

    async def stop(self) -> None:
        """Cancel what is still running; its records are not acked and come again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
