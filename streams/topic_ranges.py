"""Reads parts of topics beside everything that runs: outside any group, nothing is committed, and only what is asked for.

Topics have their short names here (`requests`, …, `jobs-changelog`), as in `export_service.verify`, whose raw records these are.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from export_service.failures import Unavailable
from export_service.settings import Settings
from export_service.verify.evidence import READERS, Bounds, Raw
from streams.kafka_client import unreachable
from streams.onlooker import onlooker
from streams.topics import declare, short_names, topics

SMALL_FETCH = 64 * 1024
"""Bytes asked for at a time: what is fetched beyond the end of a range is at most one such portion."""
LARGE_FETCH = 1024 * 1024
_STALLED_SECONDS = 60
_COORDINATOR_SECONDS = 20
Progress = Callable[[str, int, int], None]
"""What is read, how many records of it, of how many."""


class Span(NamedTuple):
    """Offsets of one partition, `end` excluded."""

    topic: str
    partition: int
    first: int
    end: int


def silent(_what: str, _done: int, _total: int) -> None:
    return


class TopicRanges:
    """`async with` it. Its methods raise Unavailable.

    Attributes:
        records, bytes: by topic, what was read. `bytes` are those of keys and values, uncompressed.
    """

    def __init__(self, settings: Settings, fetch_bytes: int = LARGE_FETCH) -> None:
        self._settings, self._fetch_bytes = settings, fetch_bytes
        self._specs = short_names(topics(settings))
        self._open = AsyncExitStack()
        self._places: set[TopicPartition] = set()
        self.records: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    async def __aenter__(self) -> "TopicRanges":
        self._admin, self._consumer = await self._open.enter_async_context(onlooker(self._settings, self._fetch_bytes))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    async def bounds(self, wanted: Iterable[str]) -> dict[tuple[str, int], Bounds]:
        """(topic, partition) -> where it begins and ends, and what its reader has committed. Commits are asked for first.

        Raises SettingsError: a topic is missing, or has another number of partitions than the settings say.
        """
        wanted = list(wanted)
        await declare(self._settings, [self._specs[topic] for topic in wanted], create=False)
        found: dict[tuple[str, int], Bounds] = {}
        try:
            committed = {topic: await self._committed(READERS[topic]) for topic in wanted if topic in READERS}
            described = await self._admin.describe_topics([self._specs[topic].name for topic in wanted])
            numbers = {each["topic"]: [part["partition"] for part in each["partitions"]] for each in described}
            self._know(TopicPartition(name, number) for name, found_there in numbers.items() for number in found_there)
            for topic in wanted:
                places = [TopicPartition(self._specs[topic].name, number) for number in numbers[self._specs[topic].name]]
                begins, ends = await self._consumer.beginning_offsets(places), await self._consumer.end_offsets(places)
                done = committed.get(topic, {})
                found |= {(topic, at.partition): Bounds(begins[at], ends[at], done.get(at)) for at in places}
        except (TimeoutError, KafkaError) as error:
            raise unreachable(self._settings, error) from None
        return found

    def _know(self, places: Iterable[TopicPartition]) -> None:
        """All that is asked of other partitions takes a tenth of a second each time."""
        self._places |= set(places)
        self._consumer.assign(list(self._places))
        self._consumer.pause(*self._places)

    async def _committed(self, role: str) -> dict[TopicPartition, int]:
        deadline = time.monotonic() + _COORDINATOR_SECONDS
        while True:
            try:
                found = await self._admin.list_consumer_group_offsets(f"{self._settings.app_id}-{role}")
            except KafkaError as error:
                # A broker that nobody has used yet makes its topic of commits when it is first asked for them.
                if not error.retriable or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)
            else:
                return {place: each.offset for place, each in found.items() if each.offset >= 0}

    async def offsets_at(self, topic: str, partitions: Iterable[int], millis: int) -> dict[int, int | None]:
        """Partition -> offset of its first record of that time (ms since the epoch) or later; None if there is none."""
        name = self._specs[topic].name
        try:
            found = await self._consumer.offsets_for_times({TopicPartition(name, number): max(0, millis) for number in partitions})
        except (TimeoutError, KafkaError) as error:
            raise unreachable(self._settings, error) from None
        return {place.partition: each.offset if each is not None else None for place, each in found.items()}

    async def read(
        self, spans: Iterable[Span], keys: Callable[[bytes], bool] | None = None, progress: Progress = silent
    ) -> AsyncGenerator[Raw, None]:
        """Records whose key is wanted; of each partition in order. `bounds` must know the topic. Close the iterator to stop early."""
        left = {TopicPartition(self._specs[span.topic].name, span.partition): span for span in spans if span.first < span.end}
        total, begun, done = sum(span.end - span.first for span in left.values()), dict(left), 0
        if not left:
            return
        moved = time.monotonic()
        try:
            for place, span in left.items():
                self._consumer.seek(place, span.first)
            self._consumer.resume(*left)
            while left:
                for place, found in (await self._consumer.getmany(*left, timeout_ms=500)).items():
                    span, moved = left[place], time.monotonic()
                    for record in found:
                        if record.offset >= span.end:
                            break
                        key = record.key or b""
                        self.records[span.topic] += 1
                        self.bytes[span.topic] += len(key) + len(record.value or b"")
                        if keys is None or keys(key):
                            yield _raw(span.topic, record)
                for place in list(left):
                    # Not the last record's offset: the last ones may have been compacted away.
                    if await self._consumer.position(place) >= left[place].end:
                        done += begun[place].end - begun[place].first
                        self._consumer.pause(place)
                        del left[place]
                progress("topics", done, total)
                if time.monotonic() - moved > _STALLED_SECONDS:
                    where = ", ".join(f"{place.topic}:{place.partition}" for place in left)
                    raise Unavailable("Kafka", "EXPORT_KAFKA_BOOTSTRAP_SERVERS", f"no records from {where}")
        except (TimeoutError, KafkaError) as error:
            raise unreachable(self._settings, error) from None
        finally:
            self._consumer.pause(*begun)


def _raw(topic: str, record: Any) -> Raw:
    headers = b"\n".join(name.encode() + b"=" + (value or b"") for name, value in record.headers)
    return Raw(topic, record.partition, record.offset, record.timestamp, record.key, record.value, headers)
