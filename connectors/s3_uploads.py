"""A multipart upload: each part with a checksum that S3 looks at, tried again by itself, and marked so that a sweep knows it as ours.

The mark is a part of a few bytes with the last number there may be. The list of an upload's parts shows its ETag; what is not named
when the upload is completed is no part of the object, and S3 drops it.
"""

import asyncio
import base64
import hashlib
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from connectors.s3_client import Answer, Object, S3Client
from export_service.backoff import pauses
from export_service.failures import RangeRefused, TransferError

MIB = 1024 * 1024
PART = 8 * MIB
"""Bytes of a part, where 10,000 of them are enough."""
MARK = b"upload of export-service; not a part of the object\n"
MARK_NUMBER = 10_000
"""The greatest that S3 takes."""
MOST_PARTS = MARK_NUMBER - 1
_TRIES = 3
_IN_LOOP = 256 * 1024
"""Bytes that are hashed sooner than a thread is asked to."""
_NOT_TAKEN = ("NotImplemented", "InvalidArgument", "InvalidRequest", "InvalidDigest", "MissingContentMD5")
T = TypeVar("T")


def part_size(size: int | None) -> int:
    """For an object of so many bytes; of one whose size is not known the first parts."""
    return max(PART, -(-(size or 0) // (MOST_PARTS * MIB)) * MIB)


def base64_of(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


class Upload:
    """One of `what`. A part's checksum is its CRC32; where the store does not say that it has seen that, its MD5, which all know."""

    def __init__(self, client: S3Client, what: Object) -> None:
        self._client, self._what = client, what
        self._id: str | None = None
        self._begun = asyncio.Lock()
        self._parts: dict[int, dict[str, str]] = {}

    async def begin(self, headers: Mapping[str, str] | None = None) -> None:
        """Once, however often it is called. `headers`: of the object."""
        async with self._begun:
            if self._id is None:
                self._id = await again(lambda: self._create(headers or {}))
                await self.send(MARK_NUMBER, MARK)
                del self._parts[MARK_NUMBER]

    async def send(self, number: int, body: bytes) -> None:
        """A part; numbers begin with 1."""
        if len(body) < _IN_LOOP:
            crc = zlib.crc32(body)
        else:
            crc = await asyncio.get_running_loop().run_in_executor(None, zlib.crc32, body)
        checksum = base64_of(crc.to_bytes(4))
        if self._what.bucket not in self._client.plain:
            asks = {"x-amz-checksum-crc32": checksum, "x-amz-sdk-checksum-algorithm": "CRC32"}
            answer = await checked(self._client, self._what, lambda more: self._part(number, body, more), asks)
            if answer.headers.get("x-amz-checksum-crc32") == checksum:
                self._parts[number] = {"ETag": answer.headers["etag"], "ChecksumCRC32": checksum}
                return
            self._client.plain.add(self._what.bucket)
        md5 = await asyncio.get_running_loop().run_in_executor(None, hashlib.md5, body)
        answer = await self._part(number, body, {"content-md5": base64_of(md5.digest())})
        self._parts[number] = {"ETag": answer.headers["etag"]}

    async def copy(self, number: int, source: Object, first: int, stop: int, etag: str) -> None:
        """A part that is in S3 already: bytes `first` to before `stop` of the version with this ETag."""
        headers = {
            "x-amz-copy-source": source.copy_source,
            "x-amz-copy-source-range": f"bytes={first}-{stop - 1}",
            "x-amz-copy-source-if-match": etag,
        }
        answer = await again(lambda: self._client.upload_part_copy(self._what, self.id, number, headers))
        self._parts[number] = {name: answer.fields[name] for name in ("ETag", "ChecksumCRC32") if name in answer.fields}

    async def complete(self) -> None:
        """The object has its name now. Raises TransferError, also if it is not made of these parts."""
        parts = [{"PartNumber": str(number), **part} for number, part in sorted(self._parts.items())]
        # Of all or of none: S3 refuses a mixture.
        if not all("ChecksumCRC32" in part for part in parts):
            parts = [{"PartNumber": part["PartNumber"], "ETag": part["ETag"]} for part in parts]
        answer = await self._client.complete_multipart_upload(self._what, self.id, parts)
        self._id = None
        if not _made_of(answer.fields, parts):
            raise TransferError("UploadDamaged", f"{self._what.url} is not made of the parts that were sent", retryable=True)

    async def abort(self) -> None:
        """Parts are billed until then. Nothing happens if it was completed, or never begun."""
        if self._id is not None:
            with suppress(TransferError):
                await again(lambda: self._client.abort_multipart_upload(self._what, self.id))

    @property
    def id(self) -> str:
        assert self._id is not None
        return self._id

    async def _create(self, headers: Mapping[str, str]) -> str:
        def create(more: Mapping[str, str]) -> Awaitable[str]:
            return self._client.create_multipart_upload(self._what, {**headers, **more})

        return await checked(self._client, self._what, create, {"x-amz-checksum-algorithm": "CRC32"})

    async def _part(self, number: int, body: bytes, headers: Mapping[str, str]) -> Answer:
        return await again(lambda: self._client.upload_part(self._what, self.id, number, body, headers))


async def checked(client: S3Client, what: Object, call: Callable[[Mapping[str, str]], Awaitable[T]], asks: Mapping[str, str]) -> T:
    """Call with headers about checksums, or without if the store does not take any; of the bucket that is remembered then."""
    if what.bucket not in client.plain:
        try:
            return await call(asks)
        except TransferError as error:
            if error.status not in (400, 501) or error.error not in _NOT_TAKEN:
                raise
        answer = await call({})
        client.plain.add(what.bucket)
        return answer
    return await call({})


async def again(call: Callable[[], Awaitable[T]]) -> T:
    """Some tries of a call that may be repeated: one part that fails is not a reason to send all the others again."""
    for tried, pause in enumerate(pauses(0.25, 5), start=1):
        try:
            return await call()
        except TransferError as error:
            if not error.retryable or isinstance(error, RangeRefused) or tried >= _TRIES:
                raise
            await asyncio.sleep(max(pause, min(error.retry_after or 0.0, 30.0)))
    raise AssertionError("pauses never end")


def _made_of(answer: Mapping[str, str], parts: list[dict[str, str]]) -> bool:
    """As far as the store says what it has put together: how many parts, and the checksum of their checksums."""
    of, _, count = answer.get("ETag", "").strip('"').rpartition("-")
    if of and count.isdecimal() and int(count) != len(parts):
        return False
    crc, _, count = answer.get("ChecksumCRC32", "").rpartition("-")
    if not crc or not all("ChecksumCRC32" in part for part in parts):
        return True
    together = zlib.crc32(b"".join(base64.b64decode(part["ChecksumCRC32"]) for part in parts))
    return crc == base64_of(together.to_bytes(4)) and int(count) == len(parts)
