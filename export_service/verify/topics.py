"""Reads the topics with plain aiokafka: what is committed, then where each partition ends, then everything up to there."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from export_service.verify.evidence import COMPACTED, READERS, TOPICS, Bounds, Raw

Progress = Callable[[str, int, int], None]
"""What is read, how much of it, of how much."""
_STALLED_SECONDS = 60
_COORDINATOR_SECONDS = 20


class StalledReading(Exception):
    """A broker that answers and gives no records. The message names the partitions."""


class TopicReader:
    """`async with` it.

    Args:
        kafka: keyword arguments that connect an aiokafka client.
        names: short name of each of TOPICS -> its real name.
        group: role -> consumer group.
    """

    def __init__(self, kafka: Mapping[str, Any], names: Mapping[str, str], group: Callable[[str], str]) -> None:
        self._kafka, self._names, self._group = kafka, names, group
        self._open = AsyncExitStack()

    async def __aenter__(self) -> "TopicReader":
        self._admin = AIOKafkaAdminClient(**self._kafka)
        self._consumer = AIOKafkaConsumer(**self._kafka, enable_auto_commit=False, auto_offset_reset="earliest")
        self._open.push_async_callback(self._admin.close)
        self._open.push_async_callback(self._consumer.stop)
        try:
            await self._admin.start()
            await self._consumer.start()
        except BaseException:
            await self._open.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    async def bounds(self) -> dict[tuple[str, int], Bounds]:
        """Of every partition. Commits first, then ends in reverse flow order: the cause of each effect that is seen is seen too."""
        committed: dict[TopicPartition, int] = {}
        for role in READERS.values():
            committed |= await self._committed(self._group(role))
        described = await self._admin.describe_topics(list(self._names.values()))
        places = {
            each["topic"]: [TopicPartition(each["topic"], part["partition"]) for part in each["partitions"]] for each in described
        }
        bounds: dict[tuple[str, int], Bounds] = {}
        for topic in reversed(TOPICS):
            mine = places.get(self._names[topic], [])
            if mine:
                begins, ends = await self._consumer.beginning_offsets(mine), await self._consumer.end_offsets(mine)
                bounds |= {(topic, at.partition): Bounds(begins[at], ends[at], committed.get(at)) for at in mine}
        return bounds

    async def from_then(self, bounds: Mapping[tuple[str, int], Bounds], millis: int) -> dict[tuple[str, int], Bounds]:
        """Without what is older, but for records that their reader has not finished. Compacted topics stay whole."""
        old = {TopicPartition(self._names[topic], number): (topic, number) for topic, number in bounds if topic not in COMPACTED}
        found, later = await self._consumer.offsets_for_times(dict.fromkeys(old, millis)), dict(bounds)
        for place, key in old.items():
            each = bounds[key]
            begin = found[place].offset if found.get(place) is not None else each.end
            begin = begin if each.committed is None else min(begin, max(each.committed, each.begin))
            if begin > each.begin:
                later[key] = replace(each, begin=begin, since=millis)
        return later

    async def _committed(self, group: str) -> dict[TopicPartition, int]:
        deadline = time.monotonic() + _COORDINATOR_SECONDS
        while True:
            try:
                found = await self._admin.list_consumer_group_offsets(group)
            except KafkaError as error:
                # A broker that nobody has used yet makes its topic of commits when it is first asked for them.
                if not error.retriable or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)
            else:
                return {place: each.offset for place, each in found.items() if each.offset >= 0}

    async def read(
        self, bounds: Mapping[tuple[str, int], Bounds], mine: bytes, progress: Progress
    ) -> tuple[dict[str, tuple[Raw, ...]], dict[tuple[str, int], int]]:
        """Records within the bounds whose key begins with `mine`, and the timestamp of each partition's first record.

        All of them are held in memory. Raises StalledReading.
        """
        short = {name: topic for topic, name in self._names.items()}
        left = {
            TopicPartition(self._names[topic], number): each for (topic, number), each in bounds.items() if each.begin < each.end
        }
        records: dict[str, list[Raw]] = {topic: [] for topic in TOPICS}
        since: dict[tuple[str, int], int] = {}
        total, done, moved = sum(each.end - each.begin for each in left.values()), 0, time.monotonic()
        self._consumer.assign(list(left))
        if left:
            await self._consumer.seek_to_beginning(*left)
        while left:
            batch = await self._consumer.getmany(timeout_ms=500)
            for place, found in batch.items():
                topic = short[place.topic]
                since.setdefault((topic, place.partition), found[0].timestamp)
                records[topic] += [
                    _raw(topic, record)
                    for record in found
                    if place in left and record.offset < left[place].end and (record.key or b"").startswith(mine)
                ]
                moved = time.monotonic()
            for place in list(left):
                if await self._consumer.position(place) >= left[place].end:
                    done += left[place].end - left[place].begin
                    del left[place]
                    self._consumer.pause(place)
            progress("topics", done, total)
            if time.monotonic() - moved > _STALLED_SECONDS:
                raise StalledReading(", ".join(f"{place.topic}:{place.partition}" for place in left))
        ordered = {topic: tuple(sorted(found, key=lambda raw: (raw.partition, raw.offset))) for topic, found in records.items()}
        return ordered, since


def _raw(topic: str, record: Any) -> Raw:
    headers = b"\n".join(name.encode() + b"=" + (value or b"") for name, value in record.headers)
    return Raw(topic, record.partition, record.offset, record.timestamp, record.key, record.value, headers)
