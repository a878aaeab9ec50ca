"""Reports are read by consumers that are used again: each gets the records of its own job and range, whoever used its consumer before."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from export_service.messages import Outcome, ResultsRange, TaskResult, TaskResults
from export_service.settings import Settings
from streams.publisher import KafkaPublisher
from streams.results_reader import ResultsReader
from streams.topics import ensure, topics

pytestmark = pytest.mark.broker
EACH, JOBS = 40, ("a", "b", "c")


@pytest.fixture
async def reader(settings: Settings) -> AsyncIterator[ResultsReader]:
    """Of a topic that has, in each of two partitions, EACH records of JOBS by turns."""
    names = topics(settings)
    await ensure(settings, names)
    async with KafkaPublisher(settings) as publisher:
        sent = []
        for index in range(EACH * len(JOBS)):
            job = JOBS[index % len(JOBS)]
            results = (TaskResult(index=index, outcome=Outcome.SUCCEEDED, name="n", url="u"),)
            record = TaskResults(job_id=job, attempt=1, results=results).to_bytes()
            sent += [await publisher.send(names.results.name, job.encode(), record, partition=number) for number in (0, 1)]
        await asyncio.gather(*sent)
    made = ResultsReader(settings, names.results.name)
    yield made
    await made.close()


async def read(reader: ResultsReader, job: str, partition: int, first: int, last: int) -> list[int]:
    return [
        index async for event in reader.read(job, ResultsRange(partition=partition, first=first, last=last)) for index in of(event)
    ]


def of(event: TaskResults) -> list[int]:
    return [result.index for result in event.results]


async def test_one_consumer_reads_job_after_job_in_any_partition_from_any_offset(reader: ResultsReader) -> None:
    for partition, first, last in ((0, 0, 119), (0, 60, 119), (1, 3, 3), (0, 7, 100), (1, 0, 118), (1, 119, 119)):
        for number, job in enumerate(JOBS):
            wanted = [index for index in range(first, last + 1) if index % len(JOBS) == number]
            assert await read(reader, job, partition, first, last) == wanted
    assert len(reader._resting) == 1


async def test_reports_side_by_side_have_a_consumer_each_and_only_some_are_kept(reader: ResultsReader) -> None:
    wanted = list(range(0, 120, 3))
    for _ in range(2):
        assert await asyncio.gather(*(read(reader, "a", number % 2, 0, 119) for number in range(8))) == [wanted] * 8
    assert len(reader._resting) == 4


async def test_one_that_is_given_up_half_way_is_not_used_again(reader: ResultsReader) -> None:
    reading = reader.read("a", ResultsRange(partition=0, first=0, last=119))
    await anext(reading)
    await reading.aclose()  # type: ignore[attr-defined]  # a generator
    assert reader._resting == []
    assert await read(reader, "b", 0, 0, 119) == list(range(1, 120, 3))
