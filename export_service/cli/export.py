"""`export-service export`: a job's records in a file that `replay --file` folds without a broker."""

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from export_service.cli.bars import Progress, bar
from export_service.cli.explain import snapshot_of
from export_service.failures import ExportError
from export_service.history import file
from export_service.history.records import JobRecords
from export_service.settings import Settings, load

_ALL = ("tasks", "snapshots", "jobs-changelog", "shards-changelog")


def export(
    job_id: Annotated[str, typer.Argument(metavar="JOB")],
    out: Annotated[Path, typer.Option(help="File to write; it must not exist. - is stdout.")],
    table: Annotated[bool, typer.Option(help="Look up in DynamoDB where the job's records are; else more is read.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Write all records of a job to a file, one a line. No secrets are in it: sealed queries are dropped, tokens are on no topic.

    Exit code 1 if the job is not known.

    Example: export-service export 550e8400-e29b-41d4-a716-446655440000 --out history.jsonl
    """
    with bar(quiet=as_json) as progress:
        job = asyncio.run(_read(load(), job_id, table=table, progress=progress))
    lines = file.lines(job, datetime.now(UTC))
    if str(out) == "-":
        sys.stdout.writelines(lines)
        return
    try:
        with out.open("x", encoding="utf-8") as written:
            written.writelines(lines)
    except FileExistsError:
        raise ExportError(f"{out} exists already: name another file") from None
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error.strerror}") from None
    records = sum(map(len, job.records.values()))
    if as_json:
        sys.stdout.write(json.dumps({"jobId": job_id, "out": str(out), "records": records, "cut": job.cut}) + "\n")
        return
    sys.stdout.write(f"{records:,} records in {out}. Fold them: export-service replay --file {out}\n")
    if job.cut:
        sys.stdout.write(f"Not whole: {job.cut}.\n")


async def _read(settings: Settings, job_id: str, *, table: bool, progress: Progress) -> JobRecords:
    from streams.job_records import read_job

    snapshot = await snapshot_of(settings, job_id) if table else None
    job = await read_job(settings, job_id, snapshot, more=_ALL, progress=progress)
    if not (job.of("requests") or job.of("results")):
        raise ExportError(f"job {job_id} is on no topic (EXPORT_TOPICS_PREFIX): it was not accepted, or retention has removed it")
    return job
