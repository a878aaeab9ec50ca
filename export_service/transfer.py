"""One file from its source to its destination: checked while it streams, retried by the class of what went wrong."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from export_service.backoff import pauses
from export_service.failures import TransferError
from export_service.messages import Outcome, Task, TaskResult
from export_service.ports import Destinations, Download, FileSource
from export_service.settings import Download as Settings

MAX_RETRY_AFTER = 60.0
"""Seconds. A source that asks for more is asked sooner whether it means it; its tasks would wait for nothing otherwise."""
_FIRST_PAUSE, _MOST_PAUSE = 0.25, 10.0


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
        self, sources: FileSource, destinations: Destinations, limits: Limits, *, sleep: Callable[[float], Any] = asyncio.sleep
    ) -> None:
        self._sources, self._destinations, self._limits, self._sleep = sources, destinations, limits, sleep

    async def __call__(
        self, destination: str, task: Task, url: str, tried: int = 0, opening: Opening | None = None
    ) -> TaskResult | Busy:
        """The outcome; never raises but for cancellation, which leaves nothing behind.

        `tried`: tries there were before. `opening` is the first try's, if it is open already.
        """
        started = time.monotonic()
        for attempts, pause in enumerate(pauses(_FIRST_PAUSE, _MOST_PAUSE), start=tried + 1):
            try:
                async with asyncio.timeout(self._limits.timeout_seconds):
                    size, digest = await self._once(destination, task, opening or self._sources.open(url))
            except TransferError as error:
                failed = error
            except TimeoutError:
                text = f"{task.url} was not done in {self._limits.timeout_seconds:g} s"
                failed = TransferError("Timeout", text, retryable=True)
            else:
                return result(task, Outcome.SUCCEEDED, attempts, started, bytes=size, sha256=digest)
            if failed.busy or not failed.retryable or attempts >= self._limits.attempts:
                error_fields = {"error": failed.error, "message": failed.message[:500]}
                outcome = result(task, Outcome.FAILED, attempts, started, **error_fields)
                return Busy(outcome, failed.retry_after) if failed.busy else outcome
            opening = None
            await self._sleep(max(pause, min(failed.retry_after or 0.0, MAX_RETRY_AFTER)))
        raise AssertionError("pauses never end")

    async def _once(self, destination: str, task: Task, opening: Opening) -> tuple[int, str]:
        digest, size = hashlib.sha256(), 0
        async with opening as download:
            announced = task.size if task.size is not None else download.size
            if announced is not None and announced > self._limits.max_bytes:
                raise self._too_large(task)
            async with self._destinations.at(destination).create(task.name, announced) as sink:
                async for chunk in download.chunks():
                    size += len(chunk)
                    if size > self._limits.max_bytes:
                        raise self._too_large(task)
                    digest.update(chunk)
                    await sink.write(chunk)
                # Inside the sink's context: a file that is not what was promised never gets its final name.
                check(task, download.size, size, digest.hexdigest())
        return size, digest.hexdigest()

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

    async def stop(self) -> None:
        for task in self._running:
            task.cancel()
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


def check(task: Task, announced: int | None, size: int, sha256: str) -> None:
    """Against what the source announced, then against what the request says. A wrong length may be a cut connection: try again."""
    if announced is not None and size != announced:
        raise TransferError("IncompleteRead", f"{task.url} sent {size} of {announced} bytes", retryable=True)
    if task.size is not None and size != task.size:
        raise TransferError("SizeMismatch", f"{task.url} has {size} bytes, the request says {task.size}", retryable=True)
    if task.sha256 is not None and sha256 != task.sha256.lower():
        text = f"{task.url} has SHA-256 {sha256}, the request says {task.sha256}"
        raise TransferError("ChecksumMismatch", text, retryable=True)
