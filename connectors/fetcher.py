"""A process that transfers files for its worker, and knows nothing of Kafka: it is told what to fetch, and says what became of it.

It ends with its worker, however that ends: the socket between them closes then.
"""

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import structlog

from connectors.aws import Clients
from connectors.frames import Frames
from connectors.lanes import QuickLane
from connectors.large_files import LargeFiles
from connectors.s3_parts import LargeParts
from connectors.stores import open_stores
from export_service.bandwidth import Bandwidth
from export_service.messages import Task, TaskResult
from export_service.settings import Settings
from export_service.transfer import Busy, Limits, Stop, Transfers, TransferTasks

_PATIENCE = 0.001
"""Seconds that an outcome may wait for others."""


async def fetch(end: socket.socket, settings: Settings) -> int:
    """Until the other end closes. The exit code."""
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def end_with(code: int) -> None:
        if not ended.done():
            ended.set_result(code)

    def fatal(error: BaseException) -> None:
        structlog.get_logger().error("A fetch process failed", exc_info=error)
        end_with(1)

    async with AsyncExitStack() as stack:
        bandwidth = Bandwidth()
        lane = await open_lane(settings, stack, fatal, bandwidth)
        running: dict[int, Stop] = {}
        stopping: list[asyncio.Task[None]] = []

        def received(value: Any) -> None:
            if value is None:
                stopping.append(asyncio.create_task(stop()))
            elif isinstance(value, int):
                if stop_one := running.pop(value, None):
                    stop_one()
            elif isinstance(value, float):
                bandwidth.limit(value)
            else:
                number, destination, url, tried, *fields = value
                running[number] = lane.start(destination, _task(*fields), url, partial(done, number), tried)

        def done(number: int, ended: TaskResult | Busy) -> None:
            del running[number]
            if isinstance(ended, Busy):
                frames.send((number, True, ended.retry_after, *_plain(ended.failed)))
            else:
                frames.send((number, False, None, *_plain(ended)))

        async def stop() -> None:
            await lane.stop()
            running.clear()
            frames.send(None)

        frames = Frames(received, lambda error: fatal(error) if error else end_with(0), _PATIENCE)
        await frames.connect(end)
        code = await ended
        await lane.stop()
        return code


async def open_lane(
    settings: Settings, stack: AsyncExitStack, fatal: Callable[[BaseException], None], bandwidth: Bandwidth | None = None
) -> QuickLane:
    """All that transfers need."""
    clients = Clients(settings.aws)
    boto = clients.later("s3", stack)
    sources, destinations = await open_stores(settings, clients, boto, stack, bandwidth)
    limits = Limits.of(settings.download)
    large = LargeFiles(settings.download, lambda: lane.running), LargeParts(settings.download.connections)
    lane = QuickLane(TransferTasks(Transfers(sources, destinations, limits, large), fatal), sources, destinations, limits)
    return lane


def ignore_signals() -> None:
    """A terminal and some supervisors tell all processes of a group to end. The worker decides when we do."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _task(index: int, name: str, url: str, size: int | None, sha256: str | None) -> Task:
    return Task(index=index, name=name, url=url, size=size, sha256=sha256)


def _plain(result: TaskResult) -> tuple[Any, ...]:
    return (
        str(result.outcome),
        result.attempts,
        result.duration_ms,
        result.bytes,
        result.sha256,
        result.error,
        result.message,
    )
