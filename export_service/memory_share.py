"""Memory that a process has for what waits to be uploaded: who wants more than is left waits in a line."""

import asyncio
from collections import deque


class MemoryShare:
    """`total` bytes. Who asks for more than that gets it when nobody else has any."""

    def __init__(self, total: int) -> None:
        self._total = self._left = total
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> int:
        """What has to be given back later."""
        size = min(size, self._total)
        if self._line or size > self._left:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._line.append((size, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.give_back(size)
                else:
                    self._line.remove((size, turn))
                    self._turns()
                raise
        else:
            self._left -= size
        return size

    def give_back(self, size: int) -> None:
        self._left += size
        self._turns()

    def _turns(self) -> None:
        while self._line and self._line[0][0] <= self._left:
            size, turn = self._line.popleft()
            self._left -= size
            turn.set_result(None)
