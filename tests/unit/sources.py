"""A download worker's core, from tasks to outcomes, with fetch processes, against web servers that a test makes."""

import asyncio
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from agents.download import Downloader
from connectors.fetch_processes import FetchProcesses
from connectors.memory import MemoryLedger, MemoryPublisher, SystemClock
from export_service.messages import Task, TaskBatch, TaskResult, TaskResults
from export_service.readers import read_event
from export_service.settings import Settings
from streams.ack_window import AckWindow, Place
from streams.dead_letters import DeadLetters
from streams.steps import Incoming
from streams.topics import topics
from tests.waiting import until

BODY = b"content\n" * 500
Answer = Callable[["Source", str], Awaitable[bytes]]


def answer(status: int = 200, body: bytes = BODY, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Source:
    """A web server, plain and quick. `given` says what a path gets; it is raw, and may be wrong."""

    def __init__(self, given: Answer) -> None:
        self._given = given
        self.asked: list[tuple[float, str]] = []
        self.connections, self.sent = 0, 0
        self.under_way, self.most = 0, 0
        self.tls: ssl.SSLContext | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def times(self) -> Counter[str]:
        return Counter(path for _, path in self.asked)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1000, ssl=self.tls)
        self.base = f"http{'s' if self.tls else ''}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        # So that what is `sent` has left, or nearly.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
        writer.transport.set_write_buffer_limits(high=0)
        try:
            while line := await reader.readline():
                while await reader.readline() not in (b"\r\n", b""):
                    pass
                path = line.split(b" ")[1].decode()
                self.asked.append((time.monotonic(), path))
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                try:
                    data = await self._given(self, path)
                finally:
                    self.under_way -= 1
                for at in range(0, len(data), 65536):
                    writer.write(data[at : at + 65536])
                    self.sent += len(data[at : at + 65536])
                    await writer.drain()
                if b"Connection: close" in data[:1000]:
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


class Work:
    """`downloader` over memory ports; `results` by (job, index)."""

    def __init__(self, transfers: FetchProcesses, settings: Settings, folder: Path) -> None:
        self.names = topics(settings)
        self.publisher, self.errors, self.out = MemoryPublisher(), list[BaseException](), folder / "out"
        self._place = Place(self.names.tasks.name, 0)
        self.window = AckWindow(100_000, self.errors.append)
        self.window.begin(self._place, 0)
        self._offset = 0
        letters = DeadLetters(self.publisher, self.names.dead_letters.name, SystemClock())
        log = structlog.get_logger()
        self.downloader = Downloader(transfers, MemoryLedger(), self.publisher, letters, self.names, log, settings.download)
        self.downloader.start(self.errors.append)

    async def take(self, urls: Sequence[str], job: str = "j", user: str = "u") -> None:
        for at in range(0, len(urls), 128):
            tasks = tuple(
                Task(index=at + n, url=url, name=f"{(at + n) // 500}/{at + n}.bin") for n, url in enumerate(urls[at : at + 128])
            )
            destination = f"{self.out.as_uri()}/{job}/"
            batch = TaskBatch(job_id=job, attempt=1, user_id=user, destination=destination, tasks=tasks)
            entry = await self.window.admit(self._place, self._offset)
            assert entry is not None
            await self.downloader.handle(Incoming(self._place, self._offset, datetime.now(UTC), b"k", batch.to_bytes()), entry)
            self._offset += 1

    @property
    def results(self) -> dict[tuple[str, int], TaskResult]:
        told: dict[tuple[str, int], TaskResult] = {}
        for value in self.publisher.values(self.names.results.name):
            record = read_results(value)
            for result in record.results:
                assert (record.job_id, result.index) not in told, "told twice"
                told[record.job_id, result.index] = result
        return told

    async def all_done(self, seconds: float = 30) -> None:
        assert await self.window.empty(seconds), f"{len(self.downloader.waiting)} wait, {self.downloader.busy} are under way"
        assert not self.errors

    async def begun(self, source: Source, number: int) -> None:
        await until(lambda: len(source.asked) >= number)


@asynccontextmanager
async def working(ends: Sequence[Any], settings: Settings, folder: Path, *sources: Source) -> AsyncIterator[Work]:
    errors: list[BaseException] = []
    transfers = FetchProcesses(ends, errors.append)
    for source in sources:
        await source.start()
    await transfers.connect()
    work = Work(transfers, settings, folder)
    try:
        yield work
        assert not errors
    finally:
        await work.downloader.drain(0.1)
        for source in sources:
            await source.close()


def read_results(value: bytes) -> TaskResults:
    event = read_event(value)
    assert isinstance(event, TaskResults)
    return event
