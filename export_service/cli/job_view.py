"""One job as `watch` shows it: a view, a line, an object."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from export_service.cli.terminal import STYLES
from export_service.history.explanation import Failed
from export_service.messages import JobSnapshot, iso_millis
from export_service.pace import ended
from export_service.words import MISSING, number, printable, size, span

_KINDS = 8
"""Of failures, in a view."""
_STILL_SECONDS = 10.0


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
