"""Topics handled behind the workers' backs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.chaos.driver import Driver
from tests.kafka import records

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


def compacted_away(driver: Driver) -> int:
    """Records of the changelogs that were there before."""
    found = asyncio.run(records(driver.brokers.direct, *_changelogs(driver)))
    ever: dict[tuple[str, int], int] = {(record.topic, record.partition): record.offset + 1 for record in found}
    return sum(ever.values()) - len(found)


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
        found = await records(driver.brokers.direct, name)
        async with AIOKafkaProducer(bootstrap_servers=driver.brokers.direct) as producer:
            sent = [
                await producer.send(name, record.value, record.key, record.partition, headers=list(record.headers))
                for record in found
            ]
            await asyncio.gather(*sent)
        return len(sent)

    return asyncio.run(run())
