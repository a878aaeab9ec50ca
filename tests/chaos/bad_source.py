"""Ways in which a web server fails: each path has its own, decided by its name, for its first requests or for good."""

import time
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

from tests.e2e.conftest import FileServer

Handler = BaseHTTPRequestHandler
_TRANSIENT = 2
"""Requests of a path that fail before one is answered well; fewer than a transfer has tries."""


def _status(code: int, **headers: str) -> Callable[[Handler, bytes], None]:
    def answer(handler: Handler, _: bytes) -> None:
        handler.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return answer


def _body(announced: int, sent: bytes, handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(announced))
    handler.end_headers()
    handler.wfile.write(sent)
    handler.close_connection = True


def _cut(handler: Handler, body: bytes) -> None:
    _body(len(body), body[: len(body) // 2], handler)


def _stall(handler: Handler, body: bytes) -> None:
    _body(len(body), body[:10], handler)
    time.sleep(3)  # longer than the worker waits for a byte


def _drip(handler: Handler, body: bytes) -> None:
    _body(len(body), b"", handler)
    for start in range(0, len(body), 100):
        handler.wfile.write(body[start : start + 100])
        time.sleep(0.05)


def _endless_chunk(handler: Handler, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n")
    handler.close_connection = True


def _no_answer(handler: Handler, _: bytes) -> None:
    handler.close_connection = True


def _loop(handler: Handler, body: bytes) -> None:
    _status(302, Location=handler.path)(handler, body)


_WAYS: list[tuple[Callable[[Handler, bytes], None], bool]] = [
    # What is done, and whether it ever gets better.
    (_status(500), True),
    (_status(503), True),
    (_status(429, Retry_After="1"), True),
    (_status(404), False),
    (_status(403), False),
    (_cut, True),
    (_stall, True),
    (_endless_chunk, True),
    (_no_answer, True),
    (_loop, False),
]


def misbehave(handler: Handler, name: str, times: int) -> bool:
    """Two files in three are served well. One that drips is slow, and whole."""
    choice = zlib.crc32(name.encode()) % (3 * (len(_WAYS) + 1))
    if choice == len(_WAYS):
        _drip(handler, FileServer.content(name))
        return True
    if choice > len(_WAYS):
        return False
    way, transient = _WAYS[choice]
    if transient and times > _TRANSIENT:
        return False
    way(handler, FileServer.content(name))
    return True
