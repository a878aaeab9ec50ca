"""What costs a reading of topics, shared by all who ask for it at a time, and kept for a while."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
_KEPT = 64
_SHARE = 10
"""A reading is repeated only after so many times as long as it took."""


class Read(NamedTuple, Generic[T]):
    """`at`: when its reading began, as time.monotonic() says."""

    value: T
    at: float
    until: float


class Costly(Generic[T]):
    """Args:
    read: raises what it likes; a failure is not kept.
    seconds: at least so long an answer is given again.
    at_a_time: of all keys together.
    """

    def __init__(self, read: Callable[[str], Awaitable[T]], seconds: float, at_a_time: int = 2) -> None:
        self._read, self._seconds = read, seconds
        self._slots = asyncio.Semaphore(at_a_time)
        self._known: dict[str, Read[T]] = {}
        self._flying: dict[str, asyncio.Task[Read[T]]] = {}

    async def get(self, key: str, good_since: float = float("inf")) -> Read[T]:
        """`good_since`: what was read after that moment is good for ever."""
        known = self._known.get(key)
        if known is not None and (known.at >= good_since or time.monotonic() < known.until):
            return known
        if key not in self._flying:
            self._flying[key] = asyncio.create_task(self._fly(key))
        # One who goes away does not end it for the others.
        return await asyncio.shield(self._flying[key])

    async def _fly(self, key: str) -> Read[T]:
        try:
            async with self._slots:
                begun = time.monotonic()
                value = await self._read(key)
            ended = time.monotonic()
            self._known.pop(key, None)
            found = self._known[key] = Read(value, begun, ended + max(self._seconds, _SHARE * (ended - begun)))
            while len(self._known) > _KEPT:
                del self._known[next(iter(self._known))]
            return found
        finally:
            del self._flying[key]

    def forget(self, key: str) -> None:
        self._known.pop(key, None)
