"""What a killed worker leaves at a destination: multipart uploads that nobody completes, and `.part` files that nobody goes on with.

Only what is ours goes: an upload that has our mark (connectors/s3_uploads.py), a file of our kind of name that nobody has locked. And
only what nobody has written to for a while, as it cannot be told from outside whether its worker is alive.
"""

import fcntl
import hashlib
import os
import re
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from connectors.aws import AWS_ERRORS, code_of, unavailable
from connectors.s3_client import Object
from connectors.s3_uploads import MARK, MARK_NUMBER, base64_of

_PART_FILE = re.compile(r"\.[0-9a-f]{16}\.part")
_MARK_ETAG = hashlib.md5(MARK).hexdigest()
_MARK_CRC32 = base64_of(zlib.crc32(MARK).to_bytes(4))


@dataclass(frozen=True)
class Left:
    """Something that nobody goes on with. `size`: bytes of it that are there; `since`: when it was written to last."""

    uri: str
    size: int
    since: datetime


async def sweep_uploads(client: Any, place: Object, before: datetime, *, remove: bool) -> AsyncIterator[Left]:
    """Uploads below `place` that nobody has sent a part to since `before`. `client`: botocore's. Raises Unavailable."""
    try:
        pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=place.bucket, Prefix=place.key)
        async for page in pages:
            for upload in page.get("Uploads", ()):
                if upload["Initiated"] >= before:
                    continue
                what = {"Bucket": place.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                try:
                    left = await _left(client, what, upload["Initiated"])
                    if left is None or left.since >= before:
                        continue
                    if remove:
                        await client.abort_multipart_upload(**what)
                except ClientError as error:
                    if code_of(error) != "NoSuchUpload":
                        raise
                    continue  # somebody was quicker
                yield left
    except AWS_ERRORS as error:
        raise unavailable("s3", error, f"the bucket {place.bucket} and your rights to it") from None


async def _left(client: Any, what: dict[str, str], since: datetime) -> Left | None:
    """None: it is not ours."""
    size, ours = 0, False
    async for page in client.get_paginator("list_parts").paginate(**what):
        for part in page.get("Parts", ()):
            size, since = size + part["Size"], max(since, part["LastModified"])
            seen = part["PartNumber"], part["Size"]
            is_mark = part["ETag"].strip('"') == _MARK_ETAG or part.get("ChecksumCRC32") == _MARK_CRC32
            ours |= seen == (MARK_NUMBER, len(MARK)) and is_mark
    return Left(Object(what["Bucket"], what["Key"]).url, size, since) if ours else None


def sweep_folder(folder: Path, before: datetime, *, remove: bool) -> Iterator[Left]:
    """Part files below a folder that nobody has written to since `before`, and nobody has locked. Raises OSError."""
    for at, _, names in os.walk(folder, onerror=_raise):
        for path in (Path(at) / name for name in filter(_PART_FILE.fullmatch, names)):
            with suppress(FileNotFoundError):  # somebody was quicker
                if not path.is_symlink() and (left := _left_file(path, before, remove=remove)):
                    yield left


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _left_file(path: Path, before: datetime, *, remove: bool) -> Left | None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        about = os.fstat(fd)
        since = datetime.fromtimestamp(about.st_mtime, UTC)
        if since >= before:
            return None
        if remove:
            path.unlink()
        return Left(path.absolute().as_uri(), about.st_size, since)
    except BlockingIOError:
        return None
    finally:
        os.close(fd)
