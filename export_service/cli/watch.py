"""`export-service watch`: one job while it moves, until its end."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar

import typer

from export_service.cli.asking import Every
from export_service.cli.job_view import Seen, as_object_of, line, view
from export_service.cli.terminal import show
from export_service.failures import ExportError, Unavailable
from export_service.history.explanation import Failed
from export_service.messages import JobSnapshot, JobStatus
from export_service.pace import Pace
from export_service.settings import Settings, load

_AGAIN_SECONDS = 5.0
_PROMPT_SECONDS = 0.5
_SETTLE_SECONDS = 30.0
"""For what a job's tasks failed with to be read: at a look, and at its end."""
T = TypeVar("T")
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for a job that is not known yet.")]


def watch(
    job_id: Annotated[str, typer.Argument(metavar="JOB")],
    wait: Wait = 10.0,
    every: Every = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout, for each change.")] = False,
) -> None:
    """Show how a job moves until it ends: progress, rate, failures by cause, time left. Ctrl-C leaves the job alone.

    Exit code 0 if all its files are there, 1 if it ended otherwise or is not known.

    Example: export-service watch 550e8400-e29b-41d4-a716-446655440000
    """
    run(load(), job_id, wait, every, as_json=as_json)


def run(settings: Settings, job_id: str, wait: float, every: float, *, as_json: bool) -> None:
    looks = _looks(settings, job_id, wait, every)
    last = asyncio.run(show(looks, view, Changes(as_object_of), watch=True, as_json=as_json, lines=Changes(line)))
    if last.job.status is not JobStatus.COMPLETED:
        raise typer.Exit(1)


async def _looks(settings: Settings, job_id: str, wait: float, every: float) -> AsyncGenerator[Seen, None]:
    """Raises ExportError for a job that is not known, Unavailable at the first look only."""
    from connectors.dynamodb import DynamoTable, opened

    async def first(table: DynamoTable) -> JobSnapshot:
        deadline = time.monotonic() + wait
        while (found := await table.get(job_id)) is None:
            if time.monotonic() >= deadline:
                raise unknown(job_id)
            await asyncio.sleep(min(every, 0.5))
        return found

    pace, trouble = Pace(), None
    async with opened(settings) as table, _Causes(settings, job_id) as causes:
        job = await first(table)
        while True:
            over = job.status.terminal
            pace.see(job, now := time.monotonic())
            seen = Seen(job, datetime.now(UTC), pace.files, pace.bytes, pace.left, now - pace.moved)
            # Nearly always in time; of a large job that is looked at for the first time it may take longer.
            await causes.read(job, min(every, _PROMPT_SECONDS))
            if over and not causes.known(job):
                yield seen._replace(failed=causes.found, troubles=causes.troubles(trouble))
                await causes.read(job, _SETTLE_SECONDS)
            yield seen._replace(failed=causes.found, troubles=causes.troubles(trouble), explained=causes.known(job), last=over)
            if over:
                return
            await asyncio.sleep(every)
            try:
                job, trouble = await table.get(job_id) or job, None
            except Unavailable as error:
                trouble = str(error)


def unknown(job_id: str) -> ExportError:
    return ExportError(
        f"job {job_id} is not known in the table (EXPORT_TABLE_NAME); it may not have started yet; see: export-service jobs"
    )


class _Causes:
    """Why tasks failed, read beside the looks: of a large job it takes a while, and Kafka may be away."""

    def __init__(self, settings: Settings, job_id: str) -> None:
        self._settings, self._job_id = settings, job_id
        self._task: asyncio.Task[None] | None = None
        self._known: tuple[int, int] | None = None
        self.found: Sequence[Failed] = ()
        self._trouble: str | None = None

    async def __aenter__(self) -> "_Causes":
        from streams.job_failures import JobFailures

        self._failures, self._again = JobFailures(self._settings, self._job_id), 0.0
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._failures.close()

    def known(self, job: JobSnapshot) -> bool:
        return not job.failed_tasks or self._known == (job.attempt, job.version)

    def troubles(self, other: str | None) -> tuple[str, ...]:
        return tuple(each for each in (other, self._trouble) if each)

    async def read(self, job: JobSnapshot, seconds: float) -> None:
        """Those of the job, if they come in time; else reading goes on."""
        if not job.failed_tasks:
            self.found = ()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.known(job) and time.monotonic() >= self._again:
                    self._task = self._task or asyncio.create_task(self._read(job))
                    await asyncio.shield(self._task)
                    self._task = None

    async def _read(self, job: JobSnapshot) -> None:
        from streams.job_failures import JobFailures

        try:
            self.found = await self._failures.of(job)
            self._known, self._trouble = (job.attempt, job.version), None
        except ExportError as error:
            self._trouble = f"why tasks failed is not known: {error}"
            await self._failures.close()
            self._failures, self._again = JobFailures(self._settings, self._job_id), time.monotonic() + _AGAIN_SECONDS


class Changes(Generic[T]):
    """What is said of a look: nothing if it is as the one before. What could not be had goes to stderr, once."""

    def __init__(self, say: Callable[[Seen], T]) -> None:
        self._say = say
        self._known: tuple[int, int] | None = None
        self._told: set[str] = set()

    def __call__(self, seen: Seen) -> Iterator[T]:
        for each in seen.troubles:
            if each not in self._told:
                self._told.add(each)
                sys.stderr.write(f"export-service: {each}\n")
        newest = (seen.job.attempt, seen.job.version)
        if newest != self._known and (seen.last or not seen.job.status.terminal):
            self._known = newest
            yield self._say(seen)
