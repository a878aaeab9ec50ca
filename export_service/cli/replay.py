"""`export-service replay`: recorded events again, to compare, to repair, or to answer."""

import asyncio
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from export_service.cli.asking import moment
from export_service.cli.bars import Progress, bar
from export_service.cli.replay_file import replay_file
from export_service.cli.replay_text import actions_text, differences_text
from export_service.failures import ExportError
from export_service.history.actions import Action
from export_service.history.compare import ends_differ
from export_service.history.selection import Selection, parse_offsets
from export_service.messages import JobStatus, iso_millis
from export_service.settings import Settings, load


class Mode(StrEnum):
    SHADOW = "shadow"
    REBUILD = "rebuild"
    RE_EMIT = "re-emit"


def replay(
    jobs: Annotated[list[str] | None, typer.Argument(metavar="[JOB]...", show_default=False)] = None,
    mode: Annotated[
        Mode,
        typer.Option(
            help="shadow: fold with this version's code, here, and compare; rebuild: put table entries and items right; "
            "re-emit: completions again of jobs whose token was never answered."
        ),
    ] = Mode.SHADOW,
    all_jobs: Annotated[bool, typer.Option("--all", help="Every job on results.")] = False,
    user: Annotated[str | None, typer.Option(help="Jobs of this user.")] = None,
    since: Annotated[str | None, typer.Option(help="Jobs with an event from then on: 2025-01-15T10:30:00Z, or 2h.")] = None,
    until: Annotated[str | None, typer.Option(help="Jobs with an event until then.")] = None,
    offsets: Annotated[list[str] | None, typer.Option(help="Jobs with an event there: PARTITION:FIRST-LAST of results.")] = None,
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs that are this, as their events say.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and change nothing.")] = False,
    rate: Annotated[float, typer.Option(min=0.1, max=1000, help="Jobs a second.")] = 20,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until the tally has put back what was sent.")] = 15,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with a replay that broke off.")] = None,
    file: Annotated[Path | None, typer.Option(help="Fold a file that `export` wrote, without a broker.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Fold jobs again from the topic results. Nothing is downloaded, no second answer is accepted, no newer snapshot is overwritten.

    Exit code 1 if something differs (shadow, --file), or could not be done.

    Example: export-service replay --since 2h --mode rebuild --dry-run
    """
    if file is not None:
        return replay_file(file, as_json=as_json)
    selection = _selection(jobs or (), user, since, until, offsets or (), status)
    if (selection == Selection()) is not (all_jobs or resume is not None):
        raise typer.BadParameter("say which jobs: JOB..., --user, --since, --until, --offsets, --status; or --all; or --resume RUN")
    settings = load()
    with bar(quiet=as_json) as progress:
        if mode is Mode.SHADOW and resume is None:
            return asyncio.run(_shadow(settings, selection, progress, as_json=as_json))
        return asyncio.run(_send(settings, selection, mode, progress, dry_run, rate, wait, resume, as_json=as_json))


def _selection(
    jobs: Iterable[str], user: str | None, since: str | None, until: str | None, offsets: Iterable[str], status: JobStatus | None
) -> Selection:
    try:
        ranges = tuple(parse_offsets(text) for text in offsets)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--offsets") from None
    if len({partition for partition, _, _ in ranges}) < len(ranges):
        raise typer.BadParameter("has a partition twice; give one range of each", param_hint="--offsets")
    return Selection(tuple(dict.fromkeys(jobs)), user, moment("--since", since), moment("--until", until), ranges, status)


async def _shadow(settings: Settings, selection: Selection, progress: Progress, *, as_json: bool) -> None:
    """There is no producer, and no client of AWS, in this process: nothing can be sent."""
    from streams.history_scan import scan
    from streams.prepared_replay import chosen_of
    from streams.topic_ranges import TopicRanges

    async with TopicRanges(settings) as ranges:
        found = await scan(settings, ranges, selection, {}, progress)
    chosen = chosen_of(found, selection)
    moving = {job_id for job_id in chosen if found.moving(job_id)}
    compared = set(chosen) - moving - found.cut.keys()
    recorded = {key: each for key, each in found.ends.items() if key[0] in compared}
    folded = {key: each for key, each in found.refold.completions.items() if key[0] in compared}
    differences = ends_differ(recorded, folded, frozenset(found.rebuilt))
    counts = {"jobs": len(compared), "ends": len(recorded), "moving": len(moving), "cut": len(found.cut)}
    if as_json:
        said = {**counts, "records": found.records, "bytes": found.bytes, "differences": [each._asdict() for each in differences]}
        sys.stdout.write(json.dumps(said, indent=2) + "\n")
    else:
        sys.stdout.write(
            f"Jobs folded again: {len(compared):,}, which ended {len(recorded):,} times; {found.records:,} records were read\n"
            f"Jobs that differ: {len({each.job for each in differences}):,}\n" + differences_text(differences)
        )
        if moving or found.cut:
            sys.stdout.write(f"Not compared: {len(moving):,} still being counted, {len(found.cut):,} cut by retention\n")
    if differences:
        raise typer.Exit(1)


async def _send(
    settings: Settings,
    selection: Selection,
    mode: Mode,
    progress: Progress,
    dry_run: bool,
    rate: float,
    wait: float,
    resume: str | None,
    *,
    as_json: bool,
) -> None:
    from streams.prepared_replay import prepared

    # That of a run that goes on is known to the topic.
    async with prepared(settings, selection, "re-emit" if mode is Mode.RE_EMIT else "rebuild", resume, progress) as ready:
        mode = Mode(ready.mode)
        if not as_json:
            sys.stdout.write(actions_text(mode, ready.planned, resumed=len(ready.done)))
            if ready.oldest and ready.kept:
                sys.stdout.write(f"Retention may begin to remove their events at {iso_millis(ready.oldest + ready.kept)}\n")
        if dry_run or not ready.todo:
            return _end(ready.run, mode, ready.planned, [], True, dry_run=dry_run, as_json=as_json)
        made: list[Mapping[str, Any]] = []
        try:
            async for each in ready.send(rate, wait):
                made.append(each.as_json())
                progress("jobs", len(made), len(ready.todo))
        except (ExportError, asyncio.CancelledError):
            sys.stderr.write(
                f"Broke off after {len(made)} of {len(ready.todo)} jobs; go on: export-service replay --resume {ready.run}\n"
            )
            raise
        return _end(ready.run, mode, ready.planned, made, ready.taken, dry_run=False, as_json=as_json)


def _end(
    run: str, mode: Mode, planned: Sequence[Action], made: list[Mapping[str, Any]], taken: bool, *, dry_run: bool, as_json: bool
) -> None:
    if as_json:
        said = {"run": run if made else None, "mode": mode.value, "dryRun": dry_run, "plan": [each.as_json() for each in planned]}
        sys.stdout.write(json.dumps(said | {"done": made, "taken": taken}, indent=2) + "\n")
    elif dry_run:
        sys.stdout.write("Nothing was changed: --dry-run.\n")
    elif made:
        sent = [each for each in made if "place" in each]
        sys.stdout.write(f"Replay {run}: {len(sent):,} sent, {len(made) - len(sent):,} passed over\n")
        if not taken:
            sys.stdout.write("The tally has not taken them yet: it does so when a worker with that role runs.\n")
