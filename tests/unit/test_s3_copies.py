"""From S3 to S3, by S3 itself or in parts that are read here: one version of the source, whole, or nothing."""

import asyncio
import os
from typing import Any

import pytest
from aiohttp import web

from connectors.s3_uploads import MIB
from export_service.messages import Outcome, Task, TaskResult
from export_service.transfer import Busy
from tests.unit.conftest import S3Bench, sha256
from tests.unit.s3_server import error

AWKWARD = "a/ä b+c&d=e%f~'(1).bin"
"""A name whose every character has to be quoted rightly."""


# Copies that S3 makes.


async def test_s3_copies_and_says_the_hash_and_no_byte_is_read(s3: S3Bench) -> None:
    body = os.urandom(3 * MIB)
    s3.server.put(f"source/{AWKWARD}", body, content_type="text/csv", x_amz_meta_a="b")
    result = await s3.run("s3://source/a/%C3%A4%20b+c&d=e%25f~'(1).bin")
    assert (result.outcome, result.bytes, result.sha256) == (Outcome.SUCCEEDED, len(body), sha256(body))
    assert s3.here == body
    assert s3.server.objects["target/p/f"].headers["content-type"] == "text/csv"
    assert [line.split()[0] for line in s3.server.asked] == ["HEAD", "PUT"]


async def test_where_s3_keeps_no_hash_none_is_reported(s3: S3Bench) -> None:
    s3.server.put("source/f", b"x" * 100)
    s3.server.knows_checksums = False
    result = await s3.run("s3://source/f")
    assert (result.outcome, result.bytes, result.sha256) == (Outcome.SUCCEEDED, 100, None)


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("right", [True, False])
async def test_a_hash_that_was_asked_for_is_known_before_the_copy(s3: S3Bench, keeps: bool, right: bool) -> None:
    s3.server.put("source/f", body := os.urandom(1000), sha256=keeps)
    result = await s3.run("s3://source/f", sha256=sha256(body if right else b""))
    assert (result.outcome, result.error) == ((Outcome.SUCCEEDED, None) if right else (Outcome.FAILED, "ChecksumMismatch"))
    assert ("target/p/f" in s3.server.objects) == right
    assert any(line.startswith("GET") for line in s3.server.asked) == (not keeps), "it is read if S3 does not know"


@pytest.mark.parametrize("wrong", [{"size": 5}, {}])
async def test_what_is_not_as_asked_for_is_not_copied(s3: S3Bench, wrong: dict[str, Any]) -> None:
    if wrong:
        s3.server.put("source/f", bytes(1000))
    result = await s3.run("s3://source/f", **wrong)
    assert result.error == ("SizeMismatch" if wrong else "ObjectNotFound")
    assert "target/p/f" not in s3.server.objects


@pytest.fixture
def in_parts(s3: S3Bench) -> None:
    """S3 copies no more than 6 MiB in one call."""
    copies = s3.destinations._copies
    copies._whole = copies._part = 6 * MIB


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("value", ["a  b   c", "", "a;b", "Ärger in Å, à"])
async def test_headers_that_are_hard_to_sign_come_along(s3: S3Bench, value: str) -> None:
    s3.server.put("source/f", body := os.urandom(7 * MIB), x_amz_meta_a=value)
    result = await s3.run("s3://source/f")
    assert (result.outcome, result.error) == (Outcome.SUCCEEDED, None)
    assert not any(line.startswith("GET") for line in s3.server.asked), "S3 copied it"
    assert s3.here == body
    assert s3.server.objects["target/p/f"].headers["x-amz-meta-a"] == value


async def test_an_answer_that_ends_before_it_says_anything_is_no_copy(s3: S3Bench) -> None:
    s3.server.put("source/f", b"x" * 100)
    s3.server.fail_once("PUT", lambda: web.Response(body=b" "))
    result = await s3.run("s3://source/f")
    assert (result.outcome, result.attempts) == (Outcome.SUCCEEDED, 2)
    assert s3.here == b"x" * 100


@pytest.mark.usefixtures("in_parts")
async def test_large_objects_are_copied_in_parts_with_their_headers(s3: S3Bench) -> None:
    body = os.urandom(20 * MIB)
    s3.server.put("source/f", body, content_type="text/csv", x_amz_meta_a="b")
    result = await s3.run("s3://source/f")
    assert (result.outcome, result.bytes, result.sha256) == (Outcome.SUCCEEDED, len(body), None)
    assert s3.here == body
    headers = {name.lower(): value for name, value in s3.server.objects["target/p/f"].headers.items()}
    assert headers == {"content-type": "text/csv", "x-amz-meta-a": "b"}
    assert not any(line.startswith("GET") for line in s3.server.asked)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("size", [1000, 20 * MIB], ids=["whole", "parts"])
async def test_a_source_that_changes_is_never_spliced(s3: S3Bench, size: int) -> None:
    old, new = os.urandom(size), os.urandom(size)
    s3.server.put("source/f", old)
    when = "PUT .*partNumber=3&" if size > MIB else "PUT"
    s3.server.fail_once(when, lambda: s3.server.put("source/f", new))
    result = await s3.run("s3://source/f")
    assert (result.outcome, result.attempts) == (Outcome.SUCCEEDED, 2)
    assert s3.here == new


@pytest.mark.parametrize("code", ["AccessDenied", "NotImplemented"])
async def test_what_s3_does_not_copy_is_read_and_written(s3: S3Bench, code: str) -> None:
    for number in range(3):
        s3.server.put(f"source/{number}", str(number).encode())
    for _ in range(2):  # once with a checksum asked for, once without
        s3.server.fail_once("PUT /target/p/0", lambda: error(403 if code == "AccessDenied" else 501, code))
    if code == "AccessDenied":
        s3.server.faults.pop()
    for number in range(3):
        result = await s3.run(f"s3://source/{number}", name=str(number))
        assert (result.outcome, result.sha256, result.attempts) == (Outcome.SUCCEEDED, sha256(str(number).encode()), 1)
        assert s3.server.objects[f"target/p/{number}"].body == str(number).encode()
    assert sum(line.startswith("HEAD") for line in s3.server.asked) == 1, "the refusal is remembered"


async def test_an_object_that_is_not_there_does_not_end_copies(s3: S3Bench) -> None:
    s3.server.put("source/f", b"1")
    assert (await s3.run("s3://source/none")).error == "ObjectNotFound"
    await s3.run("s3://source/f")
    assert not [line for line in s3.server.asked if line.startswith("GET /source/f")]


@pytest.mark.parametrize("way", ["folder", "copy"])
async def test_a_source_that_asks_for_fewer_requests_is_busy(s3: S3Bench, way: str) -> None:
    s3.server.put("source/f", b"1")
    s3.server.fail_once("GET" if way == "folder" else "PUT", lambda: error(503, "SlowDown"))
    done: asyncio.Future[TaskResult | Busy] = asyncio.get_running_loop().create_future()
    to = s3.folder.as_uri() + "/" if way == "folder" else "s3://target/p/"
    s3.lane.start(to, Task(index=0, url="s3://source/f", name="f"), "s3://source/f", done.set_result)
    ended = await asyncio.wait_for(done, 30)
    assert isinstance(ended, Busy)
    assert ended.failed.error == "SlowDown"


async def test_a_destination_that_asks_for_fewer_is_not_taken_for_the_source(s3: S3Bench) -> None:
    s3.server.put("source/f", b"1")
    s3.server.copies = False
    s3.server.fail_once("PUT /target/p/f", lambda: error(501, "NotImplemented"))
    s3.server.fail_once("PUT /target/p/f", lambda: error(501, "NotImplemented"))
    s3.server.fail_once("PUT /target/p/f", lambda: error(503, "SlowDown"))
    result = await s3.run("s3://source/f")
    assert (result.outcome, result.attempts) == (Outcome.SUCCEEDED, 2)


async def test_a_store_that_copies_and_knows_no_checksums_copies(s3: S3Bench) -> None:
    s3.server.put("source/f", b"1")
    s3.server.fail_once("PUT /target/p/f", lambda: error(400, "InvalidArgument"))
    assert (await s3.run("s3://source/f")).outcome is Outcome.SUCCEEDED
    assert not any(line.startswith("GET") for line in s3.server.asked)


# Large files, in parts.


@pytest.fixture
def no_copies(s3: S3Bench) -> None:
    s3.server.copies = False


@pytest.mark.usefixtures("no_copies")
async def test_a_large_object_is_read_in_parts(s3: S3Bench) -> None:
    s3.server.put("source/f", body := os.urandom(30 * MIB))
    result = await s3.run("s3://source/f", sha256=sha256(body))
    assert (result.outcome, result.bytes, result.sha256) == (Outcome.SUCCEEDED, len(body), sha256(body))
    assert s3.here == body
    assert sum(line == "GET /source/f" for line in s3.server.asked) == 1 + 4


@pytest.mark.usefixtures("no_copies")
async def test_a_part_that_breaks_off_is_read_again_alone(s3: S3Bench) -> None:
    s3.server.put("source/f", body := os.urandom(30 * MIB))
    s3.server.faults.append(once_for_a_span(lambda: error(500, "InternalError"), s3))
    result = await s3.run("s3://source/f")
    assert (result.outcome, result.attempts, result.sha256) == (Outcome.SUCCEEDED, 1, sha256(body))
    assert s3.here == body


@pytest.mark.usefixtures("no_copies")
async def test_a_source_that_changes_between_its_parts_begins_anew(s3: S3Bench) -> None:
    s3.server.put("source/f", os.urandom(30 * MIB))
    new = os.urandom(30 * MIB)
    s3.server.faults.append(once_for_a_span(lambda: s3.server.put("source/f", new), s3))
    result = await s3.run("s3://source/f")
    assert (result.outcome, result.attempts, result.sha256) == (Outcome.SUCCEEDED, 2, sha256(new))
    assert s3.here == new


@pytest.mark.usefixtures("no_copies")
async def test_a_large_object_that_is_not_what_was_asked_for_gets_no_name(s3: S3Bench) -> None:
    s3.server.put("source/f", os.urandom(17 * MIB))
    assert (await s3.run("s3://source/f", sha256="0" * 64)).error == "ChecksumMismatch"
    assert "target/p/f" not in s3.server.objects
    assert not s3.server.uploads


@pytest.mark.parametrize("spans", [True, False])
async def test_a_large_file_from_http_is_read_in_parts_if_it_can_be(s3: S3Bench, spans: bool) -> None:
    body, asked = os.urandom(20 * MIB), list[str]()

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.headers.get("Range", "all"))
        headers = {"ETag": '"1"', "Accept-Ranges": "bytes"}
        if not spans or "Range" not in request.headers:
            return web.Response(body=body, headers=headers)
        first, last = map(int, asked[-1].removeprefix("bytes=").split("-"))
        headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
        return web.Response(status=206, body=body[first : last + 1], headers=headers)

    app = web.Application()
    app.router.add_get("/f", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        result = await s3.run(f"http://127.0.0.1:{runner.addresses[0][1]}/f")
    finally:
        await runner.cleanup()
    assert (result.outcome, result.sha256, result.attempts) == (Outcome.SUCCEEDED, sha256(body), 1 if spans else 2)
    assert s3.here == body
    assert asked.count("all") == (1 if spans else 2), "a source that lies about its parts is read whole"


def once_for_a_span(act: Any, s3: S3Bench) -> Any:
    """Acts on the second request for a span."""
    seen = 0

    def fault(request: web.Request, _: bytes) -> web.Response | None:
        nonlocal seen
        seen += "Range" in request.headers
        if seen == 2:
            s3.server.faults.remove(fault)
            return act()  # type: ignore[no-any-return]
        return None

    return fault
