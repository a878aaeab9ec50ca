"""Some records of a topic for a person who looks: the newest, those at an offset, or those of a job; never more than a page."""

from contextlib import aclosing
from datetime import datetime
from typing import NamedTuple

from export_service.failures import ExportError
from export_service.history.records import SLACK_MS
from export_service.settings import Settings
from export_service.verify.evidence import Bounds, Raw
from streams.reading import partition_of
from streams.topic_ranges import SMALL_FETCH, Span, TopicRanges
from streams.topics import short_names, topics

PAGE = 50
_LOOKED_AT = 200_000
"""Records that are looked at for one page; a job's may be far apart."""
_SPREAD = ("tasks", "dead-letters")
"""Topics in which a job's records are on any partition."""


class Found(NamedTuple):
    """`looked`: records that were read for it; `more`: there may be others, which were not looked for."""

    records: list[Raw]
    looked: int
    more: bool


async def browse(
    settings: Settings,
    topic: str,
    *,
    job: str | None = None,
    since: datetime | None = None,
    partition: int | None = None,
    offset: int | None = None,
) -> Found:
    """Args:
        since: when the job began, if that is known: what is older is not looked at.

    Raises:
        ExportError: there is no such partition or topic. SettingsError: the topic is missing. Unavailable.
    """
    spec = short_names(topics(settings)).get(topic)
    if spec is None:
        raise ExportError(f"topic {topic!r} is none of ours")
    async with TopicRanges(settings, SMALL_FETCH) as ranges:
        bounds = {number: each for (_, number), each in (await ranges.bounds([topic])).items()}
        if partition is not None and partition not in bounds:
            raise ExportError(f"{topic} has no partition {partition}; it has {len(bounds)}")
        if job is None:
            return await _read(ranges, _around(topic, bounds, partition, offset), None)
        numbers = [*bounds] if topic in _SPREAD else [partition_of(settings, job) if len(bounds) > 1 else 0]
        firsts: dict[int, int | None] = {number: bounds[number].begin for number in numbers}
        if since is not None and not spec.compacted:
            firsts = await ranges.offsets_at(topic, numbers, round(since.timestamp() * 1000) - SLACK_MS)
        spans = [Span(topic, number, first, bounds[number].end) for number, first in firsts.items() if first is not None]
        return await _read(ranges, spans, job.encode())


def _around(topic: str, bounds: dict[int, Bounds], partition: int | None, offset: int | None) -> list[Span]:
    if partition is None:
        share = max(1, PAGE // len(bounds))
        return [Span(topic, number, max(each.begin, each.end - share), each.end) for number, each in bounds.items()]
    here = bounds[partition]
    first = max(here.begin, here.end - PAGE if offset is None else offset)
    return [Span(topic, partition, first, min(here.end, first + PAGE))]


async def _read(ranges: TopicRanges, spans: list[Span], job: bytes | None) -> Found:
    """Newest first, but for those of a job, which are in their order."""
    found: list[Raw] = []

    def wanted(key: bytes) -> bool:
        return job is None or key == job or key.startswith((job + b":", job + b"/"))

    looked = 0
    async with aclosing(ranges.read(spans)) as records:
        async for raw in records:
            looked += 1
            if wanted(raw.key or b""):
                found.append(raw)
            if len(found) >= PAGE or looked >= _LOOKED_AT:
                break
    found.sort(key=lambda raw: (raw.timestamp, raw.partition, raw.offset), reverse=job is None)
    return Found(found, looked, job is not None and looked < sum(span.end - span.first for span in spans))
