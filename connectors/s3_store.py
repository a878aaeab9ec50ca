"""An S3 prefix as destination: one PutObject for small files, a multipart upload for large ones. Either is atomic.

What is in S3 already is copied there (connectors/s3_copies.py); large files from elsewhere come in parts (connectors/s3_parts.py).
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from connectors.s3_client import Object, S3Client
from connectors.s3_copies import S3Copies
from connectors.s3_uploads import MOST_PARTS, Upload, base64_of, checked, part_size
from export_service.failures import TransferError
from export_service.memory_share import MemoryShare
from export_service.ports import Check, Copied, Digest

_AT_A_TIME = 4
"""Parts of one file under way."""
_GROWS = 1000
"""Parts after which they are twice as large, in a file whose size is not known: so there are enough of them for S3's largest object."""


class _S3Sink:
    def __init__(self, client: S3Client, what: Object, size: int | None, memory: MemoryShare, digest: Digest | None) -> None:
        self._client, self._what, self._size, self._memory = client, what, size, memory
        self._digest, self._own = digest, None if digest else hashlib.sha256()
        self._part = part_size(size)
        self._upload: Upload | None = None
        self._waiting: list[bytes] = []
        self._length = self._taken = self._number = 0
        self._sends: set[asyncio.Task[None]] = set()

    async def write(self, chunk: bytes) -> None:
        if self._own:
            self._own.update(chunk)
        while chunk:
            if self._length == self._part:
                await self._send()
            if not self._taken:
                self._taken = await self._memory.take(self._part if self._size is None else min(self._size, self._part))
            mine, chunk = chunk[: self._part - self._length], chunk[self._part - self._length :]
            self._waiting.append(mine)
            self._length += len(mine)

    async def finish(self) -> None:
        if self._upload is None:
            return await self._put(b"".join(self._waiting))
        await self._send()
        await asyncio.gather(*self._sends)
        return await self._upload.complete()

    async def close(self, *, aborted: bool) -> None:
        for send in self._sends:
            send.cancel()
        await asyncio.gather(*self._sends, return_exceptions=True)
        self._memory.give_back(self._taken)
        if aborted and self._upload:
            await self._upload.abort()

    async def _put(self, body: bytes) -> None:
        """Its SHA-256 is signed, so that S3 refuses anything else; and S3 is asked to keep it, for who copies the object some day."""
        digest = (self._digest or self._own or hashlib.sha256()).digest()
        asks = {"x-amz-checksum-sha256": base64_of(digest), "x-amz-sdk-checksum-algorithm": "SHA256"}
        await checked(self._client, self._what, lambda more: self._client.put_object(self._what, body, more, digest.hex()), asks)

    async def _send(self) -> None:
        """What waits is a part; returns when there is room for another one."""
        if self._upload is None:
            self._upload = Upload(self._client, self._what)
            await self._upload.begin()
        while len(self._sends) >= _AT_A_TIME:
            done, self._sends = await asyncio.wait(self._sends, return_when=asyncio.FIRST_COMPLETED)
            for send in done:
                send.result()
        self._number += 1
        if self._number > MOST_PARTS:
            raise TransferError("TooLarge", f"{self._what.url} has more than {MOST_PARTS} parts", retryable=False)
        send = asyncio.create_task(_send_part(self._upload, self._number, self._waiting))
        self._sends.add(send)
        # Not in the task: one that is cancelled before it has begun never gets anywhere.
        send.add_done_callback(partial(_give_back, self._memory, self._taken))
        self._waiting, self._length, self._taken = [], 0, 0
        if self._size is None:
            self._part = part_size(None) << (self._number // _GROWS)


async def _send_part(upload: Upload, number: int, waiting: list[bytes]) -> None:
    body = b"".join(waiting)
    waiting.clear()
    await upload.send(number, body)


def _give_back(memory: MemoryShare, taken: int, _: object) -> None:
    memory.give_back(taken)


class S3Prefix:
    """The Destination port for s3://bucket/prefix/."""

    def __init__(self, client: S3Client, copies: S3Copies, bucket: str, prefix: str, memory: MemoryShare) -> None:
        self.client, self.memory = client, memory
        self._copies, self._bucket, self._prefix = copies, bucket, prefix

    def uri(self, name: str) -> str:
        return self._object(name).url

    def object(self, name: str) -> Object:
        """Raises TransferError."""
        found = self._object(name)
        if len(found.key.encode()) > 1024:
            raise TransferError("DestinationDenied", f"{found.url!r}: S3 keys have at most 1,024 bytes", retryable=False)
        return found

    @asynccontextmanager
    async def create(self, name: str, size: int | None = None, digest: Digest | None = None) -> AsyncIterator[_S3Sink]:
        sink, whole = _S3Sink(self.client, self.object(name), size, self.memory, digest), False
        try:
            yield sink
            await sink.finish()
            whole = True
        finally:
            # Parts are billed until the upload is aborted, also when we are being cancelled.
            await asyncio.shield(sink.close(aborted=not whole))

    def copies(self, url: str) -> bool:
        return url.startswith("s3://") and self._copies.may(Object.at(url).bucket, self._bucket)

    async def copy(self, name: str, url: str, *, hashed: bool, check: Check, moved: Callable[[], None]) -> Copied | None:
        return await self._copies.copy(Object.at(url), self.object(name), hashed=hashed, check=check, moved=moved)

    def _object(self, name: str) -> Object:
        return Object(self._bucket, self._prefix + name)
