"""Reads a topic from the outside, beside its consumers and without any group."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from export_service.settings import Settings
from streams.kafka_client import connection, unreachable
from streams.topics import TopicSpec, declare


@asynccontextmanager
async def reader(settings: Settings, *specs: TopicSpec) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of no group. What Kafka refuses inside becomes Unavailable.

    Raises:
        SettingsError: one of `specs` is missing, or has another number of partitions. None is created.
    """
    await declare(settings, specs, create=False)
    consumer = AIOKafkaConsumer(
        **connection(settings),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        # A fetch at the end of one topic is still waiting when the next is to be read, on the same connection.
        fetch_max_wait_ms=20,
    )
    try:
        await consumer.start()
        await asyncio.sleep(0)  # what it has started cannot be stopped before it has begun
        yield consumer
    except (TimeoutError, KafkaError) as error:
        raise unreachable(settings, error) from None
    finally:
        await consumer.stop()


def partition_of(settings: Settings, job_id: str) -> int:
    """Of every topic that is kept by job, and of the tally's tables: the producer chooses it by the key."""
    numbers = list(range(settings.topics.partitions))
    return int(DefaultPartitioner()(job_id.encode(), numbers, numbers))


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


async def read_spans(consumer: AIOKafkaConsumer, topic: str, spans: Mapping[int, tuple[int, int]]) -> AsyncIterator[Any]:
    """What is there of each partition, in order.

    Args:
        spans: partition -> first offset, which must not be below the partition's first, and the one after the last.
    """
    ends = {TopicPartition(topic, number): stop for number, (first, stop) in spans.items() if first < stop}
    if not ends:
        return  # a consumer that is assigned nothing cannot be stopped any more
    consumer.assign(list(ends))
    for place in ends:
        consumer.seek(place, spans[place.partition][0])
    while left := [place for place in ends if await consumer.position(place) < ends[place]]:
        for place, records in (await consumer.getmany(*left, timeout_ms=1000)).items():
            for record in records:
                if record.offset < ends[place]:
                    yield record


async def read_one(consumer: AIOKafkaConsumer, topic: str, partition: int, offset: int) -> Any | None:
    """The record there, or None if it is gone: removed by retention or compaction."""
    place = TopicPartition(topic, partition)
    begins, ends = await consumer.beginning_offsets([place]), await consumer.end_offsets([place])
    if not begins[place] <= offset < ends[place]:
        return None
    consumer.assign([place])
    consumer.seek(place, offset)
    while await consumer.position(place) <= offset:
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            return records[0] if records[0].offset == offset else None
    return None
