"""`export-service submit`, `status` and `cancel`: one job, from the outside."""

import asyncio
import json
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from export_service.cli.asking import Json
from export_service.cli.job_view import as_object
from export_service.cli.watch import run, unknown
from export_service.failures import SettingsError
from export_service.messages import JobCancelled, JobSnapshot
from export_service.requests import Policy, parse
from export_service.settings import Settings, load


def submit(
    url: Annotated[list[str] | None, typer.Option(help="A file to export; may be repeated.")] = None,
    manifest: Annotated[str | None, typer.Option(help="URL of a manifest (.jsonl or .csv).")] = None,
    prefix: Annotated[str | None, typer.Option(help="s3://bucket/prefix/ to export.")] = None,
    body: Annotated[Path | None, typer.Option(help="File with a whole SQS message; the other options are left out.")] = None,
    destination: Annotated[str | None, typer.Option(help="Folder or s3:// prefix, if not the default.")] = None,
    export_id: Annotated[str, typer.Option(help="What the caller calls this export.")] = "cli",
    user_id: Annotated[str, typer.Option(help="On whose behalf.")] = "cli",
    as_json: Json = False,
) -> None:
    """Send an export request to the queue (without a task token: nobody waits for it). Prints the job's id.

    Example: export-service submit --url https://example.com/a.csv --url https://example.com/b.csv
    """
    settings = load()
    if settings.queue.url is None:
        raise SettingsError("EXPORT_QUEUE_URL is not set: where should the request go?")
    message: dict[str, Any] = {"jobId": str(uuid.uuid4()), "exportId": export_id, "userId": user_id}
    if url:
        message["files"] = [{"url": each} for each in url]
    if manifest:
        message["manifest"] = {"url": manifest, "format": "csv" if manifest.endswith(".csv") else "jsonl"}
    message |= {name: value for name, value in (("prefix", prefix), ("destination", destination)) if value}
    text = body.read_text() if body else json.dumps(message)
    # The same check as the connector's, so that a mistake shows here and not in the dead letters.
    parsed = parse(text, Policy.of(settings))
    asyncio.run(_send(settings.queue.url, text))
    sys.stdout.write(json.dumps({"jobId": parsed.job_id}) + "\n" if as_json else parsed.job_id + "\n")


def status(
    job_id: str,
    missing: Annotated[
        bool, typer.Option("--missing", help="Also which tasks have no outcome, and what waits; reads Kafka.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Until it ends, as the command `watch` does.")] = False,
    as_json: Json = False,
) -> None:
    """Show where a job stands. Exit code 1 if it is not known.

    Example: export-service status 550e8400-e29b-41d4-a716-446655440000 --missing
    """
    if watch:
        if missing:
            raise typer.BadParameter("--watch shows no missing tasks; leave one of the two out", param_hint="--missing")
        return run(load(), job_id, 0.0, 1.0, as_json=as_json)
    snapshot = asyncio.run(known_snapshot(job_id))
    fields = as_object(snapshot)
    if missing and not snapshot.status.terminal:
        fields |= asyncio.run(_explain(job_id))
    if as_json:
        sys.stdout.write(json.dumps(fields) + "\n")
        return None
    for name, value in fields.items():
        sys.stdout.write(f"{name:<15} {value}\n")
    return None


def cancel(
    job_id: str,
    cause: Annotated[str, typer.Option(help="Why; the waiting state and the job's snapshot say so.")] = "cancelled by an operator",
    as_json: Json = False,
) -> None:
    """End a job now: nothing more is downloaded, what is there stays, and the waiting state is told ExportCancelled.

    A job that has ended stays as it is. Exit code 1 if the job is not known.

    Example: export-service cancel 550e8400-e29b-41d4-a716-446655440000 --cause "wrong customer"
    """
    snapshot = asyncio.run(known_snapshot(job_id))
    asked = not snapshot.status.terminal
    if asked:
        asyncio.run(ask_for_end(load(), job_id, cause))
    if as_json:
        sys.stdout.write(json.dumps({"jobId": job_id, "asked": asked, "status": snapshot.status.value}) + "\n")
    elif asked:
        sys.stdout.write(f"Asked for the end of {job_id}; see: export-service status {job_id}\n")
    else:
        sys.stdout.write(f"{job_id} had ended already: {snapshot.status.value}\n")


async def _explain(job_id: str) -> Mapping[str, Any]:
    from streams.stuck_jobs import explain
    from streams.topics import topics

    settings = load()
    return (await explain(settings, topics(settings), [job_id]))[job_id]


async def ask_for_end(settings: Settings, job_id: str, cause: str) -> None:
    """The fold decides what it means. Raises Unavailable."""
    from streams.publisher import KafkaPublisher
    from streams.topics import topics

    event = JobCancelled(job_id=job_id, cause=cause)
    async with KafkaPublisher(settings) as publisher:
        await (await publisher.send(topics(settings).results.name, job_id.encode(), event.to_bytes()))


async def _send(queue_url: str, body: str) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    from connectors.aws import Clients, unavailable

    async with Clients(load().aws).open("sqs") as client:
        try:
            await client.send_message(QueueUrl=queue_url, MessageBody=body)
        except (BotoCoreError, ClientError) as error:
            raise unavailable("sqs", error, "EXPORT_QUEUE_URL") from None


async def known_snapshot(job_id: str) -> JobSnapshot:
    """Raises ExportError for a job that is not known."""
    from connectors.dynamodb import opened

    async with opened(load()) as table:
        found = await table.get(job_id)
    if found is None:
        raise unknown(job_id)
    return found
