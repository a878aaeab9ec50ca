"""Records that Faust's consumer skips when it starts under load are read again: each is handled, and none is committed unhandled."""

import asyncio

import pytest

from export_service.settings import Settings
from streams.ack_window import Entry, Place
from streams.publisher import KafkaPublisher
from streams.role import FaustRole, confirmed_table
from streams.steps import Incoming
from streams.topics import ensure, topics

pytestmark = pytest.mark.broker


async def test_no_record_is_skipped_when_the_consumer_starts_while_records_arrive(settings: Settings) -> None:
    names = topics(settings)
    await ensure(settings, names)
    topic = names.results
    handled: set[tuple[int, int]] = set()
    errors: list[BaseException] = []
    sent: dict[int, int] = {0: 0, 1: 0}

    async def handle(record: Incoming, entry: Entry) -> None:
        handled.add((record.place.partition, record.offset))
        entry.done()

    async with KafkaPublisher(settings) as publisher:
        running = True

        async def produce() -> None:
            while running:
                for partition in (0, 1):
                    confirmed = await (await publisher.send(topic.name, b"k", b"v", partition=partition))
                    sent[partition] = confirmed.offset + 1

        producing = asyncio.create_task(produce())
        for _ in range(5):
            role = FaustRole(settings, "tally", errors.append)
            # A table, because it is after a recovery that Faust drops what it has fetched.
            confirmed_table(role, publisher, "jobs", names.jobs_changelog.name)
            role.consume(topic, handle)
            await role.start()
            before = len(handled)
            async with asyncio.timeout(60):
                while len(handled) < before + 200:
                    await asyncio.sleep(0.01)
            await role.stop()
            committed = [role.window.position(Place(topic.name, partition)) or 0 for partition in (0, 1)]
            missing = {(p, o) for p in (0, 1) for o in range(committed[p])} - handled
            assert not missing, "committed, and never handled"
        running = False
        await producing
    assert not errors


async def test_the_last_records_of_a_quiet_partition_are_read_again(settings: Settings) -> None:
    """Nothing came after them that could have shown that they were skipped: a job would have waited for its last result for ever."""
    names = topics(settings)
    await ensure(settings, names)
    topic, handled, errors = names.results, list[int](), list[BaseException]()

    async def handle(record: Incoming, entry: Entry) -> None:
        handled.append(record.offset)
        entry.done()

    async with KafkaPublisher(settings) as publisher:
        role = FaustRole(settings, "tally", errors.append)
        role.consume(topic, handle)
        for _ in range(3):
            await (await publisher.send(topic.name, b"k", b"v", partition=0))
        await role.start()
        async with asyncio.timeout(30):
            while handled != [0, 1, 2]:
                await asyncio.sleep(0.01)
        # As if the last two had been fetched and dropped: the window never saw them, the consumer is past them.
        role.window._partitions[Place(topic.name, 0)].admitted = 0
        async with asyncio.timeout(30):
            while handled != [0, 1, 2, 1, 2]:
                await asyncio.sleep(0.01)
        await role.stop()
        assert role.window.position(Place(topic.name, 0)) == 3
    assert not errors


async def test_a_hole_in_a_compacted_topic_is_accepted_after_it_was_looked_for(settings: Settings) -> None:
    """Offsets may be missing there by nature: the window must not wait for them for ever."""
    names = topics(settings)
    await ensure(settings, names)
    done: list[int] = []

    async def handle(record: Incoming, entry: Entry) -> None:
        done.append(record.offset)
        entry.done()

    errors: list[BaseException] = []
    async with KafkaPublisher(settings) as publisher:
        role = FaustRole(settings, "snapshot", errors.append)
        role.consume(names.snapshots, handle)
        await role.start()
        place = Place(names.snapshots.name, 0)
        for _ in range(3):
            await (await publisher.send(names.snapshots.name, b"k", b"v", partition=0))
        async with asyncio.timeout(30):
            while done != [0, 1, 2]:
                await asyncio.sleep(0.01)
        # As if offsets 0-4 had been compacted away before we came: the window waits for one that never comes.
        role.window._partitions[place].admitted = 0
        await (await publisher.send(names.snapshots.name, b"k", b"v", partition=0))
        async with asyncio.timeout(30):
            while 3 not in done:
                await asyncio.sleep(0.01)
        await role.stop()
    assert not errors
