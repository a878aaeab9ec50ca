"""The report of a job: one line a task, written beside its files when the job has ended, before anybody is told.

The state of a job has only bitmaps, so the lines are read again from `results`, between the job's first event and the one that ended
it. Of several outcomes of one task the report has the one that counts, as the fold does.
"""

import asyncio
import csv
import io
import operator
from collections.abc import AsyncIterator, Callable
from typing import Any

from pydantic.alias_generators import to_camel
from pydantic_core import to_json

from export_service.backoff import pauses
from export_service.failures import TransferError
from export_service.messages import JobCompleted, Outcome, Result, Results, ResultsRange
from export_service.ports import Destinations
from export_service.shards import SHARD_TASKS

Events = Callable[[str, ResultsRange], AsyncIterator[Results]]
"""Reads the TaskResults of one job in a range of `results`, in offset order."""

_ATTRIBUTES = ("index", "name", "url", "outcome", "bytes", "sha256", "attempts", "duration_ms", "error", "message")
FIELDS = tuple(map(to_camel, _ATTRIBUTES))
_values = operator.attrgetter(*_ATTRIBUTES)
_IN_MEMORY = 2_000
"""Records of a range that are kept in memory and sorted by index (some 25 MB at 128 results each); a larger range is read twice,
and its report is in the order of completion."""
_CHUNK = 256 * 1024
_RANK = {Outcome.CANCELLED: 1, Outcome.FAILED: 2, Outcome.SUCCEEDED: 3}
"""Of several outcomes of one task the greatest counts."""


class Reporter:
    def __init__(self, events: Events, destinations: Destinations) -> None:
        self._events, self._destinations = events, destinations

    async def write(self, completed: JobCompleted) -> None:
        """Write `_report.jsonl` or `_report.csv`. Raises TransferError, Unavailable."""
        snapshot = completed.snapshot
        if not snapshot.report_uri or not snapshot.destination:
            return
        destination = self._destinations.at(snapshot.destination)
        async with destination.create(snapshot.report_uri.rsplit("/", 1)[1]) as sink:
            buffer = bytearray(_header(completed.report_format))
            async for result in self._counting(completed):
                buffer += _line(result, completed.report_format)
                if len(buffer) >= _CHUNK:
                    await sink.write(bytes(buffer))
                    buffer.clear()
            await sink.write(bytes(buffer))

    async def _counting(self, completed: JobCompleted) -> AsyncIterator[Result]:
        """Each task's outcome that counts, once."""
        job_id, events = completed.snapshot.job_id, completed.events
        kept: list[Results] | None = None
        if events.last - events.first < _IN_MEMORY:
            kept = [event async for event in self._events(job_id, events)]

        async def read() -> AsyncIterator[Result]:
            async for event in _each(kept) if kept is not None else self._events(job_id, events):
                if event.attempt < completed.plan:
                    continue
                for result in event.results:
                    of_run = event.attempt >= completed.run or result.outcome is Outcome.SUCCEEDED
                    if of_run and result.index < (completed.snapshot.total_tasks or 0):
                        yield result

        best: dict[int, bytearray] = {}
        async for result in read():
            number, place = divmod(result.index, SHARD_TASKS)
            if (ranks := best.get(number)) is None:
                ranks = best[number] = bytearray(SHARD_TASKS)
            ranks[place] = max(ranks[place], _RANK[result.outcome])

        def counts(result: Result) -> bool:
            number, place = divmod(result.index, SHARD_TASKS)
            if best[number][place] != _RANK[result.outcome]:
                return False
            best[number][place] = 0  # told
            return True

        if kept is None:
            async for result in read():
                if counts(result):
                    yield result
            return
        for result in sorted([result async for result in read() if counts(result)], key=lambda result: result.index):
            yield result


async def write_with_retries(reporter: Reporter, completed: JobCompleted, log: Any, tries: int = 4) -> str | None:
    """The report's URI, or None if it cannot be written: that must not keep anybody waiting for the answer."""
    for tried, pause in enumerate(pauses(0.5, 10), start=1):
        try:
            await reporter.write(completed)
            return completed.snapshot.report_uri
        except TransferError as error:
            if not error.retryable or tried >= tries:
                log.error("Cannot write the job's report", jobId=completed.snapshot.job_id, error=str(error))
                return None
            await asyncio.sleep(pause)
    return None


async def _each(events: list[Results]) -> AsyncIterator[Results]:
    for event in events:
        yield event


def _header(form: str) -> bytes:
    return (",".join(FIELDS) + "\r\n").encode() if form == "csv" else b""


def _line(result: Result, form: str) -> bytes:
    fields = {name: value for name, value in zip(FIELDS, _values(result), strict=True) if value is not None}
    if form == "jsonl":
        return to_json(fields) + b"\n"
    row = io.StringIO()
    csv.writer(row).writerow([fields.get(name, "") for name in FIELDS])
    return row.getvalue().encode()
