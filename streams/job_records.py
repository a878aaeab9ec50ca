"""Finds the records of one job without reading the topics whole: by the partition of its key, the offsets in its snapshot, and times."""

from collections.abc import Collection, Iterable
from contextlib import aclosing
from datetime import datetime

from export_service.failures import ExportError
from export_service.history.records import SLACK_MS, JobRecords, Reading, asked_at, begun, surely_first
from export_service.messages import JobSnapshot
from export_service.settings import Settings
from export_service.verify.evidence import Bounds, Raw
from streams.reading import partition_of
from streams.topic_ranges import SMALL_FETCH, Progress, Span, TopicRanges, silent

_TOPICS = ("results", "requests", "completions", "callbacks", "cancellations")
_MORE = ("tasks", "snapshots", "jobs-changelog", "shards-changelog")
"""Read only where they are asked for. The key of a task is not in its partition, and the last three are compacted."""


async def read_job(
    settings: Settings, job_id: str, snapshot: JobSnapshot | None, *, more: Collection[str] = (), progress: Progress = silent
) -> JobRecords:
    """Everything that the topics have of a job.

    Args:
        snapshot: the job's, from the table; without one its partition of `results` is read whole.
        more: of _MORE. `tasks` may be `tasks?`: only if the job has not ended.

    Raises:
        ExportError: results are not those that the snapshot is of. SettingsError: a topic is missing. Unavailable.
    """
    async with TopicRanges(settings, SMALL_FETCH) as ranges:
        reader = _Reader(ranges, job_id, partition_of(settings, job_id), progress)
        ended = snapshot is not None and snapshot.status.terminal
        wanted = [*_TOPICS, *(topic for topic in _MORE if topic in more or (topic + "?" in more and not ended))]
        bounds = await ranges.bounds(wanted)
        cut = await reader.results(bounds, snapshot)
        since = reader.began()
        for topic in wanted[1:]:
            await reader.others(topic, bounds, since)
        return JobRecords(job_id, reader.records, bounds, tuple(reader.readings), cut)


class _Reader:
    def __init__(self, ranges: TopicRanges, job_id: str, partition: int, progress: Progress) -> None:
        self._ranges, self._job, self._progress = ranges, job_id.encode(), progress
        self._partition = partition
        self.records: dict[str, tuple[Raw, ...]] = {}
        self.readings: list[Reading] = []

    async def results(self, bounds: dict[tuple[str, int], Bounds], snapshot: JobSnapshot | None) -> str | None:
        """Why the beginning is not there, if it is not."""
        here = bounds["results", self._partition]
        first, why = await self._first(snapshot, here)
        end = here.end
        if snapshot is not None:
            if snapshot.version > here.end:
                raise ExportError(
                    f"results:{self._partition} ends at {here.end}, and the job's snapshot is of record {snapshot.version - 1}: "
                    "the topic was deleted and made again, or these are other topics (EXPORT_TOPICS_PREFIX); nothing can be said of the job"
                )
            if snapshot.status.terminal:
                end = snapshot.version
        known = snapshot
        await self._take("results", [Span("results", self._partition, max(first, here.begin), end)], bounds, why)
        if first > here.begin and not any(surely_first(raw) for raw in self.records["results"][:1]):
            self.readings.clear()
            known, why = None, "from further back: where its snapshot says that the job begins is not its beginning"
            before = await self._before(here)
            await self._take("results", [Span("results", self._partition, before, end)], bounds, why)
        return await self._cut(here, known)

    async def _before(self, here: Bounds) -> int:
        """An offset that no event of the job is before."""
        first = next(iter(self.records["results"]), None)
        if first is None or (asked := begun(first)) is None:
            return here.begin
        return (await self._ranges.offsets_at("results", [self._partition], asked - SLACK_MS))[self._partition] or here.begin

    async def _cut(self, here: Bounds, snapshot: JobSnapshot | None) -> str | None:
        starts = f"retention has removed the beginning of results:{self._partition}, which starts at {here.begin} now"
        if not here.begin:
            return None
        if snapshot is not None and (known := snapshot.first_offset) is not None:
            return f"{starts}; the job's history begins at {known}" if known < here.begin else None
        if await self._before(here) > here.begin:
            return None
        return f"{starts}; where the job's history begins is not known"

    async def _first(self, snapshot: JobSnapshot | None, here: Bounds) -> tuple[int, str]:
        if snapshot is not None and snapshot.first_offset is not None:
            return snapshot.first_offset, "the job's range and its neighbours in it"
        if snapshot is not None and snapshot.attempt == 1 and snapshot.requested_at is not None:
            millis = _millis(snapshot.requested_at) - SLACK_MS
            found = (await self._ranges.offsets_at("results", [self._partition], millis))[self._partition]
            return (
                here.end if found is None else found,
                "from the time of its request on: its snapshot does not say where it begins",
            )
        return here.begin, "its whole partition: no snapshot says where the job begins"

    def began(self) -> int | None:
        """When the job did, ms. None: not known."""
        for raw in self.records["results"]:
            if (asked := asked_at(raw)) is not None:
                return min(raw.timestamp, asked)
        return None

    async def others(self, topic: str, bounds: dict[tuple[str, int], Bounds], since: int | None) -> None:
        """From the time that the job began to the end."""
        mine = [place for name, place in bounds if name == topic]
        if topic not in ("tasks", "cancellations"):
            mine = [self._partition]
        firsts: dict[int, int | None] = {number: bounds[topic, number].begin for number in mine}
        why = "from the time that the job began to the end"
        if "changelog" in topic:
            why = "its partition of the table"
        elif since is None:
            why = "whole: no event says when the job began"
        else:
            firsts = await self._ranges.offsets_at(topic, mine, since - SLACK_MS)
        spans = [Span(topic, number, first, bounds[topic, number].end) for number, first in firsts.items() if first is not None]
        await self._take(topic, spans, bounds, why)

    async def _take(self, topic: str, spans: Iterable[Span], bounds: dict[tuple[str, int], Bounds], why: str) -> None:
        async with aclosing(self._ranges.read(spans, self._is_mine, self._progress)) as found:
            kept = [raw async for raw in found]
        self.records[topic] = tuple(sorted(kept, key=lambda raw: (raw.partition, raw.offset)))
        total = sum(each.end - each.begin for (name, _), each in bounds.items() if name == topic)
        self.readings.append(Reading(topic, self._ranges.records[topic], self._ranges.bytes[topic], total, why))

    def _is_mine(self, key: bytes) -> bool:
        return key == self._job or key.startswith((self._job + b":", self._job + b"/"))


def _millis(when: datetime) -> int:
    return round(when.timestamp() * 1000)
