"""One file over HTTP into a folder, against a server that misbehaves in every way a test asks for."""

import asyncio
import gzip
import hashlib
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from connectors.destinations import StoreDestinations
from connectors.http_files import open_http
from connectors.lanes import QuickLane
from connectors.large_files import LargeFiles
from connectors.local_store import LocalFolder
from connectors.sources import Sources
from export_service.memory_share import MemoryShare
from export_service.messages import Outcome, Task, TaskResult
from export_service.settings import Download
from export_service.transfer import Busy, Limits, Transfers, TransferTasks

BODY = b"some content\n" * 1000


class Bench:
    def __init__(self, base: str, lanes: QuickLane, folder: Path, runner: web.AppRunner) -> None:
        self.base, self.lanes, self.folder, self.runner = base, lanes, folder, runner
        self.slept: list[float] = []
        self.seen: list[str] = []
        self.answers: list[Any] = []

    async def get(self, path: str = "/f", **fields: Any) -> TaskResult:
        ended = await self.ended(path, **fields)
        assert isinstance(ended, TaskResult)
        return ended

    async def ended(self, path: str = "/f", tried: int = 0, **fields: Any) -> TaskResult | Busy:
        url = self.base + path
        task = Task(index=0, url=url.partition("?")[0], name="out.bin", **fields)
        done: asyncio.Future[TaskResult | Busy] = asyncio.get_running_loop().create_future()
        self.lanes.start(self.folder.as_uri() + "/", task, url, done.set_result, tried)
        return await done

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture(params=[False, True], ids=["task", "quick lane"])
async def bench(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    settings = Download(attempts=3, stall_seconds=0.3, timeout_seconds=5, max_bytes=1_000_000, allowed_networks="127.0.0.1")
    async with serving(tmp_path, settings, quick=request.param) as made:
        yield made


@asynccontextmanager
async def serving(folder: Path, settings: Download, *, quick: bool = False) -> AsyncIterator[Bench]:
    async def handle(request: web.Request) -> web.StreamResponse:
        made.seen.append(request.raw_path)
        answer = made.answers.pop(0) if made.answers else web.Response(body=BODY)
        response: web.StreamResponse = await answer(request) if callable(answer) else answer
        return response

    errors: list[BaseException] = []
    app = web.Application()
    app.router.add_get("/{name:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with open_http(settings) as http:
            with ThreadPoolExecutor(2) as pool:

                async def sleep(seconds: float) -> None:
                    made.slept.append(seconds)

                sources = Sources({"http": http})
                destinations, limits = StoreDestinations(cast("Any", None), pool, MemoryShare(0)), Limits.of(settings)
                place = destinations.at(folder.as_uri() + "/")
                assert isinstance(place, LocalFolder)
                place._pace.quick = quick
                large = LargeFiles(settings, lambda: lanes.running)
                tasks = TransferTasks(Transfers(sources, destinations, limits, [large], sleep=sleep), errors.append)
                lanes = QuickLane(tasks, sources, destinations, limits)
                made = Bench(f"http://127.0.0.1:{port}", lanes, folder, runner)
                yield made
                await lanes.stop()
                assert not errors
    finally:
        await runner.cleanup()


async def test_a_file_arrives_with_its_size_and_hash_and_a_signed_query_byte_for_byte(bench: Bench) -> None:
    result = await bench.get("/a%20b?sig=x%2Fy%3D&z=%7E")
    assert (result.outcome, result.bytes, result.attempts) == (Outcome.SUCCEEDED, len(BODY), 1)
    assert result.sha256 == hashlib.sha256(BODY).hexdigest()
    assert bench.seen == ["/a%20b?sig=x%2Fy%3D&z=%7E"]
    assert bench.files() == {"out.bin": BODY}
    assert "sig" not in result.to_bytes().decode()


@pytest.mark.parametrize(
    ("status", "error", "tries"),
    [(404, "HttpNotFound", 1), (403, "HttpForbidden", 1), (400, "HttpClientError", 1), (502, "HttpServerError", 3)],
)
async def test_a_status_is_a_class_and_only_some_are_tried_again(bench: Bench, status: int, error: str, tries: int) -> None:
    bench.answers = [web.Response(status=status) for _ in range(3)]
    result = await bench.get("/f?secret=1")
    assert (result.outcome, result.error, result.attempts) == (Outcome.FAILED, error, tries)
    assert result.message is not None
    assert "secret" not in result.message
    assert bench.files() == {}


async def test_retry_after_is_heeded(bench: Bench) -> None:
    bench.answers = [web.Response(status=500, headers={"Retry-After": "7"}), web.Response(body=BODY)]
    result = await bench.get()
    assert (result.outcome, result.attempts) == (Outcome.SUCCEEDED, 2)
    assert 7 <= bench.slept[0] <= 60


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date", "none"])
async def test_a_busy_host_is_not_waited_for_here_and_says_how_long(bench: Bench, status: int, form: str) -> None:
    headers = {"seconds": {"Retry-After": "7"}, "date": {"Retry-After": formatdate(time.time() + 8, usegmt=True)}, "none": {}}[form]
    bench.answers = [web.Response(status=500), web.Response(status=status, headers=headers)]
    busy = await bench.ended(tried=1)
    assert isinstance(busy, Busy)
    assert (busy.failed.outcome, busy.failed.attempts, len(bench.slept)) == (Outcome.FAILED, 3, 1)
    assert busy.retry_after is None if form == "none" else 6 <= (busy.retry_after or 0) <= 8
    assert (await bench.get(tried=1)).attempts == 2


async def test_a_cut_body_is_never_a_file(bench: Bench) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(BODY))})
        await response.prepare(request)
        await response.write(BODY[:100])
        assert request.transport is not None
        request.transport.close()
        return response

    bench.answers = [cut, cut, cut]
    result = await bench.get()
    assert (result.outcome, result.error, result.attempts) == (Outcome.FAILED, "IncompleteRead", 3)
    assert bench.files() == {}


async def test_a_silent_source_is_given_up(bench: Bench) -> None:
    async def silent(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(5)
        return web.Response(body=BODY)

    bench.answers = [silent, web.Response(body=BODY)]
    result = await bench.get()
    assert (result.outcome, result.attempts) == (Outcome.SUCCEEDED, 2)


async def test_redirects_are_followed_but_not_for_ever_and_not_elsewhere(bench: Bench) -> None:
    bench.answers = [web.Response(status=302, headers={"Location": "/other?x=1"}), web.Response(body=BODY)]
    assert (await bench.get()).outcome is Outcome.SUCCEEDED
    assert bench.seen[-1] == "/other?x=1"
    bench.answers = [web.Response(status=302, headers={"Location": "/f"}) for _ in range(9)]
    assert (await bench.get()).error == "TooManyRedirects"
    bench.answers = [web.Response(status=302, headers={"Location": "file:///etc/passwd"})]
    assert (await bench.get()).error == "RedirectRefused"


async def test_compressed_content_stays_as_the_source_has_it(bench: Bench) -> None:
    packed = gzip.compress(BODY)
    bench.answers = [web.Response(body=packed, headers={"Content-Encoding": "gzip"})]
    assert (await bench.get()).outcome is Outcome.SUCCEEDED
    assert bench.files() == {"out.bin": packed}


async def test_what_is_not_what_was_promised_never_gets_its_name(bench: Bench) -> None:
    assert (await bench.get(sha256="0" * 64)).error == "ChecksumMismatch"
    assert (await bench.get(size=5)).error == "SizeMismatch"
    bench.answers = [web.Response(body=b"x" * 1_000_001)]
    assert (await bench.get()).error == "TooLarge"
    assert bench.files() == {}


async def test_no_server_and_a_folder_that_cannot_be_are_failures_with_a_class(bench: Bench) -> None:
    bench.base = "http://127.0.0.1:9"
    assert (await bench.get()).error == "ConnectionFailed"
    bench.base = bench.base.replace("http", "gopher")
    assert (await bench.get()).error == "UnknownScheme"


async def test_a_cancelled_transfer_leaves_nothing(bench: Bench) -> None:
    started = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "900000"})
        await response.prepare(request)
        await response.write(b"x" * 500_000)
        started.set()
        await asyncio.sleep(5)
        return response

    bench.answers = [slow]
    task = asyncio.create_task(bench.get())
    await asyncio.wait_for(started.wait(), 5)
    await bench.lanes.stop()
    assert bench.files() == {}
    assert not task.done(), "a stopped transfer has no outcome"
    task.cancel()


async def test_a_folder_that_vanishes_is_made_again(bench: Bench) -> None:
    sub = bench.folder / "gone"
    bench.folder = sub
    assert (await bench.get()).outcome is Outcome.SUCCEEDED
    (sub / "out.bin").unlink()
    sub.rmdir()
    assert (await bench.get()).outcome is Outcome.SUCCEEDED
    assert bench.files() == {"out.bin": BODY}
