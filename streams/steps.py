"""How a step reads its topic: one Faust agent, concurrency 1, and our ack window in front of the step's own concurrency.

A step is a function `handle(record, entry)`. It either finishes what it does before it returns (tally), or keeps the entry and
finishes it later (download), or runs beside its neighbours (`concurrent`: plan, callback, snapshot).
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
    headers: Sequence[tuple[str, bytes]] = ()

    def __str__(self) -> str:
        return f"{self.place.topic}:{self.place.partition}:{self.offset}"


Handle = Callable[[Incoming, Entry], Awaitable[None]]
_TURN = 32
"""Records after which others have a turn of the loop."""


def step_agent(
    window: AckWindow, rereads: Rereads, handle: Handle, current: Callable[[int], bool]
) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """The Faust agent function of a step. What escapes `handle` stops the worker: offsets stay, the record replays.

    Args:
        current: whether records of this generation of the group may be handled. What is left of a bundle comes again otherwise.
    """

    async def admit(place: Place, offset: int) -> Entry | None:
        if not window.knows(place):
            await rereads.begin(place)
        try:
            return await window.admit(place, offset)
        except SkippedRecord as skipped:
            return await window.admit(place, offset) if await rereads.skipped(place, offset, skipped) else None

    async def agent(stream: Any) -> None:
        try:
            async for event in stream.noack().events():
                bundle = event.message
                place = Place(bundle.topic, bundle.partition)
                for number, record in enumerate(bundle.records, start=1):
                    if not current(bundle.generation_id):
                        break
                    entry = await admit(place, record.offset)
                    if entry is not None:
                        at = from_millis(record.timestamp)
                        await handle(Incoming(place, record.offset, at, record.key, record.value, record.headers), entry)
                    if number % _TURN == 0:
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
