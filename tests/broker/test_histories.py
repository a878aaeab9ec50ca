"""One job among many: found without reading the others, and what is said where its records are gone or are not what they should be."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.conn import AIOKafkaConnection

from agents.refold import Refold
from export_service import snapshots
from export_service.batching import batch_limit
from export_service.failures import ExportError, SettingsError
from export_service.history.compare import ends_differ
from export_service.history.selection import Selection
from export_service.messages import JobAccepted, JobInfo, JobPlanned, JobSnapshot, JobStatus, Outcome, TaskResult, TaskResults
from export_service.settings import Settings
from streams.history_scan import Scan, scan
from streams.job_records import read_job
from streams.publisher import KafkaPublisher
from streams.retention import retention
from streams.topic_ranges import Span, TopicRanges, silent
from streams.topics import declare, ensure, topics

pytestmark = pytest.mark.broker
BESIDE = 8
"""Jobs that run at the same time."""


def events(job_id: str, tasks: int) -> Iterator[bytes]:
    info = JobInfo(
        job_id=job_id, export_id="e", user_id=f"user-{job_id[-1]}", requested_at=datetime.now(UTC), destination="s3://b/x/"
    )
    yield JobAccepted(job=info).to_bytes()
    yield JobPlanned(job=info, total_tasks=tasks).to_bytes()
    done = 0
    while done < tasks:
        size = min(batch_limit(done), tasks - done)
        yield TaskResults(
            job_id=job_id,
            attempt=1,
            results=tuple(
                TaskResult(
                    index=index,
                    outcome=Outcome.FAILED if index == 7 else Outcome.SUCCEEDED,
                    name=f"folder/file-{index}.csv",
                    url=f"https://files.example.com/{job_id}/folder/file-{index}.csv",
                    bytes=1000 + index,
                    # As hard to compress as a real one: else the topic would be a tenth of what it is.
                    sha256=hashlib.sha256(f"{job_id}/{index}".encode()).hexdigest(),
                    error="HttpNotFound" if index == 7 else None,
                )
                for index in range(done, done + size)
            ),
        ).to_bytes()
        done += size


async def produce(settings: Settings, jobs: list[str], tasks: int) -> None:
    topic = topics(settings).results.name
    async with KafkaPublisher(settings) as publisher:
        for start in range(0, len(jobs), BESIDE):
            some = {job: events(job, tasks) for job in jobs[start : start + BESIDE]}
            sent: list[asyncio.Future[Any]] = []
            while some:
                for job, left in list(some.items()):
                    if (value := next(left, None)) is None:
                        del some[job]
                    else:
                        sent.append(await publisher.send(topic, job.encode(), value))
            await asyncio.gather(*sent)


@contextmanager
def wire() -> Iterator[Counter[str]]:
    """Bytes that brokers sent in answer to all that asks in this block."""
    seen: Counter[str] = Counter()
    handle = AIOKafkaConnection._handle_frame

    def count(self: AIOKafkaConnection, frame: bytes) -> Any:
        seen["bytes"] += len(frame)
        return handle(self, frame)

    with patch.object(AIOKafkaConnection, "_handle_frame", count):
        yield seen


async def everything(settings: Settings, selection: Selection | None = None) -> Scan:
    async with TopicRanges(settings) as ranges:
        return await scan(settings, ranges, selection or Selection(), {}, silent)


def snapshot_of(found: Scan, job: str) -> JobSnapshot:
    state = found.refold.state(job)
    assert state is not None
    return snapshots.of(job, state)


async def test_one_job_of_200_in_100_000_results_is_found_in_less_than_a_twentieth(settings: Settings) -> None:
    await ensure(settings, topics(settings))
    jobs = [f"job-{number:03}" for number in range(200)]
    await produce(settings, jobs, 500)
    with wire() as whole:
        found = await everything(settings)
    assert sum(snapshot_of(found, job).completed_tasks + snapshot_of(found, job).failed_tasks for job in jobs) == 100_000
    for job in (jobs[3], jobs[100], jobs[199]):
        snapshot = snapshot_of(found, job)
        assert snapshot.status is JobStatus.COMPLETED_WITH_FAILURES
        with wire() as read:
            records = await read_job(settings, job, snapshot)
        refold = Refold(topics(settings))
        await refold.all(records.of("results"))
        assert snapshots.of(job, refold.state(job)) == snapshot  # type: ignore[arg-type]
        reading = records.readings[0]
        assert (records.cut, reading.topic, reading.total) == (None, "results", found.records)
        assert reading.records < found.records / 20
        assert read["bytes"] < whole["bytes"] / 20, f"{read['bytes']:,} of {whole['bytes']:,} bytes on the wire"
    # Without the snapshot the partition of its key is read, and it says so.
    records = await read_job(settings, jobs[100], None)
    assert len(records.of("results")) == len(list(events("job-100", 500)))
    assert records.readings[0].why.startswith("its whole partition")

    mine = await everything(settings, Selection(user="user-7"))
    ends = {key: each for key, each in mine.refold.completions.items() if key[0] in jobs[7::10]}
    assert len(ends) == 20
    assert {each.field for each in ends_differ({}, ends)} == {"end of attempt 1"}, "nobody had said that they ended"


async def test_what_is_gone_or_not_what_it_should_be_is_a_sentence(settings: Settings) -> None:
    names = topics(settings)
    with pytest.raises(SettingsError, match="topics are missing"):
        await read_job(settings.model_copy(update={"topics": settings.topics.model_copy(update={"declare": False})}), "a", None)
    await ensure(settings, names)
    await produce(settings, ["early", "later", "last"], 40)
    found = await everything(settings)
    early = snapshot_of(found, "early")
    with pytest.raises(ExportError, match=r"the job's snapshot is of record 99999: the topic was deleted and made again"):
        await read_job(settings, "early", early.model_copy(update={"version": 100_000}))
    with pytest.raises(ExportError, match="job unknown has no event on results"):
        await everything(settings, Selection(jobs=("unknown",)))
    with pytest.raises(ExportError, match=r"results has no partition 7; it has 2"):
        await everything(settings, Selection(offsets=((7, 0, 1),)))
    with pytest.raises(ExportError, match=r"there is no record 99999 yet"):
        await everything(settings, Selection(offsets=((0, 0, 99_999),)))

    # Retention takes the first ten records of each partition: jobs lose their beginning, and are not folded as if they had it.
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap_servers)
    await admin.start()
    first = found.first["early"]
    try:
        await admin.delete_records({TopicPartition(names.results.name, first.partition): RecordsToDelete(first.offset + 1)})
    finally:
        await admin.close()
    cut = await everything(settings)
    assert "early" in cut.cut
    assert "retention has removed the beginning" in cut.cut["early"]
    records = await read_job(settings, "early", early)
    assert records.cut is not None
    assert "begins at" in records.cut
    with pytest.raises(ExportError, match=f"begins at {first.offset + 1}: retention has removed"):
        await everything(settings, Selection(offsets=((first.partition, first.offset, first.offset + 3),)))
    kept = {each.topic: each for each in await retention(settings)}
    assert kept["results"].whole_since is not None
    assert kept["results"].until is not None
    assert (kept["snapshots"].policy, kept["snapshots"].until, kept["snapshots"].oldest) == ("compact", None, None)
    assert kept["callbacks"].keeps is not None
    assert kept["callbacks"].keeps.days == 90

    # A record from the future, which this version's tally would put among the dead letters.
    async with KafkaPublisher(settings) as publisher:
        value = next(events("new", 1)).replace(b'"v":1,"type"', b'"v":2,"type"')
        await (await publisher.send(names.results.name, b"new", value))
    with pytest.raises(ExportError, match=r"has schema version 2, and this version of export-service reads 1"):
        await everything(settings, Selection(jobs=("new",)))

    # Half of the topics is gone.
    other = settings.model_copy(update={"topics": settings.topics.model_copy(update={"partitions": 3})})
    with pytest.raises(SettingsError, match="has 2 partitions, EXPORT_TOPICS_PARTITIONS says 3"):
        await read_job(other, "early", early)


async def test_only_a_range_is_read_and_closed_early(settings: Settings) -> None:
    await declare(settings, [topics(settings).results])
    await produce(settings, ["a", "b"], 100)
    async with TopicRanges(settings) as ranges:
        bounds = await ranges.bounds(["results"])
        number, each = next((number, each) for (_, number), each in bounds.items() if each.end > 20)
        some = [raw.offset async for raw in ranges.read([Span("results", number, each.begin + 5, each.begin + 15)])]
        assert some == list(range(each.begin + 5, each.begin + 15))
        assert ranges.records["results"] == 10
        reading = ranges.read([Span("results", number, each.begin, each.end)])
        assert (await anext(reading)).offset == each.begin
        await reading.aclose()
        assert [raw.offset async for raw in ranges.read([Span("results", number, each.end - 1, each.end)])] == [each.end - 1]
        assert [raw async for raw in ranges.read([Span("results", number, each.end, each.end)])] == []
