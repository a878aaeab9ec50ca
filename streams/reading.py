"""Reads topics from the outside, beside their consumers and without any group: all that do go through `portions`."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.partitioner import DefaultPartitioner

from export_service.failures import Unavailable
from export_service.settings import Settings
from streams.onlooker import outsider
from streams.topics import TopicSpec, declare

STALLED_SECONDS = 60.0
_WAIT_MS = 500


@asynccontextmanager
async def reader(settings: Settings, *specs: TopicSpec) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of no group. What Kafka refuses inside becomes Unavailable.

    Raises SettingsError: one of `specs` is missing, or has another number of partitions. None is created.
    """
    await declare(settings, specs, create=False)
    async with outsider(settings) as consumer:
        yield consumer


def partition_of(settings: Settings, job_id: str) -> int:
    """Of every topic that is kept by job, and of the tally's tables: the producer chooses it by the key."""
    numbers = list(range(settings.topics.partitions))
    return int(DefaultPartitioner()(job_id.encode(), numbers, numbers))


async def portions(
    consumer: AIOKafkaConsumer, spans: Mapping[TopicPartition, tuple[int, int]]
) -> AsyncGenerator[tuple[TopicPartition, list[Any]], None]:
    """What is there of each partition, in order, some records at a time. Afterwards the partitions are paused. Close it to stop early.

    Args:
        spans: the first offset, and the one after the last. The partitions are assigned to the consumer.

    Raises Unavailable: nothing came for STALLED_SECONDS, though there is more. A partition without a leader is no error to a consumer.
    """
    left = {place: end for place, (first, end) in spans.items() if first < end}
    at = {place: spans[place][0] for place in left}
    for place, first in at.items():
        consumer.seek(place, first)
    consumer.resume(*left)
    waited = 0.0
    while left:
        asked = time.monotonic()
        came = await consumer.getmany(*left, timeout_ms=_WAIT_MS)
        waited += time.monotonic() - asked
        for place, records in came.items():
            if mine := [record for record in records if record.offset < left[place]]:
                yield place, mine
        # Not the last record's offset: the last ones may have been compacted away.
        async with asyncio.timeout(STALLED_SECONDS):
            now = {place: await consumer.position(place) for place in left}
        waited, at = (waited if now == at else 0.0), now
        for place in [place for place in left if now[place] >= left[place]]:
            consumer.pause(place)
            del left[place], at[place]
        if left and waited > STALLED_SECONDS:
            where = ", ".join(f"{place.topic}:{place.partition}" for place in left)
            raise Unavailable("Kafka", "EXPORT_KAFKA_BOOTSTRAP_SERVERS", f"no records from {where} for {STALLED_SECONDS:g} s")


async def read(
    consumer: AIOKafkaConsumer, topic: str, partitions: Collection[int], since: datetime | None = None
) -> AsyncIterator[Any]:
    """All that is there now, of each partition in order.

    Args:
        since: from the first record with this timestamp or a later one.
    """
    places = [TopicPartition(topic, number) for number in partitions]
    ends, begins = await consumer.end_offsets(places), await consumer.beginning_offsets(places)
    if since is not None:
        found = await consumer.offsets_for_times(dict.fromkeys(places, int(since.timestamp() * 1000)))
        begins = {place: at.offset if (at := found[place]) else ends[place] for place in places}
    async for record in read_spans(consumer, topic, {place.partition: (begins[place], ends[place]) for place in places}):
        yield record


async def read_spans(consumer: AIOKafkaConsumer, topic: str, spans: Mapping[int, tuple[int, int]]) -> AsyncGenerator[Any, None]:
    """What is there of each partition, in order.

    Args:
        spans: partition -> first offset, which must not be below the partition's first, and the one after the last.
    """
    wanted = {TopicPartition(topic, number): span for number, span in spans.items() if span[0] < span[1]}
    if not wanted:
        return  # a consumer that is assigned nothing cannot be stopped any more
    consumer.assign(list(wanted))
    async with aclosing(portions(consumer, wanted)) as found:
        async for _, records in found:
            for record in records:
                yield record


async def read_one(consumer: AIOKafkaConsumer, topic: str, partition: int, offset: int) -> Any | None:
    """The record there, or None if it is gone: removed by retention or compaction."""
    place = TopicPartition(topic, partition)
    begins, ends = await consumer.beginning_offsets([place]), await consumer.end_offsets([place])
    if not begins[place] <= offset < ends[place]:
        return None
    async with aclosing(read_spans(consumer, topic, {partition: (offset, offset + 1)})) as found:
        return await anext(found, None)
