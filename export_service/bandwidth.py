"""Bytes that may come in a second: one bucket for all that a process receives.

Whoever has received something takes as much from the bucket, also more than is there. With an empty bucket nobody takes: who comes then
waits in a line, and stops reading, so that the source stops sending. Costs nothing without a limit.
"""

import asyncio
from collections import deque
from collections.abc import Callable

_BURST_SECONDS = 0.1
"""What an idle moment may be made good with."""
_BUFFER_SECONDS = 0.05
_LEAST_BUFFER, _MOST_BUFFER = 64 * 1024, 4 * 1024 * 1024
"""The kernel's own choice is megabytes for each connection: with those a slow limit would be felt by nobody for a minute."""


class Bandwidth:
    """`rate` is bytes a second, 0 without a limit; changed with `limit`."""

    def __init__(self) -> None:
        self.rate = 0.0
        self._left, self._at = 0.0, 0.0
        self._line: deque[Callable[[], None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def limit(self, rate: float) -> None:
        self._refill()
        self.rate = rate
        self._left = min(self._left, rate * _BURST_SECONDS)
        if self._timer is not None:
            self._timer.cancel()
        self._turns()

    def buffer(self) -> int:
        """Bytes that a new connection's kernel may hold for us, which nobody counts yet; 0: as many as it likes."""
        size = int(self.rate * _BUFFER_SECONDS)
        return max(_LEAST_BUFFER, size) if 0 < size < _MOST_BUFFER else 0

    def take(self, size: int) -> bool:
        """False: not now; get in line with `wait`."""
        self._refill()
        if self._left <= 0:
            return False
        self._left -= size
        return True

    def spend(self, size: int) -> None:
        """It has come already, whether or not there was room."""
        self._left -= size

    def wait(self, turn: Callable[[], None]) -> None:
        """`turn` is called, once, when something may be taken; it may find that others were faster."""
        self._line.append(turn)
        if self._timer is None:
            self._set_timer()

    def _refill(self) -> None:
        now = asyncio.get_running_loop().time()
        self._left = min(self._left + (now - self._at) * self.rate, self.rate * _BURST_SECONDS)
        self._at = now

    def _turns(self) -> None:
        self._timer = None
        self._refill()
        # Those who are here now, once each: one that finds nothing left is at the end of the line again.
        for _ in range(len(self._line)):
            if self.rate and self._left <= 0:
                break
            self._line.popleft()()
        if self._line and self._timer is None:
            self._set_timer()

    def _set_timer(self) -> None:
        seconds = max(0.001, (1 - self._left) / self.rate) if self.rate else 0.0
        self._timer = asyncio.get_running_loop().call_later(seconds, self._turns)
