"""A large file into S3: several parts of it at a time, each read by a request of its own and sent on when it is here.

All parts are of the version that the first answer named. A part whose reading or sending breaks off is had again alone. The hash follows
the parts in their order; a part stays in memory until it is sent and hashed, and how many there are is the share's business.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from typing import cast

from connectors.large_files import LARGE
from connectors.s3_store import S3Prefix
from connectors.s3_uploads import Upload, again, part_size
from export_service.failures import RangeRefused, TransferError
from export_service.memory_share import MemoryShare
from export_service.messages import Task
from export_service.ports import Destination, Download, LargeDownload

_AT_A_TIME = 4
"""Parts of one file."""
_KEPT = 1000


class LargeParts:
    """The LargeTransfers port, into S3. `connections`: of one file, at most."""

    def __init__(self, connections: int) -> None:
        self._at_a_time = min(connections, _AT_A_TIME)
        self._only_whole: dict[str, None] = {}
        """URLs whose source did not send parts as it should."""

    def takes(self, download: Download, place: Destination, url: str) -> bool:
        large = isinstance(place, S3Prefix) and (download.size or 0) >= LARGE and self._at_a_time > 1
        return large and url not in self._only_whole and getattr(download, "validator", None) is not None

    async def copy(
        self,
        download: Download,
        place: Destination,
        task: Task,
        url: str,
        *,
        moved: Callable[[], None],
        check: Callable[[str], None],
    ) -> str:
        source, prefix = cast("LargeDownload", download), cast("S3Prefix", place)
        upload = Upload(prefix.client, prefix.object(task.name))
        copy = _Copy(source, upload, prefix.memory, task.url, moved)
        # Each part is asked for by itself: what this GET would still bring, nobody reads.
        source.close()
        try:
            await upload.begin()
            async with asyncio.TaskGroup() as group:
                for _ in range(self._at_a_time):
                    group.create_task(copy.some())
            check(copy.sha256)
            await upload.complete()
        except BaseException as error:
            await asyncio.shield(upload.abort())
            first = error
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            if isinstance(first, RangeRefused):
                self._remember(url)
            raise first from None
        return copy.sha256

    def forget(self, place: Destination, task: Task, url: str) -> None:  # noqa: ARG002
        self._only_whole.pop(url, None)

    def _remember(self, url: str) -> None:
        while len(self._only_whole) >= _KEPT:
            del self._only_whole[next(iter(self._only_whole))]
        self._only_whole[url] = None


class _Copy:
    """One try."""

    def __init__(self, source: LargeDownload, upload: Upload, memory: MemoryShare, shown: str, moved: Callable[[], None]) -> None:
        self._source, self._upload, self._memory, self._shown, self._moved = source, upload, memory, shown, moved
        size = source.size or 0
        self._validator = source.validator or ""
        self._part = part_size(size)
        self._spans: Iterator[tuple[int, int]] = iter(
            [(first, min(first + self._part, size)) for first in range(0, size, self._part)]
        )
        self._digest, self._hashed, self._grown = hashlib.sha256(), 0, asyncio.Condition()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    async def some(self) -> None:
        """One part after the other, while there are any."""
        while True:
            # Memory first: who has a part then has memory for it, and the part that the hash waits for is never without.
            taken = await self._memory.take(self._part)
            try:
                if (span := next(self._spans, None)) is None:
                    return
                await self._one(*span)
            finally:
                self._memory.give_back(taken)

    async def _one(self, first: int, stop: int) -> None:
        body = await again(lambda: self._read(first, stop))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._upload.send(first // self._part + 1, body))
            group.create_task(self._hash(first, body))
        self._moved()

    async def _read(self, first: int, stop: int) -> bytes:
        async with self._source.span(first, stop, self._validator) as spans:
            body = b"".join([block async for blocks in spans for block in blocks])
        if len(body) < stop - first:
            raise TransferError("IncompleteRead", f"{self._shown} sent less than it announced", retryable=True)
        if len(body) > stop - first:
            raise RangeRefused(f"{self._shown} sent more than the part that was asked for")
        return body

    async def _hash(self, first: int, body: bytes) -> None:
        async with self._grown:
            await self._grown.wait_for(lambda: self._hashed == first)
        await asyncio.get_running_loop().run_in_executor(None, self._digest.update, body)
        async with self._grown:
            self._hashed += len(body)
            self._grown.notify_all()
