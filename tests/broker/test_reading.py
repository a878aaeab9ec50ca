"""A topic read from the outside: whole, from a time on, one record; and a topic that is not there."""

import asyncio
from datetime import UTC, datetime

import pytest

from export_service.failures import SettingsError
from export_service.settings import Settings
from streams.letters import load
from streams.publisher import KafkaPublisher
from streams.reading import partition_of, read, read_one, read_spans, reader
from streams.topics import declare, ensure, topics

pytestmark = pytest.mark.broker


async def test_a_topic_is_read_to_where_it_ends_now(settings: Settings) -> None:
    names = topics(settings)
    await ensure(settings, names)
    spec, jobs = names.results, [f"job-{n}" for n in range(20)]
    async with KafkaPublisher(settings) as publisher:
        for job in jobs:
            sent = await (await publisher.send(spec.name, job.encode(), b"1"))
            assert sent.partition == partition_of(settings, job), "as the producer has it"
        await asyncio.sleep(0.01)  # a time has milliseconds, and so much of it has to go by
        middle = datetime.now(UTC)
        last = await (await publisher.send(spec.name, b"late", b"2"))
    async with reader(settings, spec) as consumer:
        found = [record async for record in read(consumer, spec.name, range(spec.partitions))]
        assert sorted(record.key.decode() for record in found) == sorted([*jobs, "late"])
        assert [record.key async for record in read(consumer, spec.name, range(spec.partitions), middle)] == [b"late"]
        assert [record async for record in read_spans(consumer, spec.name, {0: (1, 1), 1: (0, 0)})] == []
        assert [record.offset async for record in read_spans(consumer, spec.name, {0: (1, 3)})] == [1, 2]
        one = await read_one(consumer, spec.name, last.partition, last.offset)
        assert one is not None
        assert one.value == b"2"
        assert await read_one(consumer, spec.name, last.partition, last.offset + 1) is None


async def test_a_topic_that_is_not_there_is_a_sentence_and_is_not_created(settings: Settings) -> None:
    with pytest.raises(SettingsError, match=r"topics are missing: .*dead-letters"):
        await load(settings)
    created = await declare(settings, [topics(settings).dead_letters])
    assert len(created) == 1
