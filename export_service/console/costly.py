"""What costs a reading of topics, shared by all who ask for it at a time, and kept for a while."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
_KEPT = 64
_SHARE = 10
"""A reading is repeated only after so many times as long as it took."""


class _Read(NamedTuple, Generic[T]):
    version: Hashable
    until: float
    value: T


class Costly(Generic[T]):
    """Args:
    read: raises what it likes; a failure is not kept.
    seconds: at least so long an answer is good while what it is of moves on; while its version stays the same, for ever.
    at_a_time: of all keys together.
    """

    def __init__(self, read: Callable[[str], Awaitable[T]], seconds: float, at_a_time: int = 2) -> None:
        self._read, self._seconds = read, seconds
        self._slots = asyncio.Semaphore(at_a_time)
        self._known: dict[str, _Read[T]] = {}
        self._flying: dict[str, asyncio.Task[T]] = {}

    async def get(self, key: str, version: Hashable = None) -> T:
        """`version`: of what it is read from; None: not known, so that an answer is good for `seconds` only."""
        known = self._known.get(key)
        if known is not None and ((version is not None and known.version == version) or time.monotonic() < known.until):
            return known.value
        if key not in self._flying:
            self._flying[key] = asyncio.create_task(self._fly(key, version))
        # One who goes away does not end it for the others.
        return await asyncio.shield(self._flying[key])

    async def _fly(self, key: str, version: Hashable) -> T:
        try:
            async with self._slots:
                begun = time.monotonic()
                value = await self._read(key)
            ended = time.monotonic()
            self._known.pop(key, None)
            self._known[key] = _Read(version, ended + max(self._seconds, _SHARE * (ended - begun)), value)
            while len(self._known) > _KEPT:
                del self._known[next(iter(self._known))]
            return value
        finally:
            del self._flying[key]

    def forget(self, key: str) -> None:
        self._known.pop(key, None)
