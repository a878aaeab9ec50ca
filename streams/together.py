"""What many records put into tables goes out together, twice a second: of several values of one key only the last.

A record is acked when all that it put, and sent, is confirmed. So a crash repeats at most the records of the last moments, as with any
commit; but a job whose results come by the thousand has a few changelog records a second, and not one for each of them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import structlog

from streams.ack_window import AckWindow, Entry

Flush = Callable[[], Awaitable[list["asyncio.Future[Any]"]]]
"""Sends what was put into the tables; the futures confirm it."""
SECONDS = 0.5
MOST = 5_000
"""Records after which the time is not waited for."""
_COMPLAIN_SECONDS = 10.0


class Together:
    """`add` records when they have put what they put, `run` beside.

    Args:
        owns: whether nobody else can have this worker's partitions. While it is not known, nothing goes out.
    """

    def __init__(self, flush: Flush, window: AckWindow, owns: Callable[[], bool], seconds: float = SECONDS) -> None:
        self._flush, self._window, self._owns, self._seconds = flush, window, owns, seconds
        self._entries: list[Entry] = []
        self._outputs: list[asyncio.Future[Any]] = []
        self._some, self._many = asyncio.Event(), asyncio.Event()

    def add(self, entry: Entry, outputs: Sequence["asyncio.Future[Any]"]) -> None:
        """Ack it when `outputs`, and what it has put, are confirmed."""
        self._entries.append(entry)
        self._outputs.extend(outputs)
        self._some.set()
        if len(self._entries) >= MOST:
            self._many.set()

    def again(self) -> None:
        """Flush once more, also if no record comes."""
        self._some.set()

    async def run(self) -> None:
        """Until it is cancelled. Raises what a send raises."""
        while True:
            await self._some.wait()
            try:
                async with asyncio.timeout(self._seconds):
                    await self._many.wait()
            except TimeoutError:
                pass
            await self._until_owned()
            self._some.clear()
            self._many.clear()
            entries, outputs = self._entries, self._outputs
            self._entries, self._outputs = [], []
            confirmed = asyncio.gather(*await self._flush(), *outputs)
            confirmed.add_done_callback(partial(self._window.finish, entries))

    async def _until_owned(self) -> None:
        complain = time.monotonic() + _COMPLAIN_SECONDS
        while not self._owns():
            await asyncio.sleep(self._seconds)
            if time.monotonic() > complain:
                complain = float("inf")
                structlog.get_logger().warning(
                    "Tables wait to be written: no answer of the consumer group for most of a session timeout"
                )
