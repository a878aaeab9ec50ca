"""Who is in the consumer groups and which partitions he was given, by the broker's word. Joins none."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from io import BytesIO
from typing import Any, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.admin import DescribeGroupsRequest_v2
from aiokafka.protocol.api import Request

from export_service.settings import ROLES, Settings
from streams.kafka_client import asker
from streams.topics import short_names, topics


class Place(NamedTuple):
    """A partition, by its topic's short name."""

    topic: str
    partition: int


class Member(NamedTuple):
    """Of a consumer group. `places`: the partitions that it was given, but for those of changelogs."""

    role: str
    name: str
    host: str
    places: tuple[Place, ...]


class Group(NamedTuple):
    """`state` as the broker names it, such as Stable, PreparingRebalance, Empty or Dead (nobody has ever joined)."""

    role: str
    state: str
    members: tuple[Member, ...]


class _DescribeGroups(Request[DescribeGroupsRequest_v2]):
    """As aiokafka's, but for version 3: there it reads the answer as if it were of version 2, and fails."""

    API_KEY = DescribeGroupsRequest_v2.API_KEY

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, version: type[DescribeGroupsRequest_v2]) -> DescribeGroupsRequest_v2:
        return version([self._group])


async def groups(settings: Settings, admin: AIOKafkaAdminClient) -> list[Group]:
    """In flow order. Raises KafkaError; one that is retriable while a new broker makes its topic of groups."""
    ids = {f"{settings.app_id}-{role}": role for role in ROLES if role != "connector"}
    answers = await asyncio.gather(*(_describe(admin, group) for group in ids))
    found = {each["group"]: each for answer in answers for each in _groups(answer)}
    names = {spec.name: short for short, spec in short_names(topics(settings)).items()}
    return [
        Group(role, found[name]["state"], tuple(_members(role, found[name]["members"], names)))
        for name, role in ids.items()
        if name in found
    ]


async def looks(settings: Settings, every: float) -> AsyncGenerator[list[Group], None]:
    """The groups, once in `every` seconds. Raises Unavailable."""
    async with asker(settings) as admin:
        while True:
            async with asyncio.timeout(settings.kafka.request_timeout_seconds):
                while (found := await _if_ready(settings, admin)) is None:
                    await asyncio.sleep(0.2)
            yield found
            await asyncio.sleep(every)


async def _if_ready(settings: Settings, admin: AIOKafkaAdminClient) -> list[Group] | None:
    try:
        return await groups(settings, admin)
    except KafkaError as error:
        if not error.retriable:
            raise
        return None


async def _describe(admin: AIOKafkaAdminClient, group: str) -> Any:
    return await admin._send_request(_DescribeGroups(group), await admin.find_coordinator(group))


def _groups(answer: Any) -> Iterator[Mapping[str, Any]]:
    for group in answer.to_object()["groups"]:
        if code := group["error_code"]:
            raise for_code(code)(group["group"])  # what else it says is blank: as if nobody were there
        yield group


def _members(role: str, members: Iterable[Mapping[str, Any]], names: Mapping[str, str]) -> Iterator[Member]:
    for each in sorted(members, key=lambda each: str(each["member_id"])):
        places: list[Place] = []
        if each["member_assignment"]:
            assigned = ConsumerProtocolMemberAssignment.decode(BytesIO(each["member_assignment"])).partitions()
            # Of a table's worker also those of the changelog, which it reads and nobody commits.
            places = [Place(names[at.topic], at.partition) for at in assigned if at.topic in names]
        kept = [place for place in sorted(places) if not place.topic.endswith("changelog")]
        yield Member(role, each["member_id"], each["client_host"].removeprefix("/"), tuple(kept))
