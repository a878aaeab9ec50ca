"""Lists of plain values between the processes of one worker, over a socket pair.

What is sent in one turn of the loop, or a little later, goes as one frame: its length in four bytes, then `marshal`, the quickest
that Python has.
Only a process and its own child speak this, so neither the versions nor the trust of both ends can differ.
"""

import asyncio
import marshal
import socket
from collections.abc import Callable
from typing import Any

_LENGTH = 4


class Frames(asyncio.Protocol):
    """Args:
    received: called with each value, in order.
    closed: called when the connection is, with the reason if that is not the other end; what `received` raises is one.
    patience: seconds that a value may wait for others. Each frame wakes the other process, which costs as much as ten values.
    """

    def __init__(self, received: Callable[[Any], None], closed: Callable[[Exception | None], None], patience: float = 0) -> None:
        self._received, self._closed, self._patience = received, closed, patience
        self._failed: Exception | None = None
        self._buffer = bytearray()
        self._waiting: list[Any] = []

    async def connect(self, end: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        await self._loop.create_connection(lambda: self, sock=end)

    def send(self, value: Any) -> None:
        if not self._waiting:
            self._loop.call_later(self._patience, self._flush)
        self._waiting.append(value)

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._take(data)
        except Exception as error:
            # The loop would log it and go on, without the values of this frame.
            self._failed = error
            self.close()

    def _take(self, data: bytes) -> None:
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= _LENGTH:
            end = at + _LENGTH + int.from_bytes(self._buffer[at : at + _LENGTH], "little")
            if len(self._buffer) < end:
                break
            values = marshal.loads(memoryview(self._buffer)[at + _LENGTH : end])
            at = end
            for value in values:
                self._received(value)
        del self._buffer[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed(self._failed or exc)

    def _flush(self) -> None:
        data = marshal.dumps(self._waiting)
        self._waiting.clear()
        self._transport.write(len(data).to_bytes(_LENGTH, "little") + data)
