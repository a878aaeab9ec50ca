"""`export-service redrive`: run what has failed of a job again, without anybody waiting for it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from export_service import manifests, names
from export_service.cli.asking import DryRun, Json, Why, Yes, confirm, moment, plan, show
from export_service.failures import ExportError, PlanError
from export_service.manifests import Entry
from export_service.redrive import Changes, FailedJob
from export_service.settings import Settings, load


def redrive(
    job_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[JOB]...", help="Or those of the options.", show_default=False)
    ] = None,
    failed_since: Annotated[
        str | None, typer.Option(help="Jobs that failed since then: 90m, 2h, 3d, or 2025-01-15T10:30:00Z.")
    ] = None,
    error: Annotated[str | None, typer.Option(help="Jobs with a failure of this class, such as HttpNotFound.")] = None,
    host: Annotated[str | None, typer.Option(help="Jobs with a failure at this host, or host:port.")] = None,
    user: Annotated[str | None, typer.Option(help="Jobs of this user that failed.")] = None,
    manifest: Annotated[
        str | None,
        typer.Option(help="New signed URLs of one JOB: its list again, a file here or a URL."),
    ] = None,
    tolerated_failures: Annotated[int | None, typer.Option(min=0, help="Of the new attempt; else as before.")] = None,
    deadline: Annotated[int | None, typer.Option(min=1, help="Seconds that the new attempt may take; else as before.")] = None,
    why: Why = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Run jobs that have failed again: a new attempt that keeps all that has succeeded and tries the rest. Nobody is called back.

    Example: export-service redrive --failed-since 2h --error HttpUnavailable --dry-run
    """
    selected = failed_since is not None or error is not None or host is not None or user is not None
    if bool(job_ids) == selected:
        raise typer.BadParameter("give JOBs, or --failed-since, --error, --host or --user")
    if manifest is not None and len(job_ids or ()) != 1:
        raise typer.BadParameter("--manifest is the list of one job: give one JOB", param_hint="--manifest")
    since, settings = moment("--failed-since", failed_since), load()
    from streams.failed_jobs import load as load_jobs
    from streams.failed_jobs import run_again, select

    wanted = list(dict.fromkeys(job_ids)) if job_ids else asyncio.run(select(settings, since, user))
    jobs = asyncio.run(load_jobs(settings, wanted)) if wanted else []
    if job_ids and (refused := [text for job in jobs if (text := job.refusal())]):
        raise ExportError(f"nothing was changed: {refused[0]}")
    # One that was selected may have been asked for again meanwhile.
    jobs = [job for job in jobs if job.refusal() is None and job.has(error, host)]
    if not jobs:
        raise ExportError("no job has failed like that and can run again")
    changes = replace(_files(manifest), tolerated_failures=tolerated_failures, deadline_seconds=deadline)
    _check(settings, jobs, changes)
    plan("".join(job.as_text() for job in jobs), as_json=as_json)
    begun: list[tuple[str, int]] = []
    if not dry_run:
        confirm(f"Run {len(jobs)} of them again?" if len(jobs) > 1 else "Run it again?", yes=yes)
        begun = asyncio.run(run_again(settings, jobs, changes, why))
    text = "".join(f"{job_id} runs as attempt {attempt}\n" for job_id, attempt in begun) or "Nothing was changed (--dry-run).\n"
    result = {
        "planned": [job.as_object() for job in jobs],
        "redriven": [{"jobId": job, "attempt": attempt} for job, attempt in begun],
    }
    show(result, lambda: text, as_json=as_json)


def _check(settings: Settings, jobs: Sequence[FailedJob], changes: Changes) -> None:
    from streams.failed_jobs import checked

    if changes.files is not None:
        asyncio.run(checked(settings, jobs[0], changes))


def _files(manifest: str | None) -> Changes:
    """Raises ExportError."""
    if manifest is None:
        return Changes()
    if "://" in manifest:
        try:
            return Changes(manifest=names.check_url(manifest))
        except ValueError as error:
            raise ExportError(f"--manifest: {error}") from None
    path = Path(manifest)
    try:
        return Changes(files=asyncio.run(_entries(path)))
    except OSError as error:
        raise ExportError(f"--manifest {path}: {error.strerror}; give a file, or a URL") from None
    except PlanError as error:
        raise ExportError(f"--manifest {path}, {error}") from None


async def _entries(path: Path) -> list[Entry]:
    async def content() -> AsyncIterator[bytes]:
        yield path.read_bytes()

    form = manifests.read(content(), "csv" if path.suffix == ".csv" else "jsonl")
    return [entry async for entries in form for _, entry in entries]
