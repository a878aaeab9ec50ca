"""One file from its source to its destination: checked while it streams, retried by the class of what went wrong."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

from export_service.backoff import pauses
from export_service.failures import TransferError
from export_service.messages import Outcome, Task, TaskResult
from export_service.ports import Copied, CopyingDestination, Destination, Destinations, Download, FileSource
from export_service.settings import Download as Settings

MAX_RETRY_AFTER = 60.0
"""Seconds. A source that asks for more is asked sooner whether it means it; its tasks would wait for nothing otherwise."""
_FIRST_PAUSE, _MOST_PAUSE = 0.25, 10.0
_FURTHER = 16 * 1024 * 1024
"""Bytes. A try that keeps so much more than any before does not count: a source that cuts each connection is still read to its end."""


@dataclass(frozen=True)
class Busy:
    """The source's host asks for fewer requests: the task had better be begun again later. `failed` is its outcome if it is not.

    `retry_after`: seconds that the host asks for, if it does.
    """

    failed: TaskResult
    retry_after: float | None


Done = Callable[[TaskResult | Busy], None]
"""Told of the outcome."""
Stop = Callable[[], object]
"""Ends one transfer; it leaves nothing behind, and nobody is told. Nothing happens if it has ended."""
Opening = AbstractAsyncContextManager[Download]
"""What FileSource.open gives."""


_HAND_BACK = "somebody else will go on with it"


class LargeTransfers(Protocol):
    """Copies large files, whose next try may go on where one ended."""

    def takes(self, download: Download, place: Destination, url: str) -> bool: ...

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
        """Its SHA-256, which `check` was told of before the file got its name. `moved` is called from time to time while it gets on.
        Raises TransferError, with how much is kept for the next try."""

    def forget(self, place: Destination, task: Task, url: str) -> None:
        """There is no next try."""


@dataclass(frozen=True)
class Limits:
    attempts: int
    timeout_seconds: float
    max_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        return cls(settings.attempts, settings.timeout_seconds, settings.max_bytes)


class Transfers:
    """Callable as the download step's Transfer."""

    def __init__(
        self,
        sources: FileSource,
        destinations: Destinations,
        limits: Limits,
        large: Sequence[LargeTransfers],
        *,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self._sources, self._destinations, self._limits, self._large = sources, destinations, limits, large
        self._sleep = sleep

    async def __call__(
        self, destination: str, task: Task, url: str, tried: int = 0, opening: Opening | None = None
    ) -> TaskResult | Busy:
        """The outcome; never raises but for cancellation, which leaves nothing behind.

        `tried`: tries there were before. `opening` is the first try's, if it is open already.
        """
        try:
            ended = await self._try(destination, task, url, tried, opening)
        except asyncio.CancelledError as cancelled:
            if cancelled.args != (_HAND_BACK,):
                self._forget(destination, task, url)
            raise
        given_up = ended.failed.attempts >= self._limits.attempts if isinstance(ended, Busy) else ended.outcome is Outcome.FAILED
        if given_up:
            self._forget(destination, task, url)
        return ended

    async def _try(self, destination: str, task: Task, url: str, tried: int, opening: Opening | None) -> TaskResult | Busy:
        started = time.monotonic()
        counted, reached = tried, 0
        for attempts, pause in enumerate(pauses(_FIRST_PAUSE, _MOST_PAUSE), start=tried + 1):
            try:
                async with asyncio.timeout(self._limits.timeout_seconds) as deadline:
                    size, digest = await self._once(destination, task, url, opening, deadline)
            except TransferError as error:
                failed = error
            except TimeoutError:
                text = f"{task.url} was not done in {self._limits.timeout_seconds:g} s"
                failed = TransferError("Timeout", text, retryable=True)
            else:
                return result(task, Outcome.SUCCEEDED, attempts, started, bytes=size, sha256=digest)
            if failed.kept >= reached + _FURTHER:
                reached = failed.kept
            else:
                counted += 1
            if failed.busy or not failed.retryable or counted >= self._limits.attempts:
                error_fields = {"error": failed.error, "message": failed.message[:500]}
                outcome = result(task, Outcome.FAILED, attempts, started, **error_fields)
                return Busy(outcome, failed.retry_after) if failed.busy else outcome
            opening = None
            await self._sleep(max(pause, min(failed.retry_after or 0.0, MAX_RETRY_AFTER)))
        raise AssertionError("pauses never end")

    async def _once(
        self, destination: str, task: Task, url: str, opening: Opening | None, deadline: asyncio.Timeout
    ) -> tuple[int, str | None]:
        place = self._destinations.at(destination)
        if opening is None and (copied := await self._copied(place, task, url, deadline)):
            return copied.size, copied.sha256
        digest, size = hashlib.sha256(), 0
        async with opening or self._sources.open(url) as download:
            announced = task.size if task.size is not None else download.size
            if announced is not None and announced > self._limits.max_bytes:
                raise self._too_large(task)
            if large := next((each for each in self._large if each.takes(download, place, url)), None):
                return await self._large_file(large, download, place, task, url, deadline)
            async with place.create(task.name, announced, digest) as sink:
                async for chunk in download.chunks():
                    size += len(chunk)
                    if size > self._limits.max_bytes:
                        raise self._too_large(task)
                    if announced is not None and size > announced:
                        # Now: the sink has memory for what was announced.
                        check(task, download.size, size, None)
                    digest.update(chunk)
                    await sink.write(chunk)
                # Inside the sink's context: a file that is not what was promised never gets its final name.
                check(task, download.size, size, digest.hexdigest())
        return size, digest.hexdigest()

    async def _copied(self, place: Destination, task: Task, url: str, deadline: asyncio.Timeout) -> Copied | None:
        """What the store of the destination has copied by itself."""
        if not place.copies(url):
            return None

        def right(size: int, sha256: str | None) -> None:
            if size > self._limits.max_bytes:
                raise self._too_large(task)
            check(task, size, size, sha256)

        copying, hashed = cast("CopyingDestination", place), task.sha256 is not None
        return await copying.copy(task.name, url, hashed=hashed, check=right, moved=self._mover(deadline))

    async def _large_file(
        self, large: LargeTransfers, download: Download, place: Destination, task: Task, url: str, deadline: asyncio.Timeout
    ) -> tuple[int, str]:
        size = download.size or 0
        if size > self._limits.max_bytes:
            raise self._too_large(task)
        # What it has to be is known before it comes.
        check(task, size, size, None)
        sha256 = await large.copy(
            download, place, task, url, moved=self._mover(deadline), check=lambda sha256: check(task, size, size, sha256)
        )
        return size, sha256

    def _mover(self, deadline: asyncio.Timeout) -> Callable[[], None]:
        loop, seconds = asyncio.get_running_loop(), self._limits.timeout_seconds
        return lambda: deadline.reschedule(loop.time() + seconds)

    def _forget(self, destination: str, task: Task, url: str) -> None:
        with suppress(TransferError):
            for large in self._large:
                large.forget(self._destinations.at(destination), task, url)

    def _too_large(self, task: Task) -> TransferError:
        text = f"{task.url} is larger than EXPORT_DOWNLOAD_MAX_BYTES={self._limits.max_bytes}"
        return TransferError("TooLarge", text, retryable=False)


class TransferTasks:
    """The Transferring port: each transfer is an asyncio task."""

    def __init__(
        self, transfer: Callable[..., Coroutine[Any, Any, TaskResult | Busy]], fatal: Callable[[BaseException], None]
    ) -> None:
        self._transfer, self._fatal = transfer, fatal
        self._running: set[asyncio.Task[TaskResult | Busy]] = set()

    def start(self, destination: str, task: Task, url: str, done: Done, tried: int = 0, *opening: Opening) -> Stop:
        running = asyncio.create_task(self._transfer(destination, task, url, tried, *opening))
        self._running.add(running)
        running.add_done_callback(partial(self._ended, done))
        return running.cancel

    @property
    def running(self) -> int:
        return len(self._running)

    async def stop(self) -> None:
        for task in self._running:
            task.cancel(_HAND_BACK)
        await asyncio.gather(*self._running, return_exceptions=True)

    def _ended(self, done: Done, running: "asyncio.Task[TaskResult | Busy]") -> None:
        self._running.discard(running)
        if running.cancelled():
            return
        if (error := running.exception()) is not None:
            self._fatal(error)
        else:
            done(running.result())


def result(task: Task, outcome: Outcome, attempts: int, started: float, **fields: Any) -> TaskResult:
    """`started` is time.monotonic()."""
    return TaskResult(
        index=task.index,
        outcome=outcome,
        name=task.name,
        url=task.url,
        attempts=attempts,
        duration_ms=round((time.monotonic() - started) * 1000),
        **fields,
    )


def check(task: Task, announced: int | None, size: int, sha256: str | None) -> None:
    """Against what the source announced, then against what the request says. A wrong length may be a cut connection: try again.

    `sha256` is None as long as it is not known.
    """
    if announced is not None and size != announced:
        raise TransferError("IncompleteRead", f"{task.url} sent {size} of {announced} bytes", retryable=True)
    if task.size is not None and size != task.size:
        raise TransferError("SizeMismatch", f"{task.url} has {size} bytes, the request says {task.size}", retryable=True)
    if task.sha256 is not None and sha256 is not None and sha256 != task.sha256.lower():
        text = f"{task.url} has SHA-256 {sha256}, the request says {task.sha256}"
        raise TransferError("ChecksumMismatch", text, retryable=True)
