"""Members of a consumer group: a static one comes back to its partitions and disturbs nobody; errors of the group reach the worker."""

import asyncio
from typing import Any, cast

import pytest

from export_service.failures import ExportError, SettingsError
from export_service.settings import Settings
from streams.patience import IDLE_WAIT_MS
from streams.publisher import KafkaPublisher
from streams.role import FaustRole, confirmed_table
from streams.steps import Incoming
from streams.topics import ensure, topics
from tests.waiting import until

pytestmark = pytest.mark.broker


def named(settings: Settings, name: str | None, **kafka: Any) -> Settings:
    """Another worker: an id and a state folder of its own."""
    changed = {"group_instance_id": name, "session_timeout_seconds": 10, **kafka}
    return settings.model_copy(
        update={
            "kafka": settings.kafka.model_copy(update=changed),
            "worker": settings.worker.model_copy(update={"state_dir": settings.worker.state_dir / str(name)}),
        }
    )


class Member:
    """A tally with a table, on `results`, that only notes what it is given."""

    def __init__(self, settings: Settings, publisher: KafkaPublisher) -> None:
        self.errors: list[BaseException] = []
        self.handled: list[Incoming] = []
        names = topics(settings)
        self.role = FaustRole(settings, "tally", self.errors.append)
        confirmed_table(self.role, publisher, "jobs", names.jobs_changelog.name)

        async def handle(record: Incoming, entry: Any) -> None:
            self.handled.append(record)
            entry.done()

        self.role.consume(names.results, handle)

    @property
    def view(self) -> tuple[int, int, set[Any]]:
        """Rebalances that it saw, its generation, its partitions."""
        app = self.role.app
        return app.rebalancing_count, app.consumer_generation_id, set(app.consumer.assignment())

    async def has(self, partitions: int) -> None:
        await until(lambda: not self.role.app.rebalancing and len(self.view[2]) == partitions, 30)


@pytest.mark.parametrize("static", [True, False])
async def test_a_static_worker_that_stops_and_starts_takes_nothing_from_the_other(settings: Settings, static: bool) -> None:
    a, b = (named(settings, name if static else None) for name in ("a", "b"))
    await ensure(settings, topics(settings))
    async with KafkaPublisher(settings) as publisher:
        first, other = Member(a, publisher), Member(b, publisher)
        await first.role.start()
        await other.role.start()
        await first.has(2)  # of `results` and of the changelog, one each
        await other.has(2)
        before, mine = other.view, first.view[2]
        await first.role.stop()
        again = Member(a, publisher)
        await again.role.start()
        await again.has(2)
        await other.has(2)
        for partition in (0, 1):
            await (await publisher.send(topics(settings).results.name, b"k", b"v", partition=partition))
        await until(lambda: len(again.handled) == len(other.handled) == 1, 30)
        assert (other.view == before) is static
        assert not static or again.view[2] == mine
        await again.role.stop()
        await other.role.stop()
    assert not [*first.errors, *again.errors, *other.errors]


async def test_of_two_workers_with_one_id_the_older_ends_and_the_younger_works(settings: Settings) -> None:
    await ensure(settings, topics(settings))
    async with KafkaPublisher(settings) as publisher:
        older, younger = Member(named(settings, "a"), publisher), Member(named(settings, "a"), publisher)
        await older.role.start()
        await younger.role.start()
        await until(lambda: older.errors, 30)
        assert isinstance(older.errors[0], SettingsError)
        assert "joined as 'a-tally'" in str(older.errors[0])
        assert "EXPORT_KAFKA_GROUP_INSTANCE_ID" in str(older.errors[0])
        await (await publisher.send(topics(settings).results.name, b"k", b"v", partition=0))
        await until(lambda: younger.handled, 30)
        before = younger.view
        # Without the id in its heartbeats the older one would be back by now.
        await asyncio.sleep(3 * younger.role.app.conf.broker_heartbeat_interval)
        assert younger.view == before
        await older.role.stop()
        await younger.role.stop()
    assert not younger.errors


async def test_a_group_that_cannot_be_joined_ends_the_worker(settings: Settings) -> None:
    """The broker allows 30 minutes. aiokafka keeps this error for a caller that Faust never is."""
    await ensure(settings, topics(settings))
    async with KafkaPublisher(settings) as publisher:
        member = Member(named(settings, "a", session_timeout_seconds=3600), publisher)
        starting = asyncio.create_task(member.role.start())
        await until(lambda: member.errors, 30)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await member.role.app.stop()
    assert isinstance(member.errors[0], ExportError)
    assert "-tally: " in str(member.errors[0])
    assert "InvalidSessionTimeout" in str(member.errors[0])


async def test_an_idle_member_waits_at_the_broker_and_a_record_does_not_wait_for_it(settings: Settings) -> None:
    """P25."""
    await ensure(settings, topics(settings))
    async with KafkaPublisher(settings) as publisher:
        member = Member(settings, publisher)
        await member.role.start()
        try:
            fetcher = cast(Any, member.role.app.consumer)._thread._consumer._fetcher
            await until(lambda: fetcher._fetch_max_wait_ms == IDLE_WAIT_MS, 30)
            await (await publisher.send(topics(settings).results.name, b"job", b"x"))
            await until(lambda: len(member.handled) == 1)
        finally:
            await member.role.stop()
        assert member.errors == []
