"""To and from S3, against a server as strict as AWS's: what arrives, what is refused, and what is left behind when it breaks off."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from connectors.fetcher import open_lane
from connectors.lanes import QuickLane
from connectors.s3_uploads import MARK, MARK_NUMBER, MIB, PART, part_size
from export_service.messages import Outcome, Task, TaskResult
from export_service.settings import load
from export_service.transfer import Busy
from tests.unit.s3_server import KEY, REGION, SECRET, S3Server, error

AWKWARD = "a/ä b+c&d=e%f~'(1).bin"
"""A name whose every character has to be quoted rightly."""


class Bench:
    """A strict S3, and what a fetch process makes of it."""

    def __init__(self, server: S3Server, lane: QuickLane, folder: Path) -> None:
        self.server, self.lane, self.folder, self.destinations = server, lane, folder, lane._destinations

    async def run(self, url: str, to: str = "s3://target/p/", name: str = "f", **fields: Any) -> TaskResult:
        done: asyncio.Future[TaskResult | Busy] = asyncio.get_running_loop().create_future()
        self.lane.start(to, Task(index=0, url=url, name=name, **fields), url, done.set_result)
        ended = await asyncio.wait_for(done, 30)
        assert isinstance(ended, TaskResult)
        assert SECRET not in ended.to_bytes().decode()
        return ended

    async def write(self, body: bytes, size: int | None, key: str = "f") -> None:
        async with self.destinations.at("s3://target/p/").create(key, size) as sink:
            for first in range(0, len(body), 700_001):
                await sink.write(body[first : first + 700_001])

    @property
    def here(self) -> bytes:
        assert not self.server.uploads, "an upload is left"
        return self.server.objects["target/p/f"].body


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server, fatal = S3Server(), list[BaseException]()
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(server.serving())
        limits = {"attempts": 3, "timeout_seconds": 20, "upload_mib": 24, "allowed_networks": ""}
        settings = load(aws={"endpoint": endpoint, "region": REGION}, download=limits)
        lane = await open_lane(settings, stack, fatal.append)
        yield Bench(server, lane, tmp_path)
        await lane.stop()
    assert not fatal


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("knows_checksums", [True, False, None], ids=["checksums", "ignores them", "refuses them"])
@pytest.mark.parametrize("size", [0, 100, 20 * MIB])
@pytest.mark.parametrize("known", [True, False], ids=["known size", "unknown size"])
async def test_what_is_written_arrives_and_is_checked(bench: Bench, size: int, known: bool, knows_checksums: bool | None) -> None:
    body = os.urandom(size)
    bench.server.knows_checksums = knows_checksums
    await bench.write(body, size if known else None)
    assert bench.here == body
    if size < PART and knows_checksums:
        assert bench.server.objects["target/p/f"].sha256 is not None, "who copies it later has its hash"


async def test_an_upload_is_marked_as_ours_and_the_mark_is_not_in_the_object(bench: Bench) -> None:
    seen: list[bytes] = []

    def complete() -> None:
        (begun,) = bench.server.uploads.values()
        seen.append(begun.parts[MARK_NUMBER][0])

    bench.server.fail_once(r"POST .*\?uploadId", complete)
    body = os.urandom(9 * MIB)
    await bench.write(body, len(body))
    assert seen == [MARK]
    assert bench.here == body


@pytest.mark.parametrize("knows_checksums", [True, False])
async def test_a_part_that_is_damaged_on_its_way_is_sent_again(bench: Bench, knows_checksums: bool) -> None:
    body = os.urandom(17 * MIB)
    bench.server.knows_checksums = knows_checksums
    bench.server.damaged = 2
    await bench.write(body, len(body))
    assert bench.here == body


@pytest.mark.parametrize("status", [500, 503])
async def test_a_part_that_fails_is_sent_again_alone(bench: Bench, status: int) -> None:
    bench.server.fail_once("partNumber=2&", lambda: error(status, "SlowDown"))
    body = os.urandom(20 * MIB)
    await bench.write(body, len(body))
    assert bench.here == body
    assert sum("?uploads" in line for line in bench.server.asked) == 1


@pytest.mark.parametrize("how", ["refused", "broken off", "not completed", "cancelled"])
async def test_what_fails_leaves_no_upload(bench: Bench, how: str) -> None:
    body = os.urandom(20 * MIB)
    if how == "refused":
        bench.server.fail_once("partNumber=2&", lambda: error(403, "AccessDenied"))
    if how == "not completed":
        bench.server.fail_once(r"POST .*\?uploadId", lambda: error(200, "InternalError"))
    writing = asyncio.create_task(broken_off(bench, body) if how == "broken off" else bench.write(body, len(body)))
    if how == "cancelled":

        def cancel() -> None:
            writing.cancel()

        bench.server.fail_once("partNumber=2&", cancel)
    ended = (await asyncio.gather(writing, return_exceptions=True))[0]
    assert isinstance(ended, BaseException)
    assert not bench.server.uploads
    assert bench.server.aborted >= 1
    memory = bench.destinations._memory
    assert memory._left == memory._total


async def broken_off(bench: Bench, body: bytes) -> None:
    async with bench.destinations.at("s3://target/p/").create("f", len(body)) as sink:
        await sink.write(body)
        raise RuntimeError("broke off")


async def test_many_uploads_share_the_memory_there_is(bench: Bench) -> None:
    bodies = {f"f{n}": os.urandom(11 * MIB) for n in range(8)}
    memory = bench.destinations._memory
    least = memory._total

    def look(*_: Any) -> None:
        nonlocal least
        least = min(least, memory._left)

    bench.server.faults.append(look)
    await asyncio.gather(*(bench.write(body, len(body), key) for key, body in bodies.items()))
    assert 0 <= least < memory._total
    assert memory._left == memory._total
    assert {key: bench.server.objects[f"target/p/{key}"].body for key in bodies} == bodies


def test_10_000_parts_are_enough_for_the_largest_object() -> None:
    for size in (1, 80 * 1024 * MIB, 5 * 1024 * 1024 * MIB):
        assert part_size(size) * (MARK_NUMBER - 1) >= size
    assert sum(part_size(None) << (number // 1000) for number in range(1, MARK_NUMBER)) >= 5 * 1024 * 1024 * MIB


# Copies that S3 makes.


async def test_s3_copies_and_says_the_hash_and_no_byte_is_read(bench: Bench) -> None:
    body = os.urandom(3 * MIB)
    bench.server.put(f"source/{AWKWARD}", body, content_type="text/csv", x_amz_meta_a="b")
    result = await bench.run("s3://source/a/%C3%A4%20b+c&d=e%25f~'(1).bin")
    assert (result.outcome, result.bytes, result.sha256) == (Outcome.SUCCEEDED, len(body), sha256(body))
    assert bench.here == body
    assert bench.server.objects["target/p/f"].headers["content-type"] == "text/csv"
    assert [line.split()[0] for line in bench.server.asked] == ["HEAD", "PUT"]


async def test_where_s3_keeps_no_hash_none_is_reported(bench: Bench) -> None:
    bench.server.put("source/f", b"x" * 100)
    bench.server.knows_checksums = False
    result = await bench.run("s3://source/f")
    assert (result.outcome, result.bytes, result.sha256) == (Outcome.SUCCEEDED, 100, None)


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("right", [True, False])
async def test_a_hash_that_was_asked_for_is_known_before_the_copy(bench: Bench, keeps: bool, right: bool) -> None:
    bench.server.put("source/f", body := os.urandom(1000), sha256=keeps)
    result = await bench.run("s3://source/f", sha256=sha256(body if right else b""))
    assert (result.outcome, result.error) == ((Outcome.SUCCEEDED, None) if right else (Outcome.FAILED, "ChecksumMismatch"))
    assert ("target/p/f" in bench.server.objects) == right
    assert any(line.startswith("GET") for line in bench.server.asked) == (not keeps), "it is read if S3 does not know"


@pytest.mark.parametrize("wrong", [{"size": 5}, {}])
async def test_what_is_not_as_asked_for_is_not_copied(bench: Bench, wrong: dict[str, Any]) -> None:
    if wrong:
        bench.server.put("source/f", bytes(1000))
    result = await bench.run("s3://source/f", **wrong)
    assert result.error == ("SizeMismatch" if wrong else "ObjectNotFound")
    assert "target/p/f" not in bench.server.objects


@pytest.fixture
def in_parts(bench: Bench) -> None:
    """S3 copies no more than 6 MiB in one call."""
    copies = bench.destinations._copies
    copies._whole = copies._part = 6 * MIB


@pytest.mark.usefixtures("in_parts")
async def test_large_objects_are_copied_in_parts_with_their_headers(bench: Bench) -> None:
    body = os.urandom(20 * MIB)
    bench.server.put("source/f", body, content_type="text/csv", x_amz_meta_a="b")
    result = await bench.run("s3://source/f")
    assert (result.outcome, result.bytes, result.sha256) == (Outcome.SUCCEEDED, len(body), None)
    assert bench.here == body
    headers = {name.lower(): value for name, value in bench.server.objects["target/p/f"].headers.items()}
    assert headers == {"content-type": "text/csv", "x-amz-meta-a": "b"}
    assert not any(line.startswith("GET") for line in bench.server.asked)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("size", [1000, 20 * MIB], ids=["whole", "parts"])
async def test_a_source_that_changes_is_never_spliced(bench: Bench, size: int) -> None:
    old, new = os.urandom(size), os.urandom(size)
    bench.server.put("source/f", old)
    when = "PUT .*partNumber=3&" if size > MIB else "PUT"
    bench.server.fail_once(when, lambda: bench.server.put("source/f", new))
    result = await bench.run("s3://source/f")
    assert (result.outcome, result.attempts) == (Outcome.SUCCEEDED, 2)
    assert bench.here == new


@pytest.mark.parametrize("code", ["AccessDenied", "NotImplemented"])
async def test_what_s3_does_not_copy_is_read_and_written(bench: Bench, code: str) -> None:
    for number in range(3):
        bench.server.put(f"source/{number}", str(number).encode())
    bench.server.fail_once("PUT /target/p/0", lambda: error(403 if code == "AccessDenied" else 501, code))
    for number in range(3):
        result = await bench.run(f"s3://source/{number}", name=str(number))
        assert (result.outcome, result.sha256, result.attempts) == (Outcome.SUCCEEDED, sha256(str(number).encode()), 1)
        assert bench.server.objects[f"target/p/{number}"].body == str(number).encode()
    assert sum(line.startswith("HEAD") for line in bench.server.asked) == 1, "the refusal is remembered"


async def test_an_object_that_is_not_there_does_not_end_copies(bench: Bench) -> None:
    bench.server.put("source/f", b"1")
    assert (await bench.run("s3://source/none")).error == "ObjectNotFound"
    await bench.run("s3://source/f")
    assert not [line for line in bench.server.asked if line.startswith("GET /source/f")]


# Large files, in parts.


@pytest.fixture
def no_copies(bench: Bench) -> None:
    bench.server.copies = False


@pytest.mark.usefixtures("no_copies")
async def test_a_large_object_is_read_in_parts(bench: Bench) -> None:
    bench.server.put("source/f", body := os.urandom(30 * MIB))
    result = await bench.run("s3://source/f", sha256=sha256(body))
    assert (result.outcome, result.bytes, result.sha256) == (Outcome.SUCCEEDED, len(body), sha256(body))
    assert bench.here == body
    assert sum(line == "GET /source/f" for line in bench.server.asked) == 1 + 4


@pytest.mark.usefixtures("no_copies")
async def test_a_part_that_breaks_off_is_read_again_alone(bench: Bench) -> None:
    bench.server.put("source/f", body := os.urandom(30 * MIB))
    bench.server.faults.append(once_for_a_span(lambda: error(500, "InternalError"), bench))
    result = await bench.run("s3://source/f")
    assert (result.outcome, result.attempts, result.sha256) == (Outcome.SUCCEEDED, 1, sha256(body))
    assert bench.here == body


@pytest.mark.usefixtures("no_copies")
async def test_a_source_that_changes_between_its_parts_begins_anew(bench: Bench) -> None:
    bench.server.put("source/f", os.urandom(30 * MIB))
    new = os.urandom(30 * MIB)
    bench.server.faults.append(once_for_a_span(lambda: bench.server.put("source/f", new), bench))
    result = await bench.run("s3://source/f")
    assert (result.outcome, result.attempts, result.sha256) == (Outcome.SUCCEEDED, 2, sha256(new))
    assert bench.here == new


@pytest.mark.usefixtures("no_copies")
async def test_a_large_object_that_is_not_what_was_asked_for_gets_no_name(bench: Bench) -> None:
    bench.server.put("source/f", os.urandom(17 * MIB))
    assert (await bench.run("s3://source/f", sha256="0" * 64)).error == "ChecksumMismatch"
    assert "target/p/f" not in bench.server.objects
    assert not bench.server.uploads


def once_for_a_span(act: Any, bench: Bench) -> Any:
    """Acts on the second request for a span."""
    seen = 0

    def fault(request: web.Request, _: bytes) -> web.Response | None:
        nonlocal seen
        seen += "Range" in request.headers
        if seen == 2:
            bench.server.faults.remove(fault)
            return act()  # type: ignore[no-any-return]
        return None

    return fault


# Reading.


async def test_small_objects_come_to_a_folder_in_the_quick_lane(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = {str(number): os.urandom(1000) for number in range(5)}
    for name, body in bodies.items():
        bench.server.put(f"source/{name}", body)
    to = bench.folder.as_uri() + "/"
    place: Any = bench.destinations.at(to)
    place._pace.quick = True
    await bench.run("s3://source/0", to, "0")
    monkeypatch.setattr(bench.lane._tasks, "start", None)
    for name, body in bodies.items():
        result = await bench.run(f"s3://source/{name}", to, name)
        assert (result.outcome, result.sha256) == (Outcome.SUCCEEDED, sha256(body))
    assert {path.name: path.read_bytes() for path in bench.folder.iterdir()} == bodies


@pytest.mark.parametrize("quick", [True, False])
async def test_a_bucket_in_another_region_is_found_there(bench: Bench, quick: bool) -> None:
    bench.server.put("source/f", b"1")
    to = bench.folder.as_uri() + "/"
    place: Any = bench.destinations.at(to)
    place._pace.quick = quick
    await bench.run("s3://source/f", to)
    bench.server.region = "ap-south-1"
    for _ in range(2):
        assert (await bench.run("s3://source/f", to)).outcome is Outcome.SUCCEEDED
    assert len(bench.server.asked) == 4


async def test_credentials_that_have_expired_are_asked_for_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.server.put("source/f", b"1")
    to = bench.folder.as_uri() + "/"
    await bench.run("s3://source/f", to)
    bench.server.token = "session-2"
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session-2")
    clients: Any = bench.destinations._s3._clients
    clients._session._session._credentials = None
    result = await bench.run("s3://source/f", to)
    assert (result.outcome, result.attempts) == (Outcome.SUCCEEDED, 2)


async def test_without_credentials_it_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    result = await bench.run("s3://source/f")
    assert (result.error, result.attempts) == ("AwsNotConfigured", 1)
    assert result.message == "s3://source/ cannot be asked: NoCredentialsError"
