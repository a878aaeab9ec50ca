"""Looks at the broker from the outside: offsets, what is committed, how old the next record is, who is in the groups. Joins no group, and
commits nothing."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from io import BytesIO
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import DescribeGroupsRequest_v2
from aiokafka.protocol.api import Request

from export_service.console.now import Group, Member, Place
from export_service.settings import ROLES, Settings
from export_service.verify.evidence import READERS, Bounds
from streams.kafka_client import connection, unreachable
from streams.topics import short_names, topics

_AGE_SECONDS = 1.0
"""For the first records of all partitions that wait; what does not come by then is asked for again at the next look."""


class _DescribeGroups(Request[DescribeGroupsRequest_v2]):
    """As aiokafka's, but for version 3: there it reads the answer as if it were of version 2, and fails."""

    API_KEY = DescribeGroupsRequest_v2.API_KEY

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, version: type[DescribeGroupsRequest_v2]) -> DescribeGroupsRequest_v2:
        return version([self._group])


class BrokerLooks:
    """`async with` it. Its methods raise Unavailable."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._names = {spec.name: short for short, spec in short_names(topics(settings)).items()}
        self._open = AsyncExitStack()
        self._written: dict[Place, tuple[int, int]] = {}
        """Offset of the next uncommitted record -> when it was written, ms."""

    async def __aenter__(self) -> "BrokerLooks":
        self._admin = AIOKafkaAdminClient(**connection(self._settings))
        # One batch of each partition is enough to see when its first record was written.
        self._consumer = AIOKafkaConsumer(
            **connection(self._settings),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=1,
            fetch_max_wait_ms=20,
        )
        self._open.push_async_callback(self._admin.close)
        self._open.push_async_callback(self._consumer.stop)
        try:
            await self._admin.start()
            await self._consumer.start()
        except KafkaError as error:
            await self._open.aclose()
            raise unreachable(self._settings, error) from None
        except BaseException:
            await self._open.aclose()
            raise
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
            try:
                await self._first_records({place: waiting[place].done for place in new})
            except (TimeoutError, KafkaError) as error:
                raise unreachable(self._settings, error) from None
        now = time.time()
        return {place: max(0.0, now - written / 1000) for place, (_, written) in self._written.items()}

    async def _first_records(self, offsets: Mapping[Place, int]) -> None:
        full = {short: name for name, short in self._names.items()}
        wanted = {TopicPartition(full[place.topic], place.partition): place for place in offsets}
        self._consumer.assign(list(wanted))
        for at, place in wanted.items():
            self._consumer.seek(at, offsets[place])
        deadline = time.monotonic() + _AGE_SECONDS
        while wanted and time.monotonic() < deadline:
            for at, records in (await self._consumer.getmany(*wanted, timeout_ms=100, max_records=len(wanted))).items():
                place = wanted.pop(at)
                self._consumer.pause(at)
                self._written[place] = (offsets[place], records[0].timestamp)

    async def groups(self) -> list[Group]:
        """In flow order."""
        ids = {f"{self._settings.app_id}-{role}": role for role in ROLES if role != "connector"}
        try:
            answers = await asyncio.gather(*map(self._describe, ids))
        except (TimeoutError, KafkaError) as error:
            if isinstance(error, KafkaError) and error.retriable:
                return []
            raise unreachable(self._settings, error) from None
        found = {each["group"]: each for answer in answers for each in answer.to_object()["groups"]}
        return [
            Group(role, found[name]["state"], tuple(self._members(role, found[name]["members"])))
            for name, role in ids.items()
            if name in found
        ]

    async def _describe(self, group: str) -> Any:
        node = await self._admin.find_coordinator(group)
        return await self._admin._send_request(_DescribeGroups(group), node)

    def _members(self, role: str, members: Iterable[Mapping[str, Any]]) -> Iterable[Member]:
        for each in sorted(members, key=lambda each: str(each["member_id"])):
            places = []
            if each["member_assignment"]:
                assigned = ConsumerProtocolMemberAssignment.decode(BytesIO(each["member_assignment"])).partitions()
                # Of a table's worker also those of the changelog, which it reads and nobody commits.
                places = [Place(self._names[at.topic], at.partition) for at in assigned if at.topic in self._names]
            kept = [place for place in sorted(places) if not place.topic.endswith("changelog")]
            yield Member(role, each["member_id"], each["client_host"].removeprefix("/"), tuple(kept))
