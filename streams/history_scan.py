"""Reads the histories of selected jobs from `results`, and folds them again, beside the running workers."""

from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime

from agents.refold import Refold
from export_service.failures import ExportError
from export_service.history.compare import recorded_ends
from export_service.history.records import SLACK_MS, begun, body, subject, surely_first
from export_service.history.selection import Selection
from export_service.jobs import job_of
from export_service.messages import JobSnapshot, from_millis, iso_millis
from export_service.settings import Settings
from export_service.verify.evidence import Bounds, Raw
from streams.reading import partition_of
from streams.topic_ranges import Progress, Span, TopicRanges
from streams.topics import topics

Places = Mapping[tuple[str, int], Bounds]


@dataclass
class Scan:
    """Attributes:
    first, last: job -> its first and last event.
    rebuilt: jobs whose tables were put back.
    cut: job -> why the beginning of its history is not there.
    completions: of the jobs, as recorded.
    """

    refold: Refold
    bounds: Places
    first: dict[str, Raw] = field(default_factory=dict)
    last: dict[str, Raw] = field(default_factory=dict)
    rebuilt: set[str] = field(default_factory=set)
    cut: dict[str, str] = field(default_factory=dict)
    completions: list[Raw] = field(default_factory=list)
    records: int = 0
    bytes: int = 0

    def committed(self, raw: Raw) -> bool:
        """The tally has done what it does with the record."""
        done = self.bounds[raw.topic, raw.partition].committed
        return done is not None and raw.offset < done

    def moving(self, job_id: str) -> bool:
        return not self.committed(self.last[job_id])

    def completion_waits(self, job_id: str, attempt: int) -> str | None:
        """Where the completion is, if the callback role has not done with it."""
        for raw in self.completions:
            said = subject(body(raw) or {})
            if said.get("jobId") == job_id and said.get("attempt", 1) == attempt and not self.committed(raw):
                return raw.place
        return None

    def oldest(self, jobs: Iterable[str]) -> datetime | None:
        """Of the first events of these jobs."""
        return min((from_millis(self.first[job_id].timestamp) for job_id in jobs), default=None)

    @property
    def ends(self) -> Mapping[tuple[str, int], tuple[Mapping[str, object], str]]:
        return recorded_ends(self.completions)


async def scan(
    settings: Settings, ranges: TopicRanges, selection: Selection, known: Mapping[str, JobSnapshot], progress: Progress
) -> Scan:
    """The selected jobs, folded.

    Args:
        known: snapshots of jobs that are named: they say where to begin.

    Raises:
        ExportError: a range is not there any more, or a job is not known. SettingsError, Unavailable.
    """
    bounds = await ranges.bounds(["results", "completions"])
    found = Scan(Refold(topics(settings)), bounds)
    chosen = set(selection.jobs) or None
    if selection.by_range:
        in_range = await _in_range(ranges, bounds, selection, progress)
        chosen = in_range if chosen is None else chosen & in_range
    mine = None if chosen is None else {job.encode() for job in chosen}
    wanted = None if mine is None else mine.__contains__
    async with aclosing(ranges.read(_spans(settings, bounds, selection, known), wanted, progress)) as records:
        async for raw in records:
            await _fold(found, raw)
    if known and not all(surely_first(raw) for raw in found.first.values()):
        # Where snapshots say that jobs begin is in the middle of one.
        return await scan(settings, ranges, selection, {}, progress)
    if missing := [job for job in selection.jobs if job not in found.first]:
        raise ExportError(f"job {missing[0]} has no event on results: it is not known, or retention has removed it")
    jobs = found.refold.jobs
    for job_id in jobs:
        await _check_beginning(found, ranges, job_id, known.get(job_id))
    keys = {job.encode() for job in jobs}
    spans = [
        Span("completions", number, each.begin, each.end) for (topic, number), each in bounds.items() if topic == "completions"
    ]
    async with aclosing(ranges.read(spans, keys.__contains__, progress)) as records:
        found.completions = [raw async for raw in records]
    found.records, found.bytes = ranges.records.total(), ranges.bytes.total()
    return found


async def _fold(found: Scan, raw: Raw) -> None:
    said = body(raw)
    if said is not None and said.get("type") == "JobRebuilt":
        found.rebuilt.add(str(said.get("jobId")))
    elif (moved := await found.refold.apply(raw)) is not None:
        # Not the key's, which a stranger's record may have wrong.
        job_id = job_of(moved.event)
        found.first.setdefault(job_id, raw)
        found.last[job_id] = raw


async def _in_range(ranges: TopicRanges, bounds: Places, selection: Selection, progress: Progress) -> set[str]:
    """Jobs that have an event there."""
    results = {number: each for (topic, number), each in bounds.items() if topic == "results"}
    wanted = {partition: (first, last + 1) for partition, first, last in selection.offsets}
    for partition, (first, end) in wanted.items():
        if (here := results.get(partition)) is None:
            raise ExportError(f"results has no partition {partition}; it has {len(results)}")
        if first < here.begin:
            raise ExportError(f"results:{partition} begins at {here.begin}: retention has removed {first} to {here.begin - 1}")
        if end > here.end:
            raise ExportError(f"results:{partition} ends at {here.end}: there is no record {end - 1} yet")
    spans = wanted or {number: (each.begin, each.end) for number, each in results.items()}
    if selection.since is not None:
        starts = await ranges.offsets_at("results", spans, round(selection.since.timestamp() * 1000))
        spans = {n: (max(first, end if (at := starts[n]) is None else at), end) for n, (first, end) in spans.items()}
    if selection.until is not None:
        stops = await ranges.offsets_at("results", spans, round(selection.until.timestamp() * 1000) + 1)
        spans = {n: (first, end if (at := stops[n]) is None else min(end, at)) for n, (first, end) in spans.items()}
    asked = [Span("results", number, first, end) for number, (first, end) in spans.items()]
    async with aclosing(ranges.read(asked, None, progress)) as records:
        return {(raw.key or b"").decode(errors="replace") async for raw in records}


def _spans(settings: Settings, bounds: Places, selection: Selection, known: Mapping[str, JobSnapshot]) -> list[Span]:
    """Of named jobs from where their snapshots say that they begin, of others all that is there."""
    results = {number: each for (topic, number), each in bounds.items() if topic == "results"}
    if not selection.jobs:
        return [Span("results", number, each.begin, each.end) for number, each in results.items()]
    starts: dict[int, int] = {}
    for job_id in selection.jobs:
        number = partition_of(settings, job_id)
        said = known[job_id].first_offset if job_id in known else None
        begin = max(results[number].begin, said or 0)
        starts[number] = min(starts.get(number, begin), begin)
    return [Span("results", number, first, results[number].end) for number, first in starts.items()]


async def _check_beginning(found: Scan, ranges: TopicRanges, job_id: str, snapshot: JobSnapshot | None) -> None:
    first = found.first[job_id]
    here = found.bounds["results", first.partition]
    if snapshot is not None and snapshot.version > here.end:
        raise ExportError(
            f"results:{first.partition} ends at {here.end}, and the snapshot of job {job_id} is of record {snapshot.version - 1}: "
            "the topic was deleted and made again; nothing can be replayed from it"
        )
    if not here.begin or (snapshot is not None and snapshot.first_offset == first.offset):
        return
    if (snapshot is None or snapshot.first_offset is None) and (asked := begun(first)) is not None:
        before = (await ranges.offsets_at("results", [first.partition], asked - SLACK_MS))[first.partition]
        if before is None or before > here.begin:
            return
    at = iso_millis(from_millis(first.timestamp))
    found.cut[job_id] = f"retention has removed the beginning of results:{first.partition}; its first event there is of {at}"
