"""A proxy in front of one Kafka broker: cuts, stalls and slows connections, and loses the replies to records that were taken."""

import asyncio
import random
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

from export_service.devstack.processes import free_port

_PRODUCE = 0
"""Kafka's API key, the first two bytes of a request."""
_POLL_SECONDS = 0.02


class KafkaProxy:
    """Listens on `port`, leads to `target` (where the broker must listen), frame by frame.

    Attributes:
        cut: nobody gets through, and who is connected is thrown out.
        stalled: directions (`in` to the broker, `out` of it) in which nothing moves, while connections stay open.
        delay: seconds each frame waits. bytes_per_second: of one connection and direction; 0: no limit.
        lose: chance that the connection breaks in place of the reply to a Produce request.
    """

    def __init__(self, port: int) -> None:
        self.port, self.target = port, free_port()
        self.done: Counter[str] = Counter()
        self.heal()
        self._random = random.Random(port)
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def heal(self) -> None:
        self.cut, self.stalled, self.delay, self.bytes_per_second, self.lose = False, frozenset[str](), 0.0, 0, 0.0

    def sever(self) -> None:
        """Cut, also what is connected."""
        self.cut = True
        self._loop.call_soon_threadsafe(self._throw_out)

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
            self._thread.start()
            assert self._ready.wait(10)

    def close(self) -> None:
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self._ready.set()
        await self._stop.wait()
        server.close()
        self._throw_out()

    def _throw_out(self) -> None:
        for connection in self._connections:
            connection.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = asyncio.current_task()
        assert mine is not None
        self._connections.add(mine)
        with suppress(asyncio.CancelledError, OSError, asyncio.IncompleteReadError):
            if not self.cut:
                await self._forward(reader, writer)
        self._connections.discard(mine)
        writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", self.target)
        produced: set[int] = set()

        async def request(frame: bytes) -> None:
            key, _, correlation = struct.unpack_from(">hhi", frame)
            if key == _PRODUCE:
                produced.add(correlation)

        async def reply(frame: bytes) -> None:
            (correlation,) = struct.unpack_from(">i", frame)
            if correlation in produced:
                produced.discard(correlation)
                if self._random.random() < self.lose:
                    self.done["lost produce reply"] += 1
                    raise ConnectionError

        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump("in", reader, broker_writer, request))
                both.create_task(self._pump("out", broker_reader, writer, reply))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            broker_writer.transport.abort()

    async def _pump(
        self, direction: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter, see: Callable[[bytes], Awaitable[None]]
    ) -> None:
        while True:
            head = await source.readexactly(4)
            frame = await source.readexactly(*struct.unpack(">i", head))
            while direction in self.stalled:
                await asyncio.sleep(_POLL_SECONDS)
            if wait := self.delay + (len(frame) / self.bytes_per_second if self.bytes_per_second else 0):
                await asyncio.sleep(wait)
            await see(frame)
            sink.write(head + frame)
            await sink.drain()
