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
from streams.kafka_client import kafka_errors, unreachable
from streams.offsets import bounds, committed, partitions
from streams.onlooker import RecordTimes, onlooker
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
        self._written = RecordTimes()

    async def __aenter__(self) -> "BrokerLooks":
        self._admin, self._consumer = await self._open.enter_async_context(onlooker(self._settings))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    async def bounds(self) -> tuple[dict[Place, Bounds], list[str]]:
        """Of all our topics that exist; and the names of those that do not. What is committed is asked for first."""
        with kafka_errors(self._settings):
            there = set(await self._admin.list_topics()) & self._names.keys()
            done: dict[TopicPartition, int] = {}
            for each in await asyncio.gather(*map(self._committed, READERS.values())):
                done |= each
            found = await bounds(self._consumer, await partitions(self._admin, there), done) if there else {}
        return {Place(self._names[at.topic], at.partition): each for at, each in found.items()}, sorted(self._names.keys() - there)

    async def _committed(self, role: str) -> dict[TopicPartition, int]:
        try:
            return await committed(self._admin, f"{self._settings.app_id}-{role}")
        except KafkaError as error:
            if not error.retriable:
                raise
            return {}  # a broker that nobody has used yet has no topic of commits

    async def ages(self, bounds: Mapping[Place, Bounds]) -> dict[Place, float]:
        """Seconds since the next uncommitted record of a partition was written, where there is one."""
        waiting = {
            TopicPartition(self._specs[place.topic].name, place.partition): each.done
            for place, each in bounds.items()
            if place.topic in READERS and each.lag
        }
        with kafka_errors(self._settings):
            found = await self._written.of(self._consumer, waiting, _AGE_SECONDS)
        now = time.time()
        return {Place(self._names[at.topic], at.partition): max(0.0, now - written) for at, (_, written) in found.items()}

    async def groups(self) -> list[Group]:
        """In flow order."""
        try:
            return await groups(self._settings, self._admin)
        except (TimeoutError, KafkaError) as error:
            if isinstance(error, KafkaError) and error.retriable:
                return []
            raise unreachable(self._settings, error) from None
