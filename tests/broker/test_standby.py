"""Two tallies with standby tables: when one is gone, the other takes over with what it has on disk, and reads almost nothing."""

import asyncio
from typing import Any, cast

import pytest
from faust.types import TP

from export_service.messages import JobPlanned, JobStatus
from export_service.settings import Settings
from tests.broker.test_tally_role import JOB, Running, results, running_tally
from tests.waiting import until

pytestmark = pytest.mark.broker
RESULTS = 300


def with_standby(settings: Settings, name: str) -> Settings:
    return settings.model_copy(
        update={
            "tally": settings.tally.model_copy(update={"store": "rocksdb://", "standby_replicas": 1}),
            "worker": settings.worker.model_copy(update={"state_dir": settings.worker.state_dir / name}),
        }
    )


def faust_recovery(running: Running) -> Any:
    return cast(Any, running.role.app.tables).recovery


async def settled(*members: Running) -> None:
    """Each has a partition of `results`, and follows the other's tables to their ends."""

    def behind(running: Running) -> bool:
        recovery = faust_recovery(running)
        return running.role.app.rebalancing or len(recovery.standby_tps) != 2 or recovery.standby_remaining_total() > 0

    await until(lambda: not any(behind(member) for member in members), 60)


async def test_a_standby_takes_over_with_what_it_has(settings: Settings) -> None:
    async with running_tally(with_standby(settings, "a")) as a, running_tally(with_standby(settings, "b")) as b:
        await settled(a, b)
        topic = a.names.results.name
        sent = [await a.publisher.send(topic, JOB.job_id.encode(), results(index).to_bytes()) for index in range(RESULTS)]
        partition = (await sent[-1]).partition
        active, other = (a, b) if TP(topic, partition) in a.role.app.consumer.assignment() else (b, a)
        await active.state(lambda state: state.succeeded == RESULTS)
        await settled(a, b)
        await active.role.stop()
        async with asyncio.timeout(60):
            while len(faust_recovery(other).active_tps) != 4 or other.role.app.rebalancing:
                await asyncio.sleep(0.05)
        read = other.role.app.recovery._records
        assert read < RESULTS / 10, f"the takeover read {read} records of {2 * RESULTS}"
        await other.publish(JobPlanned(job=JOB, total_tasks=RESULTS))
        state = await other.state(lambda state: state.status.terminal)
        assert (state.status, state.succeeded) == (JobStatus.COMPLETED, RESULTS)
        assert not [*a.errors, *b.errors]


async def test_a_standby_that_lost_what_it_had_fetched_ends_its_worker(settings: Settings) -> None:
    """What Faust's consumer does at times (P24): it fetches records, and then they are gone."""
    async with running_tally(with_standby(settings, "a")) as a, running_tally(with_standby(settings, "b")) as b:
        await settled(a, b)
        dropped: list[int] = []
        for member in (a, b):
            watch = member.role.app.recovery

            def fetched(records: Any, note: Any = watch.fetched) -> None:
                note(records)
                for place, some in records.items():
                    if place.topic == a.names.jobs_changelog.name and not dropped:
                        dropped.append(some.pop(0).offset)

            watch.fetched = fetched  # type: ignore[method-assign]
        for index in range(RESULTS):
            await a.publish(results(index))
            if a.errors or b.errors:
                break
        await until(lambda: bool(a.errors or b.errors), 30)
        assert f"offset {dropped[0]} was fetched and dropped" in str([*a.errors, *b.errors][0])
