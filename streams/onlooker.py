"""Clients of who only looks: in no group, so that they take nobody's partitions, and nothing is committed."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from export_service.settings import Settings
from streams.kafka_client import asker, connection, kafka_errors

ONE_RECORD = 16 * 1024
"""Bytes to ask for of a partition whose next record is wanted. A batch that is larger comes alone."""
LARGE_FETCH = 1024 * 1024


@asynccontextmanager
async def outsider(settings: Settings, fetch_bytes: int = LARGE_FETCH) -> AsyncIterator[AIOKafkaConsumer]:
    """`fetch_bytes`: of one partition at a time. What Kafka refuses inside becomes Unavailable."""
    consumer = AIOKafkaConsumer(
        **connection(settings),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=fetch_bytes,
        # A fetch at the end of one topic is still waiting when the next is to be read, on the same connection.
        fetch_max_wait_ms=20,
    )
    with kafka_errors(settings):
        try:
            await consumer.start()
            await asyncio.sleep(0)  # what it has started cannot be stopped before it has begun
            yield consumer
        finally:
            await consumer.stop()


@asynccontextmanager
async def onlooker(
    settings: Settings, fetch_bytes: int = ONE_RECORD
) -> AsyncIterator[tuple[AIOKafkaAdminClient, AIOKafkaConsumer]]:
    """The same, and who asks about topics and groups."""
    async with asker(settings) as admin, outsider(settings, fetch_bytes) as consumer:
        yield admin, consumer


class RecordTimes:
    """When records at offsets were written, in seconds since the epoch. Each is asked for once, and a partition has one at a time."""

    def __init__(self) -> None:
        self._known: dict[TopicPartition, tuple[int, float]] = {}

    async def of(
        self, consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int], seconds: float
    ) -> Mapping[TopicPartition, tuple[int, float]]:
        """Offset and time. Of a partition whose record does not come within `seconds` those that were known before, if any are.
        Raises KafkaError."""
        self._known = {place: known for place, known in self._known.items() if place in offsets}
        new = {place: offset for place, offset in offsets.items() if self._known.get(place, (-1, 0))[0] != offset}
        for place, written in (await _record_times(consumer, new, seconds)).items():
            self._known[place] = new[place], written
        return self._known


async def _record_times(
    consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int], seconds: float
) -> dict[TopicPartition, float]:
    """When the records at these offsets, or the first ones after them, were written, in seconds since the epoch.

    Those that do not come within `seconds` are left out. Raises KafkaError.
    """
    found: dict[TopicPartition, float] = {}
    if not offsets:
        return found
    consumer.assign(list(offsets))
    for place, offset in offsets.items():
        consumer.seek(place, offset)
    left, deadline = set(offsets), time.monotonic() + seconds
    while left and time.monotonic() < deadline:
        for place, records in (await consumer.getmany(*left, timeout_ms=200)).items():
            found[place] = records[0].timestamp / 1000
            left.discard(place)
            consumer.pause(place)
    consumer.pause(*left)
    return found
