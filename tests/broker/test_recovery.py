"""Recovery on a real broker: it ends whatever a changelog went through, and one that lost something never passes for a good one."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import OffsetOutOfRangeError
from faust.types import TP

from export_service.failures import RecoveryFailed
from export_service.messages import JobPlanned, JobStatus
from export_service.metrics import Metrics
from export_service.settings import Settings
from streams import restore
from streams.publisher import KafkaPublisher
from streams.restore import BulkRecovery
from streams.role import FaustRole, confirmed_table
from streams.steps import Incoming
from streams.topics import TopicSpec, ensure, topics
from tables.confirmed import ConfirmedTable
from tests.broker.test_tally_role import JOB, read, results, running_tally
from tests.waiting import until

pytestmark = pytest.mark.broker


async def configure(settings: Settings, topic: str, **values: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap_servers)
    await admin.start()
    try:
        configs = {name.replace("_", "."): value for name, value in values.items()}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=configs)])
    finally:
        await admin.close()


async def delete_all(settings: Settings, topic: str) -> None:
    await configure(settings, topic, cleanup_policy="compact,delete")
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap_servers)
    await admin.start()
    try:
        places = [TopicPartition(topic, number) for number in range(settings.topics.partitions)]
        await admin.delete_records({place: RecordsToDelete(before_offset=-1) for place in places})
    finally:
        await admin.close()


async def test_recovery_ends_on_changelogs_that_were_emptied_or_end_in_a_tombstone(settings: Settings) -> None:
    """P14, F24. One partition of each changelog never had a record at all."""
    async with running_tally(settings) as first:
        await first.publish(results(0, 1))
        await first.state(lambda state: state.succeeded == 2)
        names = first.names
        state_partition = (await (await first.publisher.send(names.results.name, JOB.job_id.encode(), None))).partition
    async with KafkaPublisher(settings) as publisher:
        await (await publisher.send(names.jobs_changelog.name, b"gone", None, partition=state_partition))
    await delete_all(settings, names.shards_changelog.name)
    assert await read(settings, names.shards_changelog.name) == []
    async with running_tally(settings) as second:
        assert (await second.state(lambda _: True)).succeeded == 2
        await second.publish(JobPlanned(job=JOB, total_tasks=4), results(0, 1, 2, 3))
        state = await second.state(lambda state: state.status.terminal)
        assert (state.status, state.succeeded) == (JobStatus.COMPLETED, 4)
        assert not second.errors


@pytest.mark.timeout(200)
async def test_recovery_of_a_compacted_changelog(settings: Settings) -> None:
    async with running_tally(settings) as first:
        names = first.names
        for index in range(20):
            await first.publish(results(index))
        await first.state(lambda state: state.succeeded == 20)
    for topic in (names.jobs_changelog.name, names.shards_changelog.name):
        options = {"segment_ms": "100", "min_cleanable_dirty_ratio": "0.01", "delete_retention_ms": "0"}
        await configure(settings, topic, cleanup_policy="compact", **options)
    async with KafkaPublisher(settings) as publisher, asyncio.timeout(120):
        # A record that rolls the segment, so that what is before it can be compacted.
        while len(await read(settings, names.jobs_changelog.name)) > 15:
            for partition in range(settings.topics.partitions):
                for topic in (names.jobs_changelog.name, names.shards_changelog.name):
                    await (await publisher.send(topic, b"gone", None, partition=partition))
            await asyncio.sleep(1)
    async with running_tally(settings) as second:
        assert (await second.state(lambda _: True)).succeeded == 20
        await second.publish(JobPlanned(job=JOB, total_tasks=20))
        assert (await second.state(lambda state: state.status.terminal)).status is JobStatus.COMPLETED
        assert not second.errors


class Recovering:
    """A tally's table before its start, over a changelog of five records in partition 0."""

    def __init__(self, settings: Settings, publisher: KafkaPublisher) -> None:
        self.errors: list[BaseException] = []
        self.handled: list[Incoming] = []
        self.metrics = Metrics()
        names = topics(settings)
        self.role = FaustRole(settings, "tally", self.errors.append, self.metrics)
        self.changelog: TopicSpec = names.jobs_changelog
        self.table: ConfirmedTable = confirmed_table(self.role, publisher, "jobs", self.changelog.name)

        async def handle(record: Incoming, entry: Any) -> None:
            self.handled.append(record)
            entry.done()

        self.role.consume(names.results, handle)

    async def fails(self) -> str:
        starting = asyncio.create_task(self.role.start())
        await until(lambda: self.errors, 30)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await self.role.stop()
        assert isinstance(self.errors[0], RecoveryFailed)
        assert self.errors[0].exit_code == 75
        assert not self.handled, "no record is folded into a table with a hole"
        return str(self.errors[0])

    def metric(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"role": "tally"})


async def filled(settings: Settings, publisher: KafkaPublisher) -> None:
    names = topics(settings)
    await ensure(settings, names)
    for key in range(5):
        await (await publisher.send(names.jobs_changelog.name, b"key-%d" % key, b"value", partition=0))
    await (await publisher.send(names.results.name, b"k", b"v", partition=0))


async def test_a_recovery_counts_what_it_reads(settings: Settings) -> None:
    async with KafkaPublisher(settings) as publisher:
        await filled(settings, publisher)
        good = Recovering(settings, publisher)
        await good.role.start()
        assert (good.metric("export_table_recovery_records"), good.metric("export_table_recovery_remaining")) == (5, 0)
        assert (good.metric("export_table_recovery_seconds") or 0) > 0
        assert {key: good.table[key] for key in (b"key-0", b"key-4")} == {b"key-0": b"value", b"key-4": b"value"}
        await good.role.stop()
    assert not good.errors


def stalls(recovery: BulkRecovery, _: pytest.MonkeyPatch) -> None:
    async def hang(_: Counter[TP]) -> None:
        await asyncio.Event().wait()

    recovery._restore = hang  # type: ignore[assignment]


def breaks(recovery: BulkRecovery, _: pytest.MonkeyPatch) -> None:
    async def out_of_range(_: Counter[TP]) -> None:
        raise OffsetOutOfRangeError({"place": 3})

    recovery._restore = out_of_range  # type: ignore[assignment]


def stops_short(recovery: BulkRecovery, patch: pytest.MonkeyPatch) -> None:
    """As if the end had been read too early."""
    patch.setattr(restore, "_RECORDS", 1)
    build = recovery._build_highwaters

    async def one_less(consumer: Any, tps: Any, destination: Counter[TP], title: str) -> None:
        await build(consumer, tps, destination, title)
        for tp, end in destination.items():
            destination[tp] = max(end - 1, -1)

    recovery._build_highwaters = one_less  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("plant", "said", "place"),
    [
        (stalls, "no progress for 3 s .* at offset -1 of 5", True),
        (breaks, "OffsetOutOfRangeError", False),
        (stops_short, "ended at offset 3, the changelog's end is 5", True),
    ],
)
async def test_a_recovery_with_a_hole_or_without_end_ends_the_worker(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[BulkRecovery, pytest.MonkeyPatch], None],
    said: str,
    place: bool,
) -> None:
    settings = settings.model_copy(update={"worker": settings.worker.model_copy(update={"recovery_stall_seconds": 3})})
    async with KafkaPublisher(settings) as publisher:
        await filled(settings, publisher)
        recovering = Recovering(settings, publisher)
        plant(cast(Any, recovering.role.app.tables).recovery, monkeypatch)
        sentence = await recovering.fails()
        assert re.search(said, sentence), sentence
        assert not place or f"{recovering.changelog.name}[0]" in sentence
        monkeypatch.undo()
        again = Recovering(settings, publisher)
        await again.role.start()
        await until(lambda: again.handled, 30)
        assert again.table[b"key-4"] == b"value"
        await again.role.stop()
    assert not again.errors


async def test_nothing_is_restored_from_the_moment_that_the_partitions_are_revoked(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "_RECORDS", 1)
    fetches, applied = 0, []
    getmany = AIOKafkaConsumer.getmany

    async def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal fetches
        fetched = await getmany(*arguments, **options)
        fetches += bool(fetched)
        return fetched

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", counted)
    async with KafkaPublisher(settings) as publisher:
        await filled(settings, publisher)
        recovering = Recovering(settings, publisher)
        put = recovering.table.restore

        def once(tp: TP, records: Any) -> None:
            applied.append(records[0].offset)
            put(tp, records)
            recovering.role.app.recovery.interrupted()

        monkeypatch.setattr(recovering.table, "restore", once)
        starting = asyncio.create_task(recovering.role.start())
        await until(lambda: fetches == 2, 30)
        for _ in range(10):
            await asyncio.sleep(0)
        assert applied == [0]
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await recovering.role.stop()
    assert not recovering.errors
