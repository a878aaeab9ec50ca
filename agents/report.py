"""The report of a job: one line a task, written beside its files when the job has ended, before anybody is told.

The state of a job has only bitmaps, so the lines are read again from `results`, between the job's first event and the one that ended
it. Of several outcomes of one task the report has the one that counts, as the fold does.
"""

import asyncio
import csv
import io
import operator
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import msgspec
from pydantic.alias_generators import to_camel

from export_service.backoff import pauses
from export_service.failures import TransferError
from export_service.messages import JobCompleted, Outcome, ResultsRange, TaskResult, TaskResults
from export_service.ports import Destinations
from export_service.shards import SHARD_TASKS

Events = Callable[[str, ResultsRange], AsyncIterator[TaskResults]]
"""Reads the TaskResults of one job in a range of `results`, in offset order."""

_ATTRIBUTES = ("index", "name", "url", "outcome", "bytes", "sha256", "attempts", "duration_ms", "error", "message")
FIELDS = tuple(map(to_camel, _ATTRIBUTES))
_encode = msgspec.json.Encoder().encode
_values = operator.attrgetter(*_ATTRIBUTES)
_IN_MEMORY = 50_000
"""Lines of a report that are kept in memory and sorted by index (some 25 MB). Of a larger job the topic is read twice, and its report is
in the order of completion."""
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
            async for line in self._lines(completed):
                buffer += line
                if len(buffer) >= _CHUNK:
                    await sink.write(bytes(buffer))
                    buffer.clear()
            await sink.write(bytes(buffer))

    async def _lines(self, completed: JobCompleted) -> AsyncIterator[bytes]:
        """Of each task's outcome that counts, once."""
        form, results = completed.report_format, partial(self._results, completed)
        if (completed.snapshot.total_tasks or 0) > _IN_MEMORY:
            async for result in _counting(results):
                yield _line(result, form)
            return
        lines: dict[int, tuple[int, bytes]] = {}
        async for result in results():
            rank = _RANK[result.outcome]
            if result.index not in lines or rank > lines[result.index][0]:
                lines[result.index] = rank, _line(result, form)
        for _, (_, line) in sorted(lines.items()):
            yield line

    async def _results(self, completed: JobCompleted) -> AsyncIterator[TaskResult]:
        """Of the plan and run that ended."""
        async for event in self._events(completed.snapshot.job_id, completed.events):
            if event.attempt < completed.plan:
                continue
            for result in event.results:
                of_run = event.attempt >= completed.run or result.outcome is Outcome.SUCCEEDED
                if of_run and result.index < (completed.snapshot.total_tasks or 0):
                    yield result


async def _counting(results: Callable[[], AsyncIterator[TaskResult]]) -> AsyncIterator[TaskResult]:
    """Of each task the first with the outcome that counts. Reads them twice."""
    best: dict[int, bytearray] = {}
    async for result in results():
        number, place = divmod(result.index, SHARD_TASKS)
        if (ranks := best.get(number)) is None:
            ranks = best[number] = bytearray(SHARD_TASKS)
        ranks[place] = max(ranks[place], _RANK[result.outcome])
    async for result in results():
        number, place = divmod(result.index, SHARD_TASKS)
        if best[number][place] == _RANK[result.outcome]:
            best[number][place] = 0  # told
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


def _header(form: str) -> bytes:
    return (",".join(FIELDS) + "\r\n").encode() if form == "csv" else b""


def _line(result: TaskResult, form: str) -> bytes:
    if form == "jsonl":
        fields = {name: value for name, value in zip(FIELDS, _values(result), strict=True) if value is not None}
        return _encode(fields) + b"\n"
    row = io.StringIO()
    csv.writer(row).writerow(["" if value is None else value for value in _values(result)])
    return row.getvalue().encode()
