"""Reads parts of topics beside everything that runs: outside any group, nothing is committed, and only what is asked for.

Topics have their short names here (`requests`, …, `jobs-changelog`), as in `export_service.verify`, whose raw records these are.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from export_service.settings import Settings
from export_service.verify.evidence import READERS, Bounds, Raw
from streams.kafka_client import kafka_errors
from streams.offsets import bounds, committed, partitions
from streams.onlooker import LARGE_FETCH, onlooker
from streams.reading import portions
from streams.topics import declare, short_names, topics

SMALL_FETCH = 64 * 1024
"""Bytes asked for at a time: what is fetched beyond the end of a range is at most one such portion."""
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
        specs = {topic: self._specs[topic] for topic in wanted}
        await declare(self._settings, list(specs.values()), create=False)
        done: dict[TopicPartition, int] = {}
        with kafka_errors(self._settings):
            for topic in specs.keys() & READERS.keys():
                done |= await self._committed(READERS[topic])
            places = await partitions(self._admin, [spec.name for spec in specs.values()])
            self._know(places)
            found, short = await bounds(self._consumer, places, done), {spec.name: topic for topic, spec in specs.items()}
        return {(short[place.topic], place.partition): found[place] for place in places}

    def _know(self, places: Iterable[TopicPartition]) -> None:
        """All that is asked of other partitions takes a tenth of a second each time."""
        self._places |= set(places)
        self._consumer.assign(list(self._places))
        self._consumer.pause(*self._places)

    async def _committed(self, role: str) -> dict[TopicPartition, int]:
        deadline = time.monotonic() + _COORDINATOR_SECONDS
        while True:
            try:
                return await committed(self._admin, f"{self._settings.app_id}-{role}")
            except KafkaError as error:
                if not error.retriable or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)

    async def offsets_at(self, topic: str, numbers: Iterable[int], millis: int) -> dict[int, int | None]:
        """Partition -> offset of its first record of that time (ms since the epoch) or later; None if there is none."""
        name = self._specs[topic].name
        with kafka_errors(self._settings):
            found = await self._consumer.offsets_for_times({TopicPartition(name, number): max(0, millis) for number in numbers})
        return {place.partition: each.offset if each is not None else None for place, each in found.items()}

    async def read(
        self, spans: Iterable[Span], keys: Callable[[bytes], bool] | None = None, progress: Progress = silent
    ) -> AsyncGenerator[Raw, None]:
        """Records whose key is wanted; of each partition in order. `bounds` must know the topic. Close the iterator to stop early."""
        wanted = {TopicPartition(self._specs[span.topic].name, span.partition): span for span in spans if span.first < span.end}
        if not wanted:
            return
        limits = {place: (span.first, span.end) for place, span in wanted.items()}
        total, done = sum(end - first for first, end in limits.values()), dict.fromkeys(wanted, 0)
        with self._reading(wanted):
            async with aclosing(portions(self._consumer, limits)) as found:
                async for place, records in found:
                    topic = wanted[place].topic
                    for record in records:
                        key = record.key or b""
                        self.records[topic] += 1
                        self.bytes[topic] += len(key) + len(record.value or b"")
                        if keys is None or keys(key):
                            yield _raw(topic, record)
                    done[place] = records[-1].offset + 1 - wanted[place].first
                    progress("topics", sum(done.values()), total)
            progress("topics", total, total)

    @contextmanager
    def _reading(self, places: Iterable[TopicPartition]) -> Iterator[None]:
        try:
            with kafka_errors(self._settings):
                yield
        finally:
            self._consumer.pause(*places)


def _raw(topic: str, record: Any) -> Raw:
    headers = b"\n".join(name.encode() + b"=" + (value or b"") for name, value in record.headers)
    return Raw(topic, record.partition, record.offset, record.timestamp, record.key, record.value, headers)
