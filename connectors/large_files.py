"""A large file into a folder: through as many connections as make it quicker, from where an earlier try or a worker that died left off.

The GET that told us of the file goes on from its beginning. If it is slow, other connections fetch what comes later, in blocks that are
handed out in order, so that the hash can follow close behind. Their number is doubled while that helps; all together a process has no
more connections than it may have files at a time. All parts are of the version that the first answer named, or there are no parts.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

from connectors.local_store import LocalFolder, LocalPart
from connectors.part_file import PartFile
from export_service.failures import RangeRefused, TransferError
from export_service.messages import Task
from export_service.ports import Destination, Download, LargeDownload
from export_service.settings import Download as Settings
from export_service.spans import Span, Spans

LARGE = 16 * 1024 * 1024
"""Bytes of the smallest file that goes this way."""
BLOCK = 16 * 1024 * 1024
"""Bytes of one request: worth a round trip, and not too much for who has to fetch them again."""
_BEHIND = 4 * 1024 * 1024
"""Bytes that are hashed later, as they were not next when they came, wait to be this many: each time costs a thread's attention."""
_HASH = 64 * 1024 * 1024
"""Bytes hashed without a look at whether to stop."""
_LOOK_SECONDS = 0.5
_QUICKER = 1.25
"""Twice the connections have to bring this much, or they are given up again."""
_PATIENCE_SECONDS = 5.0
"""For the first answer to a request for a part."""
_WORTH_SECONDS = 1.0
"""What will be here sooner is left alone."""


class LargeFiles:
    """The LargeTransfers port. `files`: how many this process has under way, small ones included."""

    def __init__(self, settings: Settings, files: Callable[[], int]) -> None:
        self.connections = settings.connections
        self._most, self._files = settings.concurrency // settings.processes, files
        self._copies: set[_Copy] = set()
        self._only_whole: set[str] = set()
        """Paths of parts whose source did not send spans as it should."""

    def takes(self, download: Download, place: Destination, url: str) -> bool:  # noqa: ARG002
        return isinstance(place, LocalFolder) and (download.size or 0) >= LARGE

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
        part = cast("LocalFolder", place).part(task.name, url)
        source = cast("LargeDownload", download)
        validator = source.validator if part.path not in self._only_whole else None
        copy: _Copy | None = None
        try:
            file = await part.run(part.open, source.size, validator)
            copy = _Copy(self, source, validator, part, file, moved, task.url)
            self._copies.add(copy)
            await copy.run()
            check(file.sha256)
            await part.run(part.finish, file)
        except TransferError as error:
            if copy is not None and copy.refused:
                self._only_whole.add(part.path)
            # What is wrong, or in the way of others, is not gone on with.
            if copy is None or copy.refused or copy.frontier == source.size or error.error == "DiskFull":
                part.forget()
            elif file.remembers:
                error.kept = copy.frontier
            raise
        finally:
            if copy is not None:
                self._copies.discard(copy)
            # Opened or not: who was cancelled in between has a file that it has not heard of.
            await part.run(part.close, copy and copy.frontier)
        self._only_whole.discard(part.path)
        return file.sha256

    def forget(self, place: Destination, task: Task, url: str) -> None:
        if isinstance(place, LocalFolder):
            part = place.part(task.name, url)
            self._only_whole.discard(part.path)
            part.forget()

    @property
    def room(self) -> int:
        """Connections that there may be beside those that are; below 0 if there are too many."""
        return self._most - self._files() - sum(max(0, copy.alive - 1) for copy in self._copies)


class _Copy:
    """One try.

    Attributes:
        alive: its connections.
        refused: the source did not send a span as it should.
    """

    def __init__(
        self,
        large: LargeFiles,
        download: LargeDownload,
        validator: str | None,
        part: LocalPart,
        file: PartFile,
        moved: Callable[[], None],
        shown: str,
    ) -> None:
        self._shown = shown
        self._large, self._download, self._validator = large, download, validator
        self._part, self._file, self._moved = part, file, moved
        self._spans = Spans(file.kept, download.size or 0)
        self.alive, self.refused = 0, False
        self._streams: set[asyncio.Task[None]] = set()
        self._whole: Span | None = None
        """Where the GET that came first is."""
        self._growing = validator is not None
        self._wanted = self._before = 1
        self._expected = 0.0
        """Bytes a second, if the last doubling was of use."""
        self._written, self._told = 0, file.kept
        self._progress = asyncio.Event()
        self._known = asyncio.Event()
        """Whether the source sends spans."""
        self._failure: TransferError | None = None

    @property
    def frontier(self) -> int:
        """All before it is in the file."""
        return self._spans.frontier

    async def run(self) -> None:
        hashing = asyncio.create_task(self._hash())
        if self.frontier == 0:
            self._first = self._begin(self._from_the_beginning)
        else:
            self._download.close()
            self._first = self._begin(self._go_on)
        clock = asyncio.get_running_loop().time
        since, written = clock(), 0
        try:
            while self._streams and not hashing.done():
                look = _LOOK_SECONDS if self._growing else None
                await asyncio.wait({*self._streams, hashing}, timeout=look, return_when=asyncio.FIRST_COMPLETED)
                for stream in [each for each in self._streams if each.done()]:
                    await self._ended(stream)
                if (seconds := clock() - since) >= _LOOK_SECONDS:
                    self._adapt((self._written - written) / seconds)
                    since, written = clock(), self._written
            if self.frontier < self._spans.size and not hashing.done():
                raise self._failure or self._incomplete()
            await hashing
        finally:
            await _stop(hashing, *self._streams)

    def _begin(self, stream: Callable[[], Coroutine[Any, Any, None]]) -> "asyncio.Task[None]":
        async def counted() -> None:
            try:
                await stream()
            finally:
                self.alive -= 1

        self.alive += 1
        task = asyncio.create_task(counted())
        self._streams.add(task)
        return task

    async def _from_the_beginning(self) -> None:
        """The GET that is under way, up to where another connection began."""
        self._whole = span = cast("Span", self._spans.take(BLOCK))
        try:
            async for got in self._download.blocks():
                blocks = got
                while blocks and await self._is_mine(span):
                    mine, blocks = _split(blocks, span.stop - span.at)
                    await self._write(span, mine)
                if blocks:
                    break
        finally:
            self._whole = None
            self._give_back(span)
        self._download.close()
        await self._go_on()

    async def _is_mine(self, span: Span) -> bool:
        """Whether the GET that came first goes on; if the next block is another's, as soon as it is known that there are others."""
        while span.at == span.stop and not self._spans.extend(span, BLOCK):
            if self._known.is_set():
                return False
            try:
                await asyncio.wait_for(self._known.wait(), _PATIENCE_SECONDS)
            except TimeoutError:
                # The source may serve one connection after the other, and this one holds the others up.
                self._wanted, self._growing = 1, False
                await self._stop_others()
        return True

    async def _stop_others(self) -> None:
        others = self._streams - {self._first}
        await _stop(*others)
        self._streams -= others

    async def _go_on(self) -> None:
        """One block after the other, while so many connections are wanted."""
        while self._validator is not None and self.alive <= self._wanted and (self.alive == 1 or self._large.room >= 0):
            if (span := self._spans.take(BLOCK)) is None:
                return
            try:
                async with self._download.span(span.at, span.stop, self._validator) as blocks:
                    self._known.set()
                    async for got in blocks:
                        mine, more = _split(got, span.stop - span.at)
                        if more:
                            raise RangeRefused(f"{self._shown} sent more than the part that was asked for")
                        await self._write(span, mine)
                if span.at < span.stop:
                    raise self._incomplete()
            finally:
                self._give_back(span)

    def _give_back(self, span: Span) -> None:
        self._spans.give_back(span)
        self._progress.set()  # what others have behind it counts now

    def _incomplete(self) -> TransferError:
        return TransferError("IncompleteRead", f"{self._shown} sent less than it announced", retryable=True)

    async def _write(self, span: Span, blocks: list[bytes]) -> None:
        length = await self._part.run(self._file.write, span.at, blocks, self.frontier)
        span.at += length
        self._written += length
        self._progress.set()
        if self.frontier >= self._told + BLOCK:
            self._told = self.frontier
            self._moved()

    async def _hash(self) -> None:
        # Not done before the last write is, which hashes first, and then notes how far it is.
        while min(hashed := self._file.hashed, self.frontier) < self._spans.size:
            self._progress.clear()
            if hashed < self.frontier >= min(hashed + _BEHIND, self._spans.size):
                await self._part.run(self._file.hash_to, min(self.frontier, hashed + _HASH))
                self._moved()
            else:
                await self._progress.wait()

    async def _ended(self, stream: "asyncio.Task[None]") -> None:
        """The others go on without it. If spans are of no use, the GET that came first goes on alone."""
        self._streams.discard(stream)
        if stream.cancelled():
            return
        try:
            stream.result()
        except RangeRefused:
            self.refused, self._validator = True, None
            await self._stop_others()
            if self._whole is None:
                raise
            self._spans.free_after(self._whole)
        except TransferError as error:
            self._failure = error
        else:
            return
        self._known.set()
        self._wanted, self._growing = max(1, self.alive), False

    def _adapt(self, rate: float) -> None:
        """Twice as many connections, if the last doubling was of use; or back to how many there were before it."""
        if not self._growing or not rate:
            return
        if rate < self._expected:
            self._wanted, self._growing = self._before, False
            return
        more = min(self.alive, self._large.connections - self.alive, self._large.room)
        if more > 0 and self._spans.left > rate * _WORTH_SECONDS:
            self._before, self._wanted = self.alive, self.alive + more
            self._expected = rate * (1 + (_QUICKER - 1) * more / self.alive)
            for _ in range(more):
                self._begin(self._go_on)


def _split(blocks: list[bytes], length: int) -> tuple[list[bytes], list[bytes]]:
    """The first `length` bytes, and the rest."""
    if sum(map(len, blocks)) <= length:
        return blocks, []
    for index, block in enumerate(blocks):
        if len(block) >= length:
            rest = [block[length:]] if len(block) > length else []
            return [*blocks[:index], block[:length]], [*rest, *blocks[index + 1 :]]
        length -= len(block)
    raise AssertionError("they are longer")


async def _stop(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
