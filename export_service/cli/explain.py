"""`export-service explain`: one job at any instant, rebuilt from the topics."""

import asyncio
import json
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

import typer

from export_service.cli.asking import moment
from export_service.cli.bars import Progress, bar
from export_service.failures import ExportError, Unavailable
from export_service.history.explanation import Explanation, explain, until
from export_service.history.moves import Counted, grouped
from export_service.messages import JobSnapshot, iso_millis
from export_service.settings import Settings, load

_WIDTH = 80
_LINES = 12
"""Of counts, unless --records asks for all."""


def explain_job(
    job_id: Annotated[str, typer.Argument(metavar="JOB")],
    at: Annotated[str | None, typer.Option(help="As it was then: 2025-01-15T10:30:00Z, or 15m for so long ago.")] = None,
    records: Annotated[bool, typer.Option("--records", help="Every record that moved a count, not groups of them.")] = False,
    table: Annotated[bool, typer.Option(help="Look up in DynamoDB where the job's records are; else more is read.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Say where a job stands and how it came there, from its records on the topics alone; running workers are not touched.

    Exit code 1 if no record of the job is found.

    Example: export-service explain 550e8400-e29b-41d4-a716-446655440000 --at 15m
    """
    when = moment("--at", at) or datetime.now(UTC)
    with bar(quiet=as_json) as progress:
        found = asyncio.run(explained(load(), job_id, when, now=at is None, table=table, progress=progress))
    sys.stdout.write(json.dumps(found.as_json(), indent=2) + "\n" if as_json else as_text(found, every_record=records))


async def explained(
    settings: Settings, job_id: str, at: datetime, *, now: bool, table: bool, progress: Progress, known: JobSnapshot | None = None
) -> Explanation:
    """`known`: the job's snapshot, so that it need not be looked up. Raises ExportError and those below it."""
    from agents.refold import Refold
    from streams.job_records import read_job
    from streams.retention import kept_for
    from streams.topics import topics

    snapshot = known or (await snapshot_of(settings, job_id) if table else None)
    job = await read_job(settings, job_id, snapshot, more=("tasks?",) if now else ("tasks",), progress=progress)
    then = job if now else until(job, at)
    refold = Refold(topics(settings))
    moves = await refold.all(then.of("results"))
    found = explain(then, moves, lambda run, number: refold.shard(job_id, run, number), at, now=now)
    return replace(found, kept=await kept_for(settings, "results"))


async def snapshot_of(settings: Settings, job_id: str) -> JobSnapshot | None:
    """The job's item, which says where to look. None where there is none, or no table."""
    from connectors.dynamodb import opened

    try:
        async with opened(settings) as table:
            return await table.get(job_id)
    except Unavailable as error:
        raise ExportError(f"{error}; or leave the table out, with --no-table") from None


def as_text(found: Explanation, *, every_record: bool = False) -> str:
    """At most 80 columns, but for single words that are longer."""
    lines: list[str] = []
    for title, part in (
        ("", _state(found)),
        ("Timeline (UTC)", _timeline(found)),
        ("What moved the counts", _counts(found, every_record=every_record)),
        ("Time per stage", _stages(found)),
        ("Missing", _missing(found)),
        ("Failed", _failed(found)),
        ("Read", _readings(found)),
        ("Next", iter([found.next[0], f"  {found.next[1]}"])),
    ):
        shown = [line for each in part for line in _wrapped(each)]
        if shown:
            lines += ([""] if lines else []) + ([title] if title else []) + [f"  {line}" if title else line for line in shown]
    return "\n".join(lines) + "\n"


def _wrapped(line: str) -> list[str]:
    indent = len(line) - len(line.lstrip()) + 4
    return textwrap.wrap(line, _WIDTH - 2, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False) or [""]


def _state(found: Explanation) -> Iterator[str]:
    state = found.state
    yield f"{found.job.job_id}  {state.status if state else 'accepted, no event yet'}"
    yield f"at {iso_millis(found.at)}"
    if state is None:
        return
    if state.job:
        yield f"export {state.job.export_id} of {state.job.user_id}"
    token = "with a task token" if state.job and state.job.has_task_token else "no task token: nobody waits"
    yield f"attempt {state.attempt}, run {state.run}, list of attempt {state.plan}; {token}"
    total = "? files, the list is not read to its end" if state.total is None else f"{state.total:,} files"
    yield f"{state.succeeded:,} succeeded, {state.failed:,} failed, {state.cancelled:,} cancelled of {total}; {state.bytes:,} bytes"
    if state.error:
        yield f"{state.error}: {state.cause}"
    if found.job.cut:
        yield f"Not whole: {found.job.cut}. What is said here is of the rest."


def _timeline(found: Explanation) -> Iterator[str]:
    day = None
    for each in found.timeline:
        if each.at.date() != day:
            day = each.at.date()
            yield str(day)
        yield f"  {each.at:%H:%M:%S}.{each.at.microsecond // 1000:03}  {each.what}  [{each.place}]"


def _counts(found: Explanation, *, every_record: bool) -> Iterator[str]:
    shown = found.counts if every_record else grouped(found.counts, _LINES)
    if shown:
        yield f"{'record':<24} {'number':>7} {'succeeded':>10} {'failed':>8} {'cancelled':>10} {'bytes':>12}"
    for each in shown:
        yield _count(each)
    for why, number in found.ignored.items():
        yield f"{number:,} more moved nothing: {why}"


def _count(each: Counted) -> str:
    sizes = f"{each.succeeded:>+10,} {each.failed:>+8,} {each.cancelled:>+10,} {each.bytes:>+12,}"
    return f"{each.place:<24} {each.records:>7,} {sizes}"


def _stages(found: Explanation) -> Iterator[str]:
    for stage in found.stages:
        open_ = "" if stage.end else "  so far"
        yield f"{stage.name:<28} {stage.millis(found.at) / 1000:>10,.3f} s{open_}"


def _missing(found: Explanation) -> Iterator[str]:
    for gap in found.gaps:
        yield f"{gap.number:,} {gap.kind}: tasks {gap.tasks}"
        yield f"  {gap.why}"


def _failed(found: Explanation) -> Iterator[str]:
    for each in found.failed:
        yield f"{each.number:,} {each.error}; {each.first} [{each.place}]"


def _readings(found: Explanation) -> Iterator[str]:
    for each in (each for each in found.job.readings if each.total):
        share = f" ({each.records / each.total:.1%})" if each.total else ""
        yield f"{each.topic}: {each.records:,} of {each.total:,} records{share}, {each.bytes:,} bytes; {each.why}"
    if found.kept_until:
        yield f"can be explained, exported and replayed until {iso_millis(found.kept_until)}, when retention may begin to remove it"
