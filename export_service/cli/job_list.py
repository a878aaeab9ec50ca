"""`export-service jobs`: which jobs there are, those that moved last first."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

import typer
from rich.console import RenderableType
from rich.text import Text

from export_service.cli.asking import Every, Watch, moment
from export_service.cli.job_view import as_object
from export_service.cli.terminal import STYLES, Column, Rows, show
from export_service.instants import EVER
from export_service.messages import JobSnapshot, JobStatus
from export_service.pace import ended
from export_service.settings import Settings, load
from export_service.status_groups import GROUPS
from export_service.words import MISSING, number, size, span

Status = Literal["open", "unsuccessful", "PENDING", "RUNNING", "COMPLETED", "COMPLETED_WITH_FAILURES", "FAILED", "CANCELLED"]
_COLUMNS = (
    Column("job"),
    Column("status"),
    Column("files", right=True),
    Column("failed", 2, right=True),
    Column("bytes", 3, right=True),
    Column("moved", 1, right=True),
    Column("user", 4),
    Column("export", 5),
)


def jobs(
    user: Annotated[str | None, typer.Option(help="Of this user.")] = None,
    status: Annotated[
        Status | None,
        typer.Option(case_sensitive=False, help="open: PENDING or RUNNING; unsuccessful: ended otherwise than COMPLETED."),
    ] = None,
    since: Annotated[str | None, typer.Option(help="That moved since then: 90m, 2h, 3d, or 2025-01-15T10:30:00Z.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="So many, those that moved last.")] = 50,
    watch: Watch = False,
    every: Every = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout, for each job.")] = False,
) -> None:
    """List jobs, those that moved last first. From the table's indexes, which may be a moment behind.

    Example: export-service jobs --status unsuccessful --since 1d
    """
    settings, begin = load(), moment("--since", since)
    statuses = tuple(JobStatus) if status is None else GROUPS[status]
    found = _looks(settings, Wanted(statuses, user, begin or EVER, limit), every)
    asyncio.run(show(found, view, _Changes(), watch=watch, as_json=as_json))


class Wanted(NamedTuple):
    statuses: Sequence[JobStatus]
    user: str | None
    since: datetime
    limit: int


async def _looks(settings: Settings, wanted: Wanted, every: float) -> AsyncGenerator[list[JobSnapshot], None]:
    from connectors.dynamodb import opened

    async with opened(settings) as table:
        while True:
            yield await table.newest(wanted.limit, wanted.statuses, user_id=wanted.user, since=wanted.since)
            await asyncio.sleep(every)


class _Changes:
    """Objects of those jobs that have moved since they were given last."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int]] = {}

    def __call__(self, found: Sequence[JobSnapshot]) -> Iterator[dict[str, Any]]:
        for job in found:
            if self._known.get(job.job_id) != (newest := (job.attempt, job.version)):
                self._known[job.job_id] = newest
                yield as_object(job)


def view(found: Sequence[JobSnapshot]) -> RenderableType:
    if not found:
        return "There is no such job."
    now = datetime.now(UTC)
    return Rows(_COLUMNS, [tuple(_row(job, now)) for job in found])


def _row(job: JobSnapshot, now: datetime) -> Iterator[str | Text]:
    yield job.job_id
    yield Text(job.status.value, STYLES[job.status])
    yield f"{number(ended(job))}/{'?' if job.total_tasks is None else number(job.total_tasks)}"
    yield number(job.failed_tasks)
    yield size(job.bytes)
    yield span(max(0.0, (now - job.updated_at).total_seconds()))
    yield job.user_id or MISSING
    yield job.export_id or MISSING
