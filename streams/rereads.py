"""Reads again what Faust's consumer skipped.

Faust drops records that it has fetched already: when a rebalance or a recovery ends it empties its buffers, while its fetcher may be
filling them from the position after which it then goes on (seen with faust-streaming 0.15.3 at one start in ten under load). The ack
window sees the hole, because offsets are consecutive; here the consumer is sent back to it.
"""

import asyncio
import time
from typing import Any

import structlog
from faust.types import TP

from streams.ack_window import AckWindow, Place, SkippedRecord

_AGAIN_SECONDS = 0.5
"""Records that were on their way before the seek still arrive after it. Past this time, the seek itself was lost."""
_HOLE_AFTER, _GIVE_UP_AFTER = 3, 20


class Rereads:
    """Of one app's consumer.

    Args:
        holes: the topic is compacted, so offsets may really be missing; accepted when they are missing three times in a row.
    """

    def __init__(self, app: Any, window: AckWindow, *, holes: bool) -> None:
        self._app, self._window, self._holes = app, window, holes
        self._tries: dict[Place, tuple[int, int, int, float]] = {}

    async def begin(self, place: Place) -> None:
        """Tell the window where the partition starts: what is committed, or else its first record."""
        tp = TP(place.topic, place.partition)
        consumer = self._app.consumer
        earliest = (await consumer.earliest_offsets(tp))[tp]
        committed = consumer._committed_offset[tp]
        self._window.begin(place, max(committed or 0, earliest or 0))

    async def skipped(self, place: Place, offset: int, error: SkippedRecord) -> bool:
        """Send the consumer back. True if there is nothing to go back for, so that `offset` may be admitted.

        Raises SkippedRecord when going back does not help.
        """
        expected, first, tries, last = self._tries.get(place, (-1, -1, 0, 0.0))
        now = time.monotonic()
        if expected != error.expected:
            expected, first, tries = error.expected, offset, 0
            structlog.get_logger().warning("Consumer skipped records; reading them again", detail=str(error))
        elif offset != first and now - last < _AGAIN_SECONDS:
            return False
        tries += 1
        if self._holes and tries > _HOLE_AFTER:
            self._window.accept_hole(place, offset)
            del self._tries[place]
            return True
        if tries > _GIVE_UP_AFTER:
            raise error
        self._tries[place] = (expected, first, tries, now)
        await self._app.consumer.seek(TP(place.topic, place.partition), expected)
        await asyncio.sleep(0)
        return False
