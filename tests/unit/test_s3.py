"""To and from S3, against a server as strict as AWS's: what arrives, what is refused, and what is left behind when it breaks off."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from connectors.aws import Clients
from connectors.s3_uploads import MARK, MARK_NUMBER, MIB, PART, part_size
from export_service.failures import TransferError
from export_service.messages import Outcome
from tests.unit.conftest import S3Bench, sha256
from tests.unit.s3_server import error


@pytest.mark.parametrize("knows_checksums", [True, False, None], ids=["checksums", "ignores them", "refuses them"])
@pytest.mark.parametrize("size", [0, 100, 20 * MIB])
@pytest.mark.parametrize("known", [True, False], ids=["known size", "unknown size"])
async def test_what_is_written_arrives_and_is_checked(s3: S3Bench, size: int, known: bool, knows_checksums: bool | None) -> None:
    body = os.urandom(size)
    s3.server.knows_checksums = knows_checksums
    await s3.write(body, size if known else None)
    assert s3.here == body
    if size < PART and knows_checksums:
        assert s3.server.objects["target/p/f"].sha256 is not None, "who copies it later has its hash"


async def test_an_upload_is_marked_as_ours_and_the_mark_is_not_in_the_object(s3: S3Bench) -> None:
    seen: list[bytes] = []

    def complete() -> None:
        (begun,) = s3.server.uploads.values()
        seen.append(begun.parts[MARK_NUMBER][0])

    s3.server.fail_once(r"POST .*\?uploadId", complete)
    body = os.urandom(9 * MIB)
    await s3.write(body, len(body))
    assert seen == [MARK]
    assert s3.here == body


@pytest.mark.parametrize("call", ["POST .*uploads", "POST .*uploadId"])
async def test_an_answer_that_ends_before_it_says_anything_is_no_success(s3: S3Bench, call: str) -> None:
    s3.server.put("target/p/f", b"old")
    s3.server.fail_once(call, lambda: web.Response(body=b" "))
    body = os.urandom(9 * MIB)
    if "uploads" in call:
        await s3.write(body, None)  # asked again
        assert s3.here == body
    else:
        with pytest.raises(TransferError, match="200 without ETag"):
            await s3.write(body, None)
        assert s3.here == b"old"


@pytest.mark.parametrize("call", ["PUT .*partNumber=2", "POST .*uploadId"])
async def test_an_upload_that_somebody_aborts_begins_anew(s3: S3Bench, call: str) -> None:
    s3.server.put("source/f", body := os.urandom(17 * MIB))
    s3.destinations._copies._refused["source", "target"] = 1e12
    s3.server.fail_once(call, s3.server.uploads.clear)
    result = await s3.run("s3://source/f")
    assert (result.outcome, result.attempts) == (Outcome.SUCCEEDED, 2)
    assert s3.here == body


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (ClientError({"Error": {"Code": "Throttling"}, "ResponseMetadata": {"HTTPStatusCode": 400}}, "AssumeRole"), 3),
        (ClientError({"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "AssumeRole"), 1),
        (EndpointConnectionError(endpoint_url="https://sts"), 3),
        (NoCredentialsError(), 1),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_whoever_gives_credentials_may_fail(
    s3: S3Bench, monkeypatch: pytest.MonkeyPatch, error: Exception, tries: int
) -> None:
    async def refuse(_: Clients) -> None:
        raise error

    monkeypatch.setattr(Clients, "credentials", refuse)
    result = await s3.run("s3://source/f")
    assert (result.outcome, result.attempts) == (Outcome.FAILED, tries)
    assert result.error == ("AwsUnavailable" if tries > 1 else "AwsNotConfigured")


async def test_a_size_that_is_too_small_costs_no_memory(s3: S3Bench) -> None:
    s3.server.put("source/f", bytes(40 * MIB))
    s3.destinations._copies._refused["source", "target"] = 1e12
    result = await s3.run("s3://source/f", size=1)
    assert (result.error, result.bytes) == ("SizeMismatch", 0)
    assert not any("uploads" in line for line in s3.server.asked), "not one part was gathered"


@pytest.mark.parametrize("knows_checksums", [True, False])
async def test_a_part_that_is_damaged_on_its_way_is_sent_again(s3: S3Bench, knows_checksums: bool) -> None:
    body = os.urandom(17 * MIB)
    s3.server.knows_checksums = knows_checksums
    s3.server.damaged = 2
    await s3.write(body, len(body))
    assert s3.here == body


@pytest.mark.parametrize("status", [500, 503])
async def test_a_part_that_fails_is_sent_again_alone(s3: S3Bench, status: int) -> None:
    s3.server.fail_once("partNumber=2&", lambda: error(status, "SlowDown"))
    body = os.urandom(20 * MIB)
    await s3.write(body, len(body))
    assert s3.here == body
    assert sum("?uploads" in line for line in s3.server.asked) == 1


@pytest.mark.parametrize("how", ["refused", "broken off", "not completed", "cancelled"])
async def test_what_fails_leaves_no_upload(s3: S3Bench, how: str) -> None:
    body = os.urandom(20 * MIB)
    if how == "refused":
        s3.server.fail_once("partNumber=2&", lambda: error(403, "AccessDenied"))
    if how == "not completed":
        s3.server.fail_once(r"POST .*\?uploadId", lambda: error(200, "InternalError"))
    writing = asyncio.create_task(broken_off(s3, body) if how == "broken off" else s3.write(body, len(body)))
    if how == "cancelled":

        def cancel() -> None:
            writing.cancel()

        s3.server.fail_once("partNumber=2&", cancel)
    ended = (await asyncio.gather(writing, return_exceptions=True))[0]
    assert isinstance(ended, BaseException)
    assert not s3.server.uploads
    assert s3.server.aborted >= 1
    memory = s3.destinations._memory
    assert memory._left == memory._total


async def broken_off(s3: S3Bench, body: bytes) -> None:
    async with s3.destinations.at("s3://target/p/").create("f", len(body)) as sink:
        await sink.write(body)
        raise RuntimeError("broke off")


async def test_many_uploads_share_the_memory_there_is(s3: S3Bench) -> None:
    bodies = {f"f{n}": os.urandom(11 * MIB) for n in range(8)}
    memory = s3.destinations._memory
    least = memory._total

    def look(*_: Any) -> None:
        nonlocal least
        least = min(least, memory._left)

    s3.server.faults.append(look)
    await asyncio.gather(*(s3.write(body, len(body), key) for key, body in bodies.items()))
    assert 0 <= least < memory._total
    assert memory._left == memory._total
    assert {key: s3.server.objects[f"target/p/{key}"].body for key in bodies} == bodies


def test_10_000_parts_are_enough_for_the_largest_object() -> None:
    for size in (1, 80 * 1024 * MIB, 5 * 1024 * 1024 * MIB):
        assert part_size(size) * (MARK_NUMBER - 1) >= size
    assert sum(part_size(None) << (number // 1000) for number in range(1, MARK_NUMBER)) >= 5 * 1024 * 1024 * MIB


# Reading.


async def test_small_objects_come_to_a_folder_in_the_quick_lane(s3: S3Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = {str(number): os.urandom(1000) for number in range(5)}
    for name, body in bodies.items():
        s3.server.put(f"source/{name}", body)
    to = s3.folder.as_uri() + "/"
    place: Any = s3.destinations.at(to)
    place._pace.quick = True
    await s3.run("s3://source/0", to, "0")
    monkeypatch.setattr(s3.lane._tasks, "start", None)
    for name, body in bodies.items():
        result = await s3.run(f"s3://source/{name}", to, name)
        assert (result.outcome, result.sha256) == (Outcome.SUCCEEDED, sha256(body))
    assert {path.name: path.read_bytes() for path in s3.folder.iterdir()} == bodies


@pytest.mark.parametrize("quick", [True, False])
async def test_a_bucket_in_another_region_is_found_there(s3: S3Bench, quick: bool) -> None:
    s3.server.put("source/f", b"1")
    to = s3.folder.as_uri() + "/"
    place: Any = s3.destinations.at(to)
    place._pace.quick = quick
    await s3.run("s3://source/f", to)
    s3.server.region = "ap-south-1"
    for _ in range(2):
        assert (await s3.run("s3://source/f", to)).outcome is Outcome.SUCCEEDED
    assert len(s3.server.asked) == 4


async def test_credentials_that_have_expired_are_asked_for_again(s3: S3Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.server.put("source/f", b"1")
    to = s3.folder.as_uri() + "/"
    await s3.run("s3://source/f", to)
    s3.server.token = "session-2"
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session-2")
    clients: Any = s3.destinations._s3._clients
    clients._session._session._credentials = None
    result = await s3.run("s3://source/f", to)
    assert (result.outcome, result.attempts) == (Outcome.SUCCEEDED, 2)


async def test_without_credentials_it_says_so(s3: S3Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    result = await s3.run("s3://source/f")
    assert (result.error, result.attempts) == ("AwsNotConfigured", 1)
    assert result.message == "s3://source/ cannot be asked: NoCredentialsError"
