"""The tally on a real broker: confirmed changelog, commits, recovery, and completions that survive a crash."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from agents.tally import Tally
from connectors.memory import SystemClock
from export_service.jobs import JobState
from export_service.messages import JobCompleted, JobInfo, JobPlanned, JobStatus, Outcome, Record, TaskResult, TaskResults
from export_service.metrics import Metrics
from export_service.settings import Settings
from export_service.tally_counts import TallyCounts
from streams.dead_letters import DeadLetters
from streams.publisher import KafkaPublisher
from streams.role import FaustRole, confirmed_table
from streams.steps import beside
from streams.together import Together
from streams.topics import Topics, ensure, topics
from tables.jobs import Jobs
from tables.shards import Shards
from tests.kafka import records
from tests.waiting import until

pytestmark = pytest.mark.broker
JOB = JobInfo(job_id="9b2f", export_id="e", user_id="u", requested_at=datetime(2026, 1, 1, tzinfo=UTC), destination="file:///out/")


class Losing(KafkaPublisher):
    """A publisher of which records on topics that end so never arrive, as in a process that dies before they do."""

    ending: str

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: Mapping[str, bytes] | None = None,
    ) -> "asyncio.Future[Any]":
        if topic.endswith(self.ending):
            return asyncio.get_running_loop().create_future()
        return await super().send(topic, key, value, partition=partition, headers=headers)


class LosesCompletions(Losing):
    ending = "completions"


class Running:
    def __init__(self, role: FaustRole, jobs: Jobs, publisher: KafkaPublisher, names: Topics) -> None:
        self.role, self.jobs, self.publisher, self.names = role, jobs, publisher, names
        self.errors: list[BaseException] = []

    async def publish(self, *records: Record | TaskResults) -> None:
        for record in records:
            await (await self.publisher.send(self.names.results.name, JOB.job_id.encode(), record.to_bytes()))

    async def state(self, condition: Callable[[JobState], bool]) -> JobState:
        async with asyncio.timeout(30):
            while True:
                state = self.jobs.get(JOB.job_id)
                if state is not None and condition(state):
                    return state
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running_tally(settings: Settings, publisher_type: type[KafkaPublisher] = KafkaPublisher) -> AsyncIterator[Running]:
    names = topics(settings)
    await ensure(settings, names)
    errors: list[BaseException] = []
    async with publisher_type(settings) as publisher:
        role = FaustRole(settings, "tally", errors.append)
        jobs = confirmed_table(role, publisher, "jobs", names.jobs_changelog.name)
        shards = confirmed_table(role, publisher, "shards", names.shards_changelog.name)

        async def flush() -> list["asyncio.Future[Any]"]:
            return [*await jobs.flush(), *await shards.flush()]

        dead_letters = DeadLetters(publisher, names.dead_letters.name, SystemClock())
        together = Together(flush, role.window, role.app.owns)
        counts = TallyCounts(Metrics())
        counting = Tally(Jobs(jobs), Shards(shards), together, publisher, dead_letters, names, timedelta(seconds=0), counts)
        role.consume_many(names.results, counting.handle)
        writing = beside(together.run(), errors.append)
        await role.start()
        running = Running(role, Jobs(jobs), publisher, names)
        running.errors = errors
        try:
            yield running
        finally:
            role.drain_with(lambda seconds: role.window.empty(min(seconds, 1)))
            await role.stop()
            writing.cancel()


def results(*indices: int, outcome: Outcome = Outcome.SUCCEEDED) -> TaskResults:
    return TaskResults(
        job_id=JOB.job_id,
        attempt=1,
        results=tuple(TaskResult(index=i, outcome=outcome, name=f"n{i}", url="u", bytes=10) for i in indices),
    )


async def read(settings: Settings, topic: str) -> list[bytes]:
    """Everything on a topic."""
    return [record.value for record in await records(settings.kafka.bootstrap_servers, topic)]


async def committed(settings: Settings, topic: str) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap_servers)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(f"{settings.app_id}-tally")
        return sum(meta.offset for place, meta in offsets.items() if place.topic == topic)
    finally:
        await admin.close()


@pytest.mark.parametrize("store", ["memory://", "rocksdb://?driver=rocksdict"])
async def test_a_job_is_counted_across_restarts_with_early_and_repeated_results(settings: Settings, store: str) -> None:
    settings = settings.model_copy(update={"tally": settings.tally.model_copy(update={"store": store})})
    async with running_tally(settings) as first:
        await first.publish(results(0, 1), results(1, 2))
        await first.state(lambda state: state.succeeded == 3)
    assert await committed(settings, first.names.results.name) == 2
    async with running_tally(settings) as second:
        recovered = await second.state(lambda _: True)
        assert (recovered.succeeded, recovered.bytes, recovered.total) == (3, 30, None)
        await second.publish(results(0), JobPlanned(job=JOB, total_tasks=5), results(3), results(4, outcome=Outcome.FAILED))
        state = await second.state(lambda state: state.status.terminal)
        assert (state.status, state.succeeded, state.failed) == (JobStatus.COMPLETED_WITH_FAILURES, 4, 1)
    (completed,) = await read(settings, first.names.completions.name)
    assert JobCompleted.model_validate_json(completed).id == f"{JOB.job_id}:1"
    assert not first.errors
    assert not second.errors


async def test_a_completion_that_did_not_arrive_is_sent_again_after_the_crash(settings: Settings) -> None:
    async with running_tally(settings, LosesCompletions) as crashed:
        await crashed.publish(JobPlanned(job=JOB, total_tasks=2), results(0), results(1))
        await crashed.state(lambda state: state.status.terminal)
        names = crashed.names
    # The state is safe, the completion is not: so the last record must not be committed. What went out with it waits too.
    assert await committed(settings, names.results.name) <= 2
    assert await read(settings, names.completions.name) == []
    async with running_tally(settings) as second:
        async with asyncio.timeout(30):
            while not (found := await read(settings, names.completions.name)):
                await asyncio.sleep(0.05)
        state = await second.state(lambda state: state.status.terminal)
    (completed,) = map(JobCompleted.model_validate_json, found)
    assert (completed.snapshot.completed_tasks, completed.snapshot.status) == (2, JobStatus.COMPLETED)
    assert completed.snapshot.completed_at == state.completed_at


async def test_a_record_that_is_no_event_goes_to_the_dead_letters_and_blocks_nothing(settings: Settings) -> None:
    async with running_tally(settings) as running:
        key = JOB.job_id.encode()
        for poison in (b"\x00\xff", b"{}", b'{"type": "TaskResults", "jobId": 5}', None):
            await (await running.publisher.send(running.names.results.name, key, poison))
        await running.publish(JobPlanned(job=JOB, total_tasks=0))
        await running.state(lambda state: state.status is JobStatus.COMPLETED)
        assert not running.errors
    assert len(await read(settings, running.names.dead_letters.name)) == 4
    assert await committed(settings, running.names.results.name) == 5


async def test_an_exception_in_a_step_is_fatal_and_its_record_is_not_committed(settings: Settings) -> None:
    names = topics(settings)
    await ensure(settings, names)
    errors: list[BaseException] = []

    async def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    async with KafkaPublisher(settings) as publisher:
        role = FaustRole(settings, "tally", errors.append)
        role.consume(names.results, broken)
        await role.start()
        await (await publisher.send(names.results.name, b"k", b"v"))
        await until(lambda: errors, 30)
        role.drain_with(lambda _: asyncio.sleep(0))
        await role.stop()
    assert str(errors[0]) == "a defect"
    assert await committed(settings, names.results.name) == 0
