"""`export-service watch`: one job while it moves, until its end."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import typer
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from export_service.cli.asking import Every
from export_service.cli.terminal import STYLES, show
from export_service.failures import ExportError, Unavailable
from export_service.history.explanation import Failed
from export_service.messages import JobSnapshot, JobStatus, iso_millis
from export_service.pace import Pace, ended
from export_service.settings import Settings, load
from export_service.words import MISSING, number, printable, size, span

_KINDS = 8
"""Of failures, in a view."""
_STILL_SECONDS = 10.0
_AGAIN_SECONDS = 5.0
_PROMPT_SECONDS = 0.5
_SETTLE_SECONDS = 30.0
"""For what a job's tasks failed with to be read: at a look, and at its end."""
T = TypeVar("T")
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for a job that is not known yet.")]


class Seen(NamedTuple):
    """A job at a look: what it does a second, seconds left, seconds since it moved (None: not known), why tasks failed, and what could not
    be had. `explained`: of all that failed it is known why, as far as it can be. `last`: there is no later look."""

    job: JobSnapshot
    at: datetime
    files: float | None = None
    bytes: float | None = None
    left: float | None = None
    still: float = 0.0
    failed: Sequence[Failed] = ()
    troubles: Sequence[str] = ()
    explained: bool = False
    last: bool = False


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


def as_object(job: JobSnapshot) -> dict[str, Any]:
    return job.model_dump(mode="json", exclude={"v", "type"}, exclude_none=True)


def as_object_of(seen: Seen) -> dict[str, Any]:
    """The fields of `status`, and four more; null where it is not known."""
    pace = {"filesPerSecond": seen.files, "bytesPerSecond": seen.bytes, "secondsLeft": seen.left}
    rounded = {name: None if value is None else round(value, 3) for name, value in pace.items()}
    return as_object(seen.job) | rounded | {"failedBy": {each.error: each.number for each in seen.failed}}


def line(seen: Seen) -> str:
    """Where no terminal draws."""
    job = seen.job
    parts = [f"{_files(job)}, {size(job.bytes)}", f"{number(job.failed_tasks)} failed{_causes(seen)}"]
    parts += [f"{number(job.cancelled_tasks)} cancelled"] if job.cancelled_tasks else []
    parts += [_rate(seen)] if seen.files is not None else []
    parts += [f"{_left(seen)} left"] if seen.left is not None else []
    return f"{iso_millis(seen.at)} {job.status.value} " + ", ".join(parts)


def _causes(seen: Seen) -> str:
    known = ", ".join(f"{printable(each.error)} {number(each.number)}" for each in seen.failed[:_KINDS])
    return f" ({known})" if known else ""


def _files(job: JobSnapshot) -> str:
    if job.total_tasks is None:
        return f"{number(ended(job))} files of a list that is still being read"
    return f"{number(ended(job))} of {number(job.total_tasks)} files"


def _rate(seen: Seen) -> str:
    return f"{number(seen.files)} files/s, {size(seen.bytes)}/s"


def view(seen: Seen) -> RenderableType:
    job = seen.job
    head = Text.assemble((job.job_id, "bold"), "  ", (job.status.value, STYLES[job.status]))
    parts: list[RenderableType] = [head, _bar(job), Text(), _facts(seen)]
    if seen.failed:
        parts += [Text(), _failed(seen)]
    parts += [Text(printable(each), "yellow") for each in seen.troubles]
    if not job.status.terminal and seen.still > _STILL_SECONDS:
        parts.append(
            Text(f"It has not moved for {span(seen.still)}; see: export-service explain {printable(job.job_id)}", "yellow")
        )
    return Group(*parts)


def _bar(job: JobSnapshot) -> RenderableType:
    if not job.total_tasks:
        return Text()
    share = Text(f"{ended(job) / job.total_tasks:.1%}", justify="right")
    made = Table.grid(padding=(0, 1), expand=True)
    made.add_column(ratio=1)
    made.add_column(width=6)
    style = STYLES[job.status]
    made.add_row(ProgressBar(job.total_tasks, ended(job), complete_style=style, finished_style=style), share)
    return made


def _facts(seen: Seen) -> Table:
    job = seen.job
    cancelled = f", {number(job.cancelled_tasks)} cancelled" if job.cancelled_tasks else ""
    rows = [
        ("files", f"{_files(job)}: {number(job.completed_tasks)} succeeded, {number(job.failed_tasks)} failed{cancelled}"),
        ("bytes", size(job.bytes)),
        ("rate", _rate(seen) if seen.files is not None else MISSING),
        ("took" if job.status.terminal else "left", span(_took(job)) if job.status.terminal else _left(seen)),
        ("attempt", f"{job.attempt}, {'an execution waits' if job.has_task_token else 'nobody waits'}"),
        ("export", f"{job.export_id or MISSING} of {job.user_id or MISSING}"),
        ("to", job.destination or MISSING),
    ]
    rows += [("report", job.report_uri)] if job.report_uri else []
    rows += [("error", f"{job.error}: {job.cause or ''}")] if job.error else []
    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold")
    made.add_column()
    for name, value in rows:
        made.add_row(name, Text(printable(value), overflow="fold"))
    return made


def _left(seen: Seen) -> str:
    return MISSING if seen.left is None else f"about {span(seen.left)}"


def _took(job: JobSnapshot) -> float | None:
    return None if job.duration_ms is None else job.duration_ms / 1000


def _failed(seen: Seen) -> Table:
    made = Table(Column("failed", justify="right"), "by", "the first of them", box=None, pad_edge=False, header_style="bold")
    for each in seen.failed[:_KINDS]:
        made.add_row(number(each.number), printable(each.error), Text(printable(each.first), overflow="ellipsis", no_wrap=True))
    known, more = sum(each.number for each in seen.failed), seen.failed[_KINDS:]
    if more:
        made.add_row(number(sum(each.number for each in more)), f"{len(more)} other kinds", "")
    if seen.explained and known < seen.job.failed_tasks:
        made.add_row(number(seen.job.failed_tasks - known), "not known", "retention has removed what they failed with")
    return made
