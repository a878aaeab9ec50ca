"""Clients of who only looks: in no group, so that they take nobody's partitions, and nothing is committed."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from export_service.settings import Settings
from streams.kafka_client import connection, unreachable

ONE_RECORD = 16 * 1024
"""Bytes to ask for of a partition whose next record is wanted. A batch that is larger comes alone."""


@asynccontextmanager
async def onlooker(
    settings: Settings, fetch_bytes: int = ONE_RECORD
) -> AsyncIterator[tuple[AIOKafkaAdminClient, AIOKafkaConsumer]]:
    """`fetch_bytes`: of one partition at a time. Raises Unavailable."""
    admin = AIOKafkaAdminClient(**connection(settings))
    consumer = AIOKafkaConsumer(
        **connection(settings),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=fetch_bytes,
        # A fetch at the end of one topic is still waiting when the next is to be read, on the same connection.
        fetch_max_wait_ms=20,
    )
    try:
        try:
            await admin.start()
            await consumer.start()
            await asyncio.sleep(0)  # what it has started cannot be stopped before it has begun
        except KafkaError as error:
            raise unreachable(settings, error) from None
        yield admin, consumer
    finally:
        await consumer.stop()
        await admin.close()


async def record_times(
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
