"""Transfers in processes of their own, so that files are read, hashed and written on other processors than the one that talks to Kafka.

They are forked before the worker has a loop or a thread: what is imported by then is shared, and nothing has to be started again.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvloop

from connectors.fetcher import fetch, ignore_signals
from connectors.frames import Frames
from export_service.failures import FetchProcessEnded
from export_service.messages import Outcome, Task, TaskResult
from export_service.settings import Settings
from export_service.transfer import Busy, Done, Stop

_END_SECONDS = 5.0
"""For a process to end by itself: a file system that hangs does not keep the worker."""

_OUTCOMES = {str(outcome): outcome for outcome in Outcome}


@contextmanager
def forked(settings: Settings, processes: int) -> Iterator[list[socket.socket]]:
    """Each process is at the other end of one of these sockets, and ends when it is closed."""
    ours: list[socket.socket] = []
    children: list[int] = []
    for _ in range(processes):
        here, there = socket.socketpair()
        if not (child := os.fork()):
            for other in (here, *ours):
                other.close()
            ignore_signals()
            code = 1
            try:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    code = runner.run(fetch(there, settings))
            finally:
                # Not a return: the code that called us is the parent's to run.
                os._exit(code)
        there.close()
        ours.append(here)
        children.append(child)
    try:
        yield ours
    finally:
        for end in ours:
            end.close()
        deadline = time.monotonic() + _END_SECONDS
        for child in children:
            while os.waitpid(child, os.WNOHANG)[0] == 0:
                if time.monotonic() > deadline:
                    os.kill(child, signal.SIGKILL)
                time.sleep(0.01)


class FetchProcesses:
    """The Transferring port."""

    def __init__(self, ends: Sequence[socket.socket], fatal: Callable[[BaseException], None]) -> None:
        self._processes = [_Process(end, fatal, self._share) for end in ends]
        self._bandwidth = 0.0

    async def connect(self) -> None:
        for process in self._processes:
            await process.frames.connect(process.end)

    def start(self, destination: str, task: Task, url: str, done: Done, tried: int = 0) -> Stop:
        process = min(self._processes, key=lambda each: len(each.running))
        return process.start(destination, task, url, done, tried)

    def limit(self, bandwidth: float) -> None:
        """Bytes a second of all of them together; 0: no limit."""
        self._bandwidth = bandwidth
        self._share()

    def _share(self) -> None:
        """Among those that have something to do."""
        busy = [process for process in self._processes if process.running]
        for process in busy:
            process.limit(self._bandwidth / len(busy))

    async def stop(self) -> None:
        await asyncio.gather(*(process.stop() for process in self._processes))


class _Process:
    """`changed` is called when it gets something to do, and when it has nothing more."""

    def __init__(self, end: socket.socket, fatal: Callable[[BaseException], None], changed: Callable[[], None]) -> None:
        self.end, self._fatal, self._changed = end, fatal, changed
        self._bandwidth = 0.0
        self.frames = Frames(self._received, self._closed)
        self.running: dict[int, tuple[Task, Done]] = {}
        self._number = 0
        self._stopped = asyncio.Event()
        self._stopping = False

    def start(self, destination: str, task: Task, url: str, done: Done, tried: int) -> Stop:
        self._number = number = self._number + 1
        self.running[number] = task, done
        if len(self.running) == 1:
            self._changed()
        self.frames.send((number, destination, url, tried, task.index, task.name, task.url, task.size, task.sha256))
        return lambda: self._cancel(number)

    def limit(self, bandwidth: float) -> None:
        if bandwidth != self._bandwidth:
            self._bandwidth = bandwidth
            self.frames.send(bandwidth)

    async def stop(self) -> None:
        self._stopping = True
        self.running.clear()
        self.frames.send(None)
        await self._stopped.wait()
        self.frames.close()

    def _cancel(self, number: int) -> None:
        if self.running.pop(number, None):
            self.frames.send(number)

    def _received(self, value: Any) -> None:
        if value is None:
            return self._stopped.set()
        number, busy, retry_after, outcome, attempts, duration_ms, size, sha256, error, message = value
        if found := self.running.pop(number, None):
            task, done = found
            result = TaskResult(
                index=task.index,
                outcome=_OUTCOMES[outcome],
                name=task.name,
                url=task.url,
                bytes=size,
                sha256=sha256,
                attempts=attempts,
                duration_ms=duration_ms,
                error=error,
                message=message,
            )
            done(Busy(result, retry_after) if busy else result)
            if not self.running:
                self._changed()
        return None

    def _closed(self, error: Exception | None) -> None:
        self._stopped.set()
        if not self._stopping:
            self._fatal(error or FetchProcessEnded("a fetch process ended; its own error is above, if it was not killed"))
