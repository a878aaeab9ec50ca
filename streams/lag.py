"""How far each consumer group is behind, by the broker's own offsets: committed ones and ends. A worker that hangs cannot hide it.

A lag is in records, and in seconds: the age of the next record that is not committed, which one small fetch for each such partition shows.
Each worker asks for the groups of its own roles; one with the watch for all, so that a group without any worker is seen too.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from contextlib import aclosing, suppress
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
)

from export_service import metric_names as names
from export_service.backoff import until_available
from export_service.samples import Sample
from export_service.settings import Settings
from streams.ack_window import Place
from streams.offsets import bounds, committed, partitions
from streams.onlooker import RecordTimes, onlooker
from streams.topics import Topics, TopicSpec

_FETCH_SECONDS = 5.0
_AGAIN_SECONDS = 60.0
_NO_NEWS = 3
"""Looks without an answer, after which Kafka is said to be away."""


class Lag(NamedTuple):
    """`at`: time of the next record that is not committed, in seconds since the epoch; None: there is none, or it is not known yet.
    `end`: the offset after the last record. `committed` is None if nothing is."""

    records: int
    at: float | None
    end: int
    committed: int | None

    def seconds(self, now: float) -> float | None:
        """Its age; 0 if nothing waits."""
        return max(0.0, now - self.at) if self.at is not None else None if self.records else 0.0


def groups(names_: Topics, roles: Collection[str]) -> dict[str, TopicSpec]:
    """Role -> the topic whose offsets its group commits."""
    of_all = {
        "plan": names_.requests,
        "download": names_.tasks,
        "tally": names_.results,
        "callback": names_.completions,
        "snapshot": names_.snapshots,
    }
    return {role: topic for role, topic in of_all.items() if role in roles or "watch" in roles}


class Lags:
    """`run` beside. `told`: given the end of each partition after every look."""

    def __init__(
        self, settings: Settings, names_: Topics, roles: Collection[str], told: Callable[[Mapping[Place, int]], None], log: Any
    ) -> None:
        self._settings, self._groups, self._told, self._log = settings, groups(names_, roles), told, log
        self._prefix = settings.topics.prefix
        self.found: dict[tuple[str, TopicPartition], Lag] = {}
        self._next = RecordTimes()
        self._looked: float | None = None
        self._began = time.monotonic()

    @property
    def looked_seconds(self) -> float:
        """Since the last look that was answered, or since the start."""
        return time.monotonic() - (self._looked or self._began)

    def troubles(self) -> Iterator[str]:
        if self.looked_seconds > _NO_NEWS * self._settings.metrics.lag_seconds + _FETCH_SECONDS:
            yield f"Kafka has not said its offsets for {self.looked_seconds:.0f} s; check EXPORT_KAFKA_BOOTSTRAP_SERVERS"

    def samples(self) -> Iterator[Sample]:
        yield Sample(names.LOOKED_SECONDS, self.looked_seconds)
        now = time.time()
        for (role, place), lag in self.found.items():
            labels = (role, place.topic.removeprefix(self._prefix), str(place.partition))
            yield Sample(names.LAG, lag.records, labels)
            if (age := lag.seconds(now)) is not None:
                yield Sample(names.LAG_SECONDS, age, labels)

    async def run(self) -> None:
        """Until it is cancelled. Who looks on must not end what he looks at: whatever fails, the lags are not known for a while."""
        while True:
            try:
                await until_available(self._run, self._log)
            except Exception:
                self._log.exception("Consumer lags are not known")
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _run(self) -> None:
        async with aclosing(self.looks(self._settings.metrics.lag_seconds)) as looks:
            async for _ in looks:
                pass

    async def looks(self, every: float) -> AsyncGenerator[None, None]:
        """After each look, of which there is one in `every` seconds. Raises Unavailable."""
        async with onlooker(self._settings) as (admin, consumer):
            while True:
                # A broker that nobody has used yet makes its topic of commits when it is first asked for them.
                with suppress(GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError):
                    async with asyncio.timeout(self._settings.kafka.request_timeout_seconds):
                        await self.look(admin, consumer)
                    yield
                await asyncio.sleep(every)

    async def look(self, admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer) -> None:
        found: dict[tuple[str, TopicPartition], Lag] = {}
        waiting: dict[TopicPartition, tuple[str, int]] = {}
        ends: dict[Place, int] = {}
        places = await partitions(admin, [topic.name for topic in self._groups.values()])
        for role, topic in self._groups.items():
            done = await committed(admin, f"{self._settings.app_id}-{role}")
            mine = await bounds(consumer, [place for place in places if place.topic == topic.name], done)
            for place, each in mine.items():
                ends[Place(*place)] = each.end
                if each.lag:
                    waiting[place] = role, each.done
                found[role, place] = Lag(each.lag, None, each.end, each.committed)
        offsets = {place: offset for place, (_, offset) in waiting.items()}
        for place, (offset, at) in (await self._next.of(consumer, offsets, _FETCH_SECONDS)).items():
            if offset == offsets[place]:
                key = waiting[place][0], place
                found[key] = found[key]._replace(at=at)
        self.found = found
        self._looked = time.monotonic()
        self._told(ends)
