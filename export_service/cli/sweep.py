"""`export-service sweep`: remove what killed workers left at a destination."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from export_service.cli.asking import moment
from export_service.failures import Unavailable
from export_service.settings import load

if TYPE_CHECKING:
    from connectors.sweep import Left


def sweep(
    place: Annotated[str, typer.Argument(help="s3://bucket/prefix/, file:///folder/ or a folder: all that is below it.")],
    older_than: Annotated[
        str | None,
        typer.Option(help="Only what nobody has written to for so long: 36h, 2d, 90m. EXPORT_SWEEP_AFTER_HOURS if not given."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and leave it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")] = False,
) -> None:
    """Abort multipart uploads that killed workers left in S3, and remove the part files that they left in folders.

    Uploads of others than this service are left alone, and so is what has been written to lately. Needs s3:ListBucketMultipartUploads,
    s3:ListMultipartUploadParts and s3:AbortMultipartUpload.

    Example: export-service sweep s3://exports/ --older-than 24h --dry-run
    """
    settings = load()
    before = moment("--older-than", older_than) or datetime.now(UTC) - timedelta(hours=settings.sweep.after_hours)
    count, size = asyncio.run(_sweep(place, before, dry=dry_run, as_json=as_json))
    if not as_json:
        done = "would go" if dry_run else "removed"
        sys.stdout.write(f"{count} {done}, {size / 1e6:,.1f} MB\n")


async def _sweep(place: str, before: datetime, *, dry: bool, as_json: bool) -> tuple[int, int]:
    count = size = 0
    async for left in _lefts(place, before, remove=not dry):
        count, size = count + 1, size + left.size
        if as_json:
            fields = {"uri": left.uri, "bytes": left.size, "since": left.since.isoformat(), "removed": not dry}
            sys.stdout.write(json.dumps(fields) + "\n")
        else:
            sys.stdout.write(f"{left.since:%Y-%m-%d %H:%M}  {left.size:>14,}  {left.uri}\n")
    return count, size


async def _lefts(place: str, before: datetime, *, remove: bool) -> "AsyncIterator[Left]":
    from connectors.aws import Clients
    from connectors.local_store import folder_of
    from connectors.s3_client import Object
    from connectors.sweep import sweep_folder, sweep_uploads

    scheme, colon, _ = place.partition("://")
    if scheme == "s3" and colon:
        if not (there := Object.at(place)).bucket:
            raise typer.BadParameter(f"{place!r} names no bucket; write s3://bucket/prefix/", param_hint="PLACE")
        async with Clients(load().aws).open("s3") as client:
            async for left in sweep_uploads(client, there, before, remove=remove):
                yield left
    elif colon and scheme != "file":
        raise typer.BadParameter(f"{place!r} is neither s3://bucket/prefix/ nor a folder", param_hint="PLACE")
    else:
        folder = folder_of(place) if place.startswith("file:") else Path(place)
        if not folder.is_dir():
            raise typer.BadParameter(f"there is no folder {folder}", param_hint="PLACE")
        try:
            for left in sweep_folder(folder, before, remove=remove):
                yield left
        except OSError as error:
            raise Unavailable(str(error.filename), "your rights to it", error.strerror or type(error).__name__) from None
