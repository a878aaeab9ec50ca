"""Reads again what Faust's consumer skipped.

Faust drops records that it has fetched already: when a rebalance or a recovery ends it empties its buffers, while its fetcher may be
filling them from the position after which it then goes on (seen with faust-streaming 0.15.3 at one start in ten under load). The ack
window sees the hole, because offsets are consecutive; here the consumer is sent back to it.
"""

import asyncio
import time
from typing import Any

import structlog
from aiokafka.errors import KafkaError
from faust.types import TP

from streams.ack_window import AckWindow, Place, SkippedRecord

_AGAIN_SECONDS = 0.5
"""Records that were on their way before the seek still arrive after it. Past this time, the seek itself was lost."""
_HOLE_AFTER, _GIVE_UP_AFTER = 3, 20
_WATCH_SECONDS = 2.0
_NOT_YET = (-1, -1, 0, 0.0)
"""Expected offset, the first one that came instead, tries, and when the last one was."""


class Rereads:
    """Of one app's consumer.

    Args:
        holes: the topic is compacted, so offsets may really be missing; accepted when they are missing three times in a row.
        beside: records are handled beside each other, so what is under way, perhaps for hours, keeps none from coming.
    """

    def __init__(self, app: Any, window: AckWindow, *, holes: bool, beside: bool) -> None:
        self._app, self._window, self._holes = app, window, holes
        self._beside = beside and not holes
        self._tries: dict[Place, tuple[int, int, int, float]] = {}

    async def begin(self, place: Place) -> None:
        """Tell the window where the partition starts: what is committed, or else its first record."""
        tp = TP(place.topic, place.partition)
        consumer = self._app.consumer
        earliest = (await consumer.earliest_offsets(tp))[tp]
        # The broker's word: Faust's note of it is filled in only some time after the partition was assigned.
        committed = await consumer._thread.call_thread(consumer._thread._ensure_consumer().committed, tp)
        if not self._window.knows(place):
            self._window.begin(place, max(committed or 0, earliest or 0))

    async def watch(self, topic: str) -> None:
        """Find skipped records that no later one gives away: the last ones of a partition. Runs until it is cancelled.

        The consumer's position is past what the window expects twice in a row, and nothing keeps records from being admitted: then these
        are not on their way to us any more. A record that comes twice is no harm.
        """
        before: dict[Place, tuple[int, int]] = {}
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            try:
                now = await self._ahead(topic)
            except KafkaError:
                now = {}  # no broker, or a rebalance just now
            for place, (expected, position) in now.items():
                if before.get(place) == (expected, position) and not self._held_up():
                    never = f"{place.topic}[{place.partition}]: {expected} to {position - 1} never came"
                    await self._go_back(place, expected, position, never)
            before = now

    async def _ahead(self, topic: str) -> dict[Place, tuple[int, int]]:
        """(expected, position) of each partition whose consumer is past what the window expects."""
        found: dict[Place, tuple[int, int]] = {}
        consumer = self._app.consumer
        for tp in [tp for tp in consumer.assignment() if tp.topic == topic]:
            place = Place(tp.topic, tp.partition)
            if self._app.rebalancing or self._held_up():
                return {}
            if not self._window.knows(place):
                await self.begin(place)
            expected, position = self._window.admitted(place), await consumer.position(tp)
            if self._window.knows(place) and position is not None and position > expected:
                found[place] = (expected, position)
        return found

    def _held_up(self) -> bool:
        """Whether records may wait for what is under way."""
        return self._window.full if self._beside else bool(len(self._window))

    async def skipped(self, place: Place, offset: int, error: SkippedRecord) -> bool:
        """Send the consumer back. True if there is nothing to go back for, so that `offset` may be admitted.

        Raises SkippedRecord when going back does not help.
        """
        expected, first, tries, last = self._tries.get(place, _NOT_YET)
        if expected == error.expected:
            if offset != first and time.monotonic() - last < _AGAIN_SECONDS:
                return False
            if tries >= _GIVE_UP_AFTER:
                raise error
        return await self._go_back(place, error.expected, offset, str(error))

    async def _go_back(self, place: Place, expected: int, at: int, detail: str) -> bool:
        """Send the consumer from `at` back to `expected`; True instead if there is nothing between them, so that `at` is next."""
        known, first, tries, _ = self._tries.get(place, _NOT_YET)
        if known != expected:
            first, tries = at, 0
            structlog.get_logger().warning("Consumer skipped records; reading them again", detail=detail)
        if self._holes and tries >= _HOLE_AFTER:
            self._window.accept_hole(place, at)
            del self._tries[place]
            return True
        self._tries[place] = (expected, first, tries + 1, time.monotonic())
        await self._app.consumer.seek(TP(place.topic, place.partition), expected)
        await asyncio.sleep(0)
        return False
