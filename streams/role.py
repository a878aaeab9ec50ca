"""One running role: its Faust app with one agent, its ack window, and the order in which it ends."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, cast

from faust.exceptions import ConsumerNotStarted

from export_service import metric_names as names
from export_service.metrics import Metrics
from export_service.ports import Publisher
from export_service.samples import Sample
from export_service.settings import Settings
from streams.ack_window import AckWindow, Place
from streams.app import ExportApp, create_app, raw_topic
from streams.bundles import BUNDLE
from streams.progress import Progress
from streams.rereads import Rereads
from streams.steps import Concurrent, Handle, HandleMany, Volume, beside, one_by_one, step_agent
from streams.topics import TopicSpec, short_names, topics
from tables.confirmed import ConfirmedTable
from tables.rocksdb import SharedOptions


class FaustRole:
    """`start` returns when the tables are recovered and records flow; `stop` when offsets are committed.

    Args:
        name: the role; its consumer group is `<app_id>-<name>`.
        fatal: told of an error after which the worker must end.
        ack_window: least records under way at a time, where the setting says fewer.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        fatal: Callable[[BaseException], None],
        metrics: Metrics | None = None,
        *,
        ack_window: int = 0,
    ) -> None:
        self.name, self._fatal = name, fatal
        self.window = AckWindow(max(ack_window, settings.worker.ack_window), fatal)
        (settings.worker.state_dir / name).mkdir(parents=True, exist_ok=True)
        self.app: ExportApp = create_app(settings, name, self.window, fatal, metrics)
        self._drain_seconds = settings.worker.drain_seconds
        self._drain: Callable[[float], Awaitable[Any]] = self.window.empty
        self._concurrent: Concurrent | None = None
        self._watching: list[asyncio.Task[None]] = []
        self._short_names = {spec.name: short for short, spec in short_names(topics(settings)).items()}
        self._volume, self._progress = Volume(), Progress(settings.metrics.stall_seconds)
        self._held: Callable[[], bool] = lambda: self.window.full
        self._on_disk = settings.tally.store.startswith("rocksdb:")

    @cached_property
    def rocksdb(self) -> SharedOptions | None:
        """Of all tables of this role, if it has any and they are on disk."""
        return SharedOptions() if self._on_disk else None

    def consume(self, topic: TopicSpec, handle: Handle, *, concurrency: int = 1) -> None:
        """Read `topic` with `handle`; with `concurrency` > 1 records are handled beside each other."""
        if concurrency > 1:
            handle = self._concurrent = Concurrent(self.window, handle, concurrency)
        self.consume_many(topic, one_by_one(handle), 1, beside=concurrency > 1)

    def consume_many(self, topic: TopicSpec, handle: HandleMany, most: int = BUNDLE, *, beside: bool = False) -> None:
        """Read `topic` with `handle`, which is given up to `most` records at a time."""
        agent: Callable[[Any], Any] = self.app.agent(raw_topic(self.app, topic.name), name=self.name, concurrency=1)
        rereads = Rereads(self.app, self.window, holes=topic.compacted, beside=beside)
        agent(step_agent(self.window, rereads, handle, self.app.current, self._volume, most))
        self._topic, self._short = topic, self._short_names.get(topic.name, topic.name)
        self._watch = partial(rereads.watch, topic.name)

    def drain_with(self, drain: Callable[[float], Awaitable[Any]]) -> None:
        """How this role ends what is under way, given seconds; by default it waits."""
        self._drain = drain

    def held_by(self, held: Callable[[], bool]) -> None:
        """When this role rightly takes no more, besides a full window."""
        self._held = lambda: self.window.full or held()

    def look(self, ends: Mapping[Place, int]) -> None:
        """What the broker says is there: a partition with more that does not move is in trouble."""
        self._progress.look(self.window, ends, held=self._held() or self.app.rebalancing)

    def troubles(self) -> Iterator[str]:
        if self.app.recovery.began is not None:
            yield f"{self.name}: its tables are being recovered"
        elif self.app.rebalancing or not self.app.consumer_generation_id:
            yield f"{self.name}: waits for its consumer group"
        for place, seconds in self._progress.stuck():
            yield f"{self.name}: {place.topic}[{place.partition}] has not moved for {seconds:.0f} s, and has records to read"

    def samples(self) -> Iterator[Sample]:
        topic = (self._short,)
        yield Sample(names.RECORDS_IN, self._volume.records, topic)
        yield Sample(names.BYTES_IN, self._volume.bytes, topic)
        role = (self.name,)
        yield Sample(names.ACK_WINDOW, len(self.window), role)
        yield Sample(names.ASSIGNED, len(self.mine(self._topic)), role)
        yield Sample(names.STILL_SECONDS, self._progress.longest, role)
        yield from self.app.recovery.samples()
        for table in self.app.tables.values():
            yield from cast(ConfirmedTable, table).samples()

    def mine(self, topic: TopicSpec) -> list[Place]:
        """Partitions of ours."""
        consumer = self.app._consumer  # made at the start
        if consumer is None or self.app.rebalancing:
            return []
        try:
            assigned = consumer.assignment()
        except ConsumerNotStarted:
            return []
        return [Place(tp.topic, tp.partition) for tp in assigned if tp.topic == topic.name]

    def read(self, topic: TopicSpec) -> dict[int, int]:
        """Partition of ours -> the first offset that was not handled yet."""
        return {place.partition: self.window.admitted(place) for place in self.mine(topic)}

    async def start(self) -> None:
        self._watching.append(beside(self.app.recovery.watch(self.app), self._fatal))
        await self.app.start()
        self._watching.append(beside(self._watch(), self._fatal))

    async def stop(self) -> None:
        """Finish or give back what is under way, commit, leave the group."""
        for task in self._watching:
            task.cancel()
        self.app.flow_control.suspend()
        await self._drain(self._drain_seconds)
        if self._concurrent is not None:
            await self._concurrent.stop()
        await self.app.stop()


def confirmed_table(role: FaustRole, publisher: Publisher, name: str, changelog: str) -> ConfirmedTable:
    """A table of this role whose changelog is the topic `changelog`."""
    table = ConfirmedTable(
        role.app,
        name=name,
        key_type=bytes,
        value_type=bytes,
        partitions=role.app.conf.topic_partitions,
        changelog_topic=raw_topic(role.app, changelog, acks=False, internal=True, maxsize=131_072, allow_empty=True),
    )
    table.publisher, table.rocksdb = publisher, role.rocksdb
    role.app.tables.add(table)
    return table
