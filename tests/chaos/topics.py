"""Topics handled behind the workers' backs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.chaos.driver import Driver

T = TypeVar("T")


def _changelogs(driver: Driver) -> list[str]:
    return [f"{driver.world.env['EXPORT_APP_ID']}-tally-{table}-changelog" for table in ("jobs", "shards")]


def _with_admin(driver: Driver, act: Callable[[AIOKafkaAdminClient], Awaitable[T]]) -> T:
    async def run() -> T:
        admin = AIOKafkaAdminClient(bootstrap_servers=driver.brokers.direct)
        await admin.start()
        try:
            return await act(admin)
        finally:
            await admin.close()

    return asyncio.run(run())


async def _configure(admin: AIOKafkaAdminClient, driver: Driver, **config: str) -> None:
    """All that is not said goes back to the broker's defaults."""
    named = {name.replace("_", "."): value for name, value in config.items()}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, named) for name in _changelogs(driver)])


def compact_at_once(driver: Driver) -> None:
    """Small segments, cleaned as soon as they are closed."""

    async def act(admin: AIOKafkaAdminClient) -> None:
        quickly = {"segment_ms": "500", "max_compaction_lag_ms": "500", "min_cleanable_dirty_ratio": "0.01"}
        await _configure(admin, driver, cleanup_policy="compact", segment_bytes="1048576", **quickly)

    _with_admin(driver, act)


def changelog_records(driver: Driver) -> tuple[int, int]:
    """How many are there, and how many ever were."""

    async def count() -> tuple[int, int]:
        consumer = AIOKafkaConsumer(bootstrap_servers=driver.brokers.direct, auto_offset_reset="earliest")
        await consumer.start()
        try:
            numbers = range(int(driver.world.env["EXPORT_TOPICS_PARTITIONS"]))
            places = [TopicPartition(name, number) for name in _changelogs(driver) for number in numbers]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            ends = await consumer.end_offsets(places)
            there = 0
            while any([await consumer.position(place) < end for place, end in ends.items()]):
                there += sum(map(len, (await consumer.getmany(timeout_ms=500)).values()))
            return there, sum(ends.values())
        finally:
            await consumer.stop()

    return asyncio.run(count())


def empty_changelogs(driver: Driver) -> None:
    """A topic that is only compacted refuses this, so somebody must have meant it."""

    async def act(admin: AIOKafkaAdminClient) -> None:
        await _configure(admin, driver, cleanup_policy="compact,delete")
        found = await admin.describe_topics(_changelogs(driver))
        places = [TopicPartition(each["topic"], part["partition"]) for each in found for part in each["partitions"]]
        await admin.delete_records({place: RecordsToDelete(before_offset=-1) for place in places})
        await _configure(admin, driver, cleanup_policy="compact")

    _with_admin(driver, act)


def delete_all(driver: Driver) -> None:
    """Those of this driver's world, so that a broker does not collect those of hundreds of runs."""
    mine = (driver.world.env["EXPORT_TOPICS_PREFIX"], driver.world.env["EXPORT_APP_ID"])

    async def act(admin: AIOKafkaAdminClient) -> None:
        await admin.delete_topics([name for name in await admin.list_topics() if name.startswith(mine)])

    _with_admin(driver, act)


def repeat(driver: Driver, topic: str) -> int:
    """Every record that the topic has now is appended once more, partition by partition; how many."""
    name = driver.world.env["EXPORT_TOPICS_PREFIX"] + topic

    async def run() -> int:
        consumer = AIOKafkaConsumer(bootstrap_servers=driver.brokers.direct, auto_offset_reset="earliest")
        producer = AIOKafkaProducer(bootstrap_servers=driver.brokers.direct)
        await consumer.start()
        await producer.start()
        sent = []
        try:
            places = [TopicPartition(name, number) for number in range(int(driver.world.env["EXPORT_TOPICS_PARTITIONS"]))]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            ends = await consumer.end_offsets(places)
            while any([await consumer.position(place) < end for place, end in ends.items()]):
                for place, records in (await consumer.getmany(timeout_ms=500)).items():
                    for record in records:
                        if record.offset < ends[place]:
                            headers = list(record.headers)
                            sent.append(await producer.send(name, record.value, record.key, place.partition, headers=headers))
            await asyncio.gather(*sent)
        finally:
            await consumer.stop()
            await producer.stop()
        return len(sent)

    return asyncio.run(run())
