"""What many records wrote into tables goes out together, ten times a second: of several writes of one key only the last.

A record is acked when all that it wrote, and sent, is confirmed. So a crash repeats at most the records of the last moments, as with any
commit; but a job whose results come by the thousand has a few changelog records a second, and not one for each of them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from streams.ack_window import Entry

Flush = Callable[[], Awaitable[list["asyncio.Future[Any]"]]]
"""Sends the tables' unsent changelog writes; the futures confirm them."""
SECONDS = 0.1


class Together:
    """`add` records, `run` beside. Whoever writes holds `writing` from the first write of a record to its `add`."""

    def __init__(self, flush: Flush, seconds: float = SECONDS) -> None:
        self._flush, self._seconds = flush, seconds
        self._taken: list[tuple[Entry, Sequence[asyncio.Future[Any]]]] = []
        self._some, self.writing = asyncio.Event(), asyncio.Lock()

    def add(self, entry: Entry, outputs: Sequence["asyncio.Future[Any]"]) -> None:
        """Ack it when `outputs`, and the writes that it has made, are confirmed."""
        self._taken.append((entry, outputs))
        self._some.set()

    async def run(self) -> None:
        """Until it is cancelled. Raises what a send raises."""
        while True:
            await self._some.wait()
            await asyncio.sleep(self._seconds)
            async with self.writing:
                self._some.clear()
                taken, self._taken = self._taken, []
                writes = await self._flush()
            together = [asyncio.gather(*writes)] if writes else []
            for entry, outputs in taken:
                entry.after([*outputs, *together])
