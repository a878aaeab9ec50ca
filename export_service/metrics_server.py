"""The port that operators ask: /metrics, /livez, /readyz, /startupz. In the worker's own loop, so that a worker that hangs does not answer.

It speaks as much HTTP as Prometheus, a kubelet and curl need: one GET or HEAD a connection.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from export_service.failures import SettingsError
from export_service.settings import Metrics as Settings

_SECONDS = 5.0
"""For a request to come and its answer to go."""
_MOST_HEADERS = 100


class Page(NamedTuple):
    status: HTTPStatus
    type: str
    body: bytes


Pages = Mapping[str, Callable[[str], Page]]
"""Path -> what it gives, told the request's Accept header."""


def metrics_page(registry: CollectorRegistry) -> Callable[[str], Page]:
    def page(accept: str) -> Page:
        encode, content_type = choose_encoder(accept)
        return Page(HTTPStatus.OK, content_type, encode(registry))

    return page


def probe(troubles: Callable[[], list[str]]) -> Callable[[str], Page]:
    """200, or 503 with a sentence for each trouble."""

    def page(_: str) -> Page:
        found = troubles()
        body = json.dumps({"ok": not found, "troubles": found}) + "\n"
        return Page(HTTPStatus.SERVICE_UNAVAILABLE if found else HTTPStatus.OK, "application/json", body.encode())

    return page


@asynccontextmanager
async def serve(settings: Settings, pages: Pages) -> AsyncIterator[int | None]:
    """Answer until the end of the context; its value is the port, None if the settings name none.

    Raises SettingsError if the port is taken.
    """
    if settings.port is None:
        yield None
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whoever hangs up, is slow, or does not speak HTTP gets nothing.
        with suppress(OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_SECONDS):
                await _answer(reader, writer, pages)
        writer.close()

    try:
        server = await asyncio.start_server(answer, settings.host, settings.port)
    except OSError as error:
        # asyncio's own text has the address in it once more; the number of an address that is not known is no errno.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise SettingsError(
            f"EXPORT_METRICS_PORT={settings.port}: cannot listen on {settings.host}: {why}; choose another port"
        ) from None
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await server.wait_closed()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pages: Pages) -> None:
    method, target, _ = (await reader.readline()).decode("latin-1").split(maxsplit=2)
    accept = ""
    for _ in range(_MOST_HEADERS):
        name, _, value = (await reader.readline()).decode("latin-1").partition(":")
        if not name.strip():
            break
        if name.lower() == "accept":
            accept = value.strip()
    page = pages.get(target.partition("?")[0])
    if method not in ("GET", "HEAD"):
        answer = Page(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"GET only\n")
    elif page is None:
        answer = Page(HTTPStatus.NOT_FOUND, "text/plain", f"here are: {' '.join(pages)}\n".encode())
    else:
        answer = page(accept)
    head = {"Content-Type": answer.type, "Content-Length": len(answer.body), "Cache-Control": "no-store", "Connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    writer.write(f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n{lines}\r\n".encode())
    if method != "HEAD":
        writer.write(answer.body)
    await writer.drain()
