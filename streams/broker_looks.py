"""Looks at the broker from the outside: offsets, what is committed, how old the next record is, who is in the groups. Joins no group, and
commits nothing."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from export_service.settings import Settings
from export_service.verify.evidence import READERS, Bounds
from streams.group_members import Group, Place, groups
from streams.kafka_client import unreachable
from streams.onlooker import onlooker, record_times
from streams.topics import short_names, topics

_AGE_SECONDS = 1.0
"""For the first records of all partitions that wait; what does not come by then is asked for again at the next look."""


class BrokerLooks:
    """`async with` it. Its methods raise Unavailable."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._specs = short_names(topics(settings))
        self._names = {spec.name: short for short, spec in self._specs.items()}
        self._open = AsyncExitStack()
        self._written: dict[Place, tuple[int, float]] = {}
        """Offset of the next uncommitted record, and when it was written, in seconds since the epoch."""

    async def __aenter__(self) -> "BrokerLooks":
        self._admin, self._consumer = await self._open.enter_async_context(onlooker(self._settings))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    async def bounds(self) -> tuple[dict[Place, Bounds], list[str]]:
        """Of all our topics that exist; and the names of those that do not. What is committed is asked for first."""
        try:
            there = set(await self._admin.list_topics()) & self._names.keys()
            committed = dict(zip(READERS, await asyncio.gather(*map(self._committed, READERS.values())), strict=True))
            described = await self._admin.describe_topics(sorted(there)) if there else []
            places = [TopicPartition(each["topic"], part["partition"]) for each in described for part in each["partitions"]]
            if not places:
                return {}, sorted(self._names.keys() - there)
            begins, ends = await self._consumer.beginning_offsets(places), await self._consumer.end_offsets(places)
        except (TimeoutError, KafkaError) as error:
            raise unreachable(self._settings, error) from None
        found = {}
        for at in places:
            short = self._names[at.topic]
            found[Place(short, at.partition)] = Bounds(begins[at], ends[at], committed.get(short, {}).get(at))
        return found, sorted(self._names.keys() - there)

    async def _committed(self, role: str) -> dict[TopicPartition, int]:
        try:
            found = await self._admin.list_consumer_group_offsets(f"{self._settings.app_id}-{role}")
        except KafkaError as error:
            if not error.retriable:
                raise
            return {}  # a broker that nobody has used yet has no topic of commits
        return {place: each.offset for place, each in found.items() if each.offset >= 0}

    async def ages(self, bounds: Mapping[Place, Bounds]) -> dict[Place, float]:
        """Seconds since the next uncommitted record of a partition was written, where there is one."""
        waiting = {place: each for place, each in bounds.items() if place.topic in READERS and each.lag}
        self._written = {place: known for place, known in self._written.items() if place in waiting}
        new = [place for place, each in waiting.items() if self._written.get(place, (-1, 0))[0] != each.done]
        if new:
            wanted = {TopicPartition(self._specs[place.topic].name, place.partition): place for place in new}
            try:
                times = await record_times(self._consumer, {at: waiting[place].done for at, place in wanted.items()}, _AGE_SECONDS)
            except (TimeoutError, KafkaError) as error:
                raise unreachable(self._settings, error) from None
            self._written |= {wanted[at]: (waiting[wanted[at]].done, written) for at, written in times.items()}
        now = time.time()
        return {place: max(0.0, now - written) for place, (_, written) in self._written.items()}

    async def groups(self) -> list[Group]:
        """In flow order."""
        try:
            return await groups(self._settings, self._admin)
        except (TimeoutError, KafkaError) as error:
            if isinstance(error, KafkaError) and error.retriable:
                return []
            raise unreachable(self._settings, error) from None
