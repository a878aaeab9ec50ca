"""Sources that mean harm, over real sockets: addresses that are not public, in any disguise, and answers without end."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pycurl
import pytest
from aiohttp import web

from connectors import curl, curl_handle, http_files
from export_service.failures import TransferError
from export_service.messages import Outcome
from export_service.settings import Download
from tests.unit.test_transfer import BODY, Bench, serving

LANES = pytest.mark.parametrize("quick", [False, True], ids=["task", "quick lane"])


def limits(allowed: str = "127.0.0.1", **more: Any) -> Download:
    return Download(
        **{"attempts": 2, "stall_seconds": 3, "timeout_seconds": 5, "max_bytes": 300_000} | more, allowed_networks=allowed
    )


@pytest.fixture
async def open_bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with serving(tmp_path, limits(), quick=True) as made:
        yield made


def redirect(to: str) -> web.Response:
    return web.Response(status=302, headers={"Location": to})


HOSTS = [
    *("127.0.0.1", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "%31%32%37.0.0.1"),
    *("127.0.0.1.", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"),
]


@LANES
async def test_no_way_to_write_an_address_that_is_not_public_connects(tmp_path: Path, quick: bool) -> None:
    async with serving(tmp_path, limits(allowed=""), quick=quick) as bench:
        port = bench.base.rpartition(":")[2]
        for host in HOSTS:
            bench.base = f"http://{host}:{port}"
            result = await bench.get("/f?secret=1")
            assert (result.outcome, result.error, result.attempts) == (Outcome.FAILED, "AddressRefused", 1), host
            assert result.message is not None
            assert host in result.message
            assert "EXPORT_DOWNLOAD_ALLOWED_NETWORKS" in result.message
            assert "secret" not in result.message
        assert bench.seen == [], "nothing was sent"


async def test_cloud_metadata_is_no_exception() -> None:
    async with http_files.open_http(Download()) as http:
        for host in ("169.254.169.254", "[fd00:ec2::254]", "[fe80::a9fe:a9fe]"):
            with pytest.raises(TransferError, match="AddressRefused"):
                async with http.open(f"http://{host}/latest/meta-data/"):
                    pass


async def second_address(bench: Bench) -> str:
    """The same server on 127.0.0.2, which answers whoever gets through."""
    port = int(bench.base.rpartition(":")[2])
    await web.TCPSite(bench.runner, "127.0.0.2", port).start()
    return f"http://127.0.0.2:{port}"


@LANES
async def test_a_redirect_is_judged_where_it_leads(tmp_path: Path, quick: bool) -> None:
    async with serving(tmp_path, limits(), quick=quick) as bench:
        bench.answers = [redirect(await second_address(bench) + "/inside")]
        result = await bench.get()
        assert (result.outcome, result.error) == (Outcome.FAILED, "AddressRefused")
        assert result.message is not None
        assert "127.0.0.2" in result.message
        assert bench.seen == ["/f"]


async def test_a_name_is_judged_again_at_each_connection(open_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, port = open_bench, open_bench.base.rpartition(":")[2]
    await second_address(bench)
    handles: list[pycurl.Curl] = []
    make, dns = curl_handle.new_handle, ["127.0.0.1"]

    def resolve(handle: pycurl.Curl) -> pycurl.Curl:
        handle.setopt(pycurl.RESOLVE, [f"-files.example:{port}", f"files.example:{port}:{dns[0]}"])
        return handle

    def resolving(settings: Download) -> pycurl.Curl:
        handles.append(resolve(make(settings)))
        return handles[-1]

    monkeypatch.setattr(curl, "new_handle", resolving)
    bench.base = f"http://files.example:{port}"
    bench.answers = [web.Response(body=BODY, headers={"Connection": "close"})]
    assert (await bench.get()).outcome is Outcome.SUCCEEDED
    dns[0] = "127.0.0.2"
    for handle in handles:
        resolve(handle)
    assert (await bench.get()).error == "AddressRefused"
    assert len(bench.seen) == 1
    dns[0] = "127.0.0.2,127.0.0.1"
    async with http_files.open_http(limits()) as http, http.open(bench.base) as found:
        assert found.size == len(BODY), "one of its addresses may be connected to"
    dns[0] = "127.0.0.2,127.0.0.3"
    async with http_files.open_http(limits("127.0.0.3")) as http:
        with pytest.raises(TransferError, match="ConnectionFailed") as caught:
            await http.open(bench.base).__aenter__()
        assert caught.value.retryable, "the one that may be is down"


async def test_a_proxy_of_the_environment_is_not_asked(open_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await open_bench.get()).outcome is Outcome.SUCCEEDED


@LANES
async def test_a_redirect_stays_below_the_allowed_urls(tmp_path: Path, quick: bool) -> None:
    settings = limits(allowed="127.0.0.0/8", allowed_urls=("http://127.0.0.1:1/",))
    async with serving(tmp_path, settings, quick=quick) as bench:
        bench.answers = [redirect(await second_address(bench) + "/?secret=1")]
        result = await bench.get()
        assert result.error == "RedirectRefused"
        assert result.message is not None
        assert "EXPORT_DOWNLOAD_ALLOWED_URLS" in result.message
        assert "secret" not in result.message


async def test_a_redirect_gets_nothing_that_belongs_to_another_host(open_bench: Bench) -> None:
    bench, sent = open_bench, []

    async def seen(request: web.Request) -> web.Response:
        sent.append({name: value for name, value in request.headers.items() if name not in ("Host", "User-Agent")})
        return web.Response(body=BODY)

    first = redirect("http://localhost:" + bench.base.rpartition(":")[2])
    first.set_cookie("session", "secret")
    bench.answers = [first, seen]
    assert (await bench.get()).outcome is Outcome.SUCCEEDED
    # libcurl leaves user and password out of a redirect's target.
    bench.answers = [redirect(bench.base.replace("//", "//user:hunter2@") + "/x"), seen]
    assert (await bench.get()).outcome is Outcome.SUCCEEDED
    assert sent == [{"Accept": "*/*", "Accept-Encoding": "identity"}] * 2, "no Cookie, Authorization or Referer"


def test_https_does_not_redirect_to_http() -> None:
    with pytest.raises(TransferError, match=r"RedirectRefused: .* redirects from https to http"):
        http_files._next_hop("https://a/", "http://a/", "https://a/", ())
    assert http_files._next_hop("http://a/", "https://a/x", "http://a/", ()) == "https://a/x"


async def endless(request: web.Request, head: bytes, more: bytes, pause: float = 0) -> web.Response:
    """Sends `more` until nobody listens."""
    assert request.transport is not None
    request.transport.write(head)
    while not request.transport.is_closing():
        request.transport.write(more)
        await asyncio.sleep(pause)
    return web.Response()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@LANES
@pytest.mark.parametrize(
    ("head", "more", "error"),
    [
        (CHUNKED, b"2000\r\n" + b"x" * 0x2000 + b"\r\n", "TooLarge"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x" * 8192, "TooLarge"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9000000000\r\n\r\n" + b"x" * 270_000, b"", "TooLarge"),
        (b"HTTP/1.1 200 OK\r\n", b"X-Flood: " + b"x" * 1000 + b"\r\n", "IncompleteRead"),
        (b"HTTP/1.1 200 OK\r\nX-Flood: ", b"x" * 1000, "HttpProtocolError"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, "IncompleteRead"),
        (CHUNKED + b"1\r\nx\r\n0\r\n", b"X-Flood: " + b"x" * 1000 + b"\r\n", "IncompleteRead"),
    ],
    ids=["chunks", "until closed", "announced", "headers", "one header", "100s", "trailers"],
)
async def test_what_has_no_end_is_ended(tmp_path: Path, quick: bool, head: bytes, more: bytes, error: str) -> None:
    async with serving(tmp_path, limits(timeout_seconds=60, attempts=1), quick=quick) as bench:
        bench.answers = [lambda request: endless(request, head, more)]
        result = await asyncio.wait_for(bench.get(), 10)
        assert (result.outcome, result.error) == (Outcome.FAILED, error)
        assert bench.files() == {}


@LANES
async def test_a_trickle_is_ended_by_the_time_for_one_try(tmp_path: Path, quick: bool) -> None:
    async with serving(tmp_path, limits(timeout_seconds=0.4, attempts=1), quick=quick) as bench:
        bench.answers = [lambda request: endless(request, CHUNKED, b"1\r\nx\r\n", pause=0.05)]
        started = time.monotonic()
        assert (await bench.get()).error == "Timeout"
        assert time.monotonic() - started < 3
        assert bench.files() == {}


async def test_more_than_was_announced_is_not_taken(open_bench: Bench) -> None:
    open_bench.answers = [lambda request: endless(request, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"x" * 100)]
    assert (await open_bench.get()).bytes == 5


async def test_a_transfer_encoding_that_was_not_asked_for_is_not_unpacked(open_bench: Bench) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    open_bench.answers = [lambda request: endless(request, head, b"1\r\nx\r\n")] * 2
    assert (await open_bench.get()).error == "HttpProtocolError"
    assert open_bench.files() == {}
