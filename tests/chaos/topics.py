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


def compact_at_once(driver: Driver) -> None:
    """Small segments, cleaned as soon as they are closed."""
    configs = {"segment.ms": "500", "min.cleanable.dirty.ratio": "0.01", "segment.bytes": "1048576", "max.compaction.lag.ms": "500"}

    async def act(admin: AIOKafkaAdminClient) -> None:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs) for name in _changelogs(driver)])

    _with_admin(driver, act)


def empty_changelogs(driver: Driver) -> None:
    async def act(admin: AIOKafkaAdminClient) -> None:
        found = await admin.describe_topics(_changelogs(driver))
        places = [TopicPartition(each["topic"], part["partition"]) for each in found for part in each["partitions"]]
        await admin.delete_records({place: RecordsToDelete(before_offset=-1) for place in places})

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
