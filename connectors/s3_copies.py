"""From S3 to S3: S3 copies, and no byte comes through here. All that is copied is of the version that was looked at first."""

import asyncio
import base64
import time
from collections.abc import Callable, Mapping

from connectors.s3_client import BUSY, Answer, Object, S3Client
from connectors.s3_uploads import MIB, MOST_PARTS, Upload, checked
from export_service.failures import TransferError
from export_service.ports import Check, Copied

WHOLE = 5 * 1024 * MIB
"""Bytes that S3 copies in one call, at most."""
_PART = 512 * MIB
_AT_A_TIME = 8
_REFUSED = ("AccessDenied", "NotImplemented", "MethodNotAllowed", "InvalidRequest", "InvalidArgument", "501", "405")
"""S3 does not copy this: another store, a key that may be used to read only, an object that has to be restored, …"""
_REFUSED_SECONDS = 300.0
"""A pair of buckets whose copies were refused is not asked for again for so long."""
_KEPT = ("cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires")


class S3Copies:
    """`whole`, `part`: bytes of the largest copy in one call, and of a part of a larger one."""

    def __init__(self, client: S3Client, *, whole: int = WHOLE, part: int = _PART) -> None:
        self._client, self._whole, self._part = client, whole, part
        self._refused: dict[tuple[str, str], float] = {}

    def may(self, source: str, target: str) -> bool:
        """Whether copies between these buckets have not been refused lately."""
        return time.monotonic() >= self._refused.get((source, target), 0.0)

    async def copy(self, source: Object, target: Object, *, hashed: bool, check: Check, moved: Callable[[], None]) -> Copied | None:
        """As CopyingDestination has it."""
        try:
            found = await self._client.head_object(source)
        except TransferError as error:
            if error.retryable:
                error.busy = error.error in BUSY
                raise
            return None  # who asks for it is told what is wrong: a HEAD's answer has no words
        length, sha256 = found.headers.get("content-length", ""), _whole_sha256(found.headers)
        if not length.isdecimal() or "etag" not in found.headers or (hashed and sha256 is None):
            return None
        size = int(length)
        check(size, sha256)
        try:
            if size <= self._whole:
                return Copied(size, await self._copy_whole(source, target, found))
            await self._copy_parts(source, target, found, size, moved)
        except TransferError as error:
            if error.error == "PreconditionFailed":
                text = f"{source.url} changed while S3 copied it"
                raise TransferError("SourceChanged", text, retryable=True) from None
            if error.error not in _REFUSED:
                error.busy = error.error in BUSY
                raise
            self._refused[source.bucket, target.bucket] = time.monotonic() + _REFUSED_SECONDS
            return None
        return Copied(size, sha256)

    async def _copy_whole(self, source: Object, target: Object, found: Answer) -> str | None:
        headers = {
            "x-amz-copy-source": source.copy_source,
            "x-amz-copy-source-if-match": found.headers["etag"],
            # Tags are the source bucket's, and to read them needs a right of its own.
            "x-amz-tagging-directive": "REPLACE",
        }
        asks = {"x-amz-checksum-algorithm": "SHA256"}
        answer = await checked(self._client, target, lambda more: self._client.copy_object(target, {**headers, **more}), asks)
        before, after = _whole_sha256(found.headers), _hex(answer.fields.get("ChecksumSHA256", ""))
        if before and after and before != after:
            text = f"{target.url} has SHA-256 {after}, and {source.url} {before}"
            raise TransferError("UploadDamaged", text, retryable=True)
        return after or before

    async def _copy_parts(self, source: Object, target: Object, found: Answer, size: int, moved: Callable[[], None]) -> None:
        part = max(self._part, -(-size // MOST_PARTS))
        numbers, etag = iter(enumerate(range(0, size, part), start=1)), found.headers["etag"]
        upload = Upload(self._client, target)

        async def some() -> None:
            for number, first in numbers:
                await upload.copy(number, source, first, min(first + part, size), etag)
                moved()

        try:
            await upload.begin({name: _text(value) for name, value in found.headers.items() if _is_kept(name)})
            async with asyncio.TaskGroup() as group:
                for _ in range(_AT_A_TIME):
                    group.create_task(some())
            await upload.complete()
        except BaseException as error:
            await asyncio.shield(upload.abort())
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise


def _is_kept(name: str) -> bool:
    return name in _KEPT or name.startswith("x-amz-meta-")


def _text(value: str) -> str:
    """Of a header's bytes, which came as Latin-1: what is signed and sent is UTF-8."""
    return value.encode("latin-1").decode(errors="replace")


def _whole_sha256(headers: Mapping[str, str]) -> str | None:
    """In hexadecimal, if S3 keeps one that is not made of those of parts."""
    return _hex(headers.get("x-amz-checksum-sha256", "")) if headers.get("x-amz-checksum-type") != "COMPOSITE" else None


def _hex(checksum: str) -> str | None:
    return base64.b64decode(checksum).hex() if len(checksum) == 44 else None
