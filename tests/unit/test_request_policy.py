"""What a message may ask for, where the answer depends on settings, and limits that keep one message from stopping everybody."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from export_service.failures import RequestRejected
from export_service.messages import JobPlanned, TaskBatch
from export_service.ports import Attempt
from export_service.requests import MAX_BODY_BYTES, Policy, parse

JOB = "550e8400-e29b-41d4-a716-446655440000"
URL = "https://example.com/a.csv"
OPEN = Policy("s3://exports/{userId}/{exportId}.csv", "file:./exports/{jobId}/", ("s3://allowed", "s3://shared/team/"))


def body(**fields: Any) -> str:
    return json.dumps({"jobId": JOB, "exportId": "e1", "userId": "u1"} | fields)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("s3://allowed", "s3://allowed/"),
        ("s3://allowed/a/b", "s3://allowed/a/b/"),
        ("s3://shared/team/x/", "s3://shared/team/x/"),
        ("file:./exports/mine", "file:./exports/mine/"),
    ],
)
def test_an_allowed_destination_is_a_folder(given: str, used: str) -> None:
    assert parse(body(destination=given), OPEN).destination == used


@pytest.mark.parametrize(
    "given",
    [
        "s3://allowed-not/x",
        "s3://shared/teammates/",
        "s3://shared/",
        "file:./exports/../secret",
        "file:./exports/%2e%2e/secret",
        "file:./other",
        "file:///etc",
        "s3://allowed/a?b",
        "s3://me:pw@allowed/",
        "s3:///a",
        "https://allowed/",
        "",
    ],
)
def test_any_other_destination_is_refused(given: str) -> None:
    with pytest.raises(RequestRejected, match=r"^destination: "):
        parse(body(destination=given), OPEN)


def test_a_template_that_begins_with_an_id_allows_nothing_by_itself() -> None:
    policy = Policy(None, "s3://{userId}/x/", ("s3://allowed",))
    assert parse(body(prefix="s3://b/"), policy).destination == "s3://u1/x/"
    with pytest.raises(RequestRejected, match="is not below an allowed one"):
        parse(body(prefix="s3://b/", destination="s3://u2/x/"), policy)


@pytest.mark.parametrize("bad", ["..", ".", "a/b", "a\\b", "a\x00b", "../x"])
def test_an_id_that_would_leave_its_place_in_the_catalog_is_refused(bad: str) -> None:
    with pytest.raises(RequestRejected, match=r"^userId: .*becomes a part of a path"):
        parse(body(userId=bad), OPEN)
    assert parse(body(userId=bad, files=[{"url": URL}]), OPEN).message.user_id == bad, (
        "where no path is made of it, it is only a name"
    )


def test_spellings_of_a_job_id_are_one_job_with_one_digest() -> None:
    one, two = parse(body(), OPEN), parse(body(jobId=JOB.upper().replace("-", "")), OPEN)
    assert two.job_id == JOB
    assert one.digest == two.digest


def test_null_counts_as_absent() -> None:
    parsed = parse(body(metadata=None, taskToken=None, files=None, toleratedFailures=None, deadlineSeconds=None), OPEN)
    assert (parsed.token, parsed.message.metadata, parsed.message.tolerated_failures) == (None, {}, 0)
    with pytest.raises(RequestRejected, match=r"^jobId: is missing"):
        parse(body(jobId=None), OPEN)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"toleratedFailures": True}, "toleratedFailures: .*True"),
        ({"toleratedFailures": "3"}, "toleratedFailures: .*'3'"),
        ({"toleratedFailurePercentage": "3"}, "toleratedFailurePercentage: .*'3'"),
        ({"deadlineSeconds": 0}, "deadlineSeconds: .*0"),
        ({"heartbeatSeconds": 31_536_001}, "heartbeatSeconds: .*31536001"),
        ({"files": [{"url": URL, "size": "3"}]}, "files.0.size: .*'3'"),
        ({"files": [{"url": URL, "size": -1}]}, "files.0.size: .*-1"),
        ({"files": {"url": URL}}, "files: Input should be a list .it is an object"),
        ({"files": [{"url": "https://h:x/"}]}, "files.0..url: 'https://h:x/' is not a URL"),
        ({"files": [{"url": "http://["}]}, "files.0..url: .* is not a URL"),
        ({"files": [{"url": "https://h/a b"}]}, "files.0..url: .* percent-encode it"),
        ({"files": [{"url": "https://h/"}]}, "files.0..name is empty"),
        ({"files": [{"url": "https://h/" + "x" * 17_000}]}, "files.0..url: .* is longer than 16384 bytes"),
        ({"prefix": "s3://b/p?versionId=1"}, "prefix: 's3://b/p' has a '.'"),
        ({"metadata": {"x": "y" * 17_000}}, "metadata: has 17009 bytes of JSON, at most 16384"),
        ({"metadata": json.loads("[" * 40 + "]" * 40)}, "nested deeper than 32 levels"),
        ({"exportId": "\ud800"}, "half of a surrogate pair"),
        ({"exportId": "x" * 257}, "exportId: .*256"),
        ({"exportId": ""}, "exportId: .*''"),
        ({"taskToken": ""}, "taskToken: must be a string of 1 to 2048 characters"),
        ({"taskToken": 5}, "taskToken: must be a string of 1 to 2048 characters"),
    ],
)
def test_a_mistake_is_a_sentence_with_field_value_and_limit(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(RequestRejected, match=rf"^{reason}|{reason}") as caught:
        parse(body(**fields), OPEN)
    assert len(caught.value.reason) < 500
    assert caught.value.job_id == JOB


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": NaN}', "1" * 5000, "", "null", '"x"', '{"Type": "Notification", "Message": "{"}']
)
def test_what_is_no_request_at_all_is_a_sentence_too(text: str) -> None:
    with pytest.raises(RequestRejected, match=r"^the body is "):
        parse(text, OPEN)


@pytest.mark.parametrize("where", ["exportId", "userId", "jobId", "prefix", "destination", "manifest", "files"])
def test_a_token_in_the_wrong_field_is_not_quoted(where: str) -> None:
    token = "canary" + "A" * 600
    with pytest.raises(RequestRejected) as caught:
        parse(body(**{"taskToken": token, where: [{"url": URL, "name": "/" + token}] if where == "files" else token}), OPEN)
    assert "canary" not in f"{caught.value!r} {caught.value.reason} {caught.value.job_id}"
    assert caught.value.token == token


def test_neither_token_nor_query_is_in_a_repr() -> None:
    one = parse(body(taskToken="canary" * 9, files=[{"url": URL + "?sig=canary"}], metadata={"x": "canary"}), OPEN)
    two = parse(body(manifest={"url": URL + "?sig=canary", "format": "csv"}), OPEN)
    assert "canary" not in f"{one!r} {two!r}"


def test_a_job_without_a_key_loses_its_queries_rather_than_showing_them() -> None:
    parsed = parse(body(files=[{"url": URL + "?sig=canary"}]), OPEN)
    record = parsed.requested(Attempt(JOB, 1, parsed.digest), datetime(2026, 1, 1, tzinfo=UTC), None)
    assert b"canary" not in record.to_bytes()


def test_the_largest_message_makes_records_that_the_topics_take() -> None:
    big = {
        "metadata": {"x": "\x01" * 2700},
        "destination": "s3://allowed/" + "d" * 2000,
        "exportId": "\x01" * 256,
        "userId": "ü" * 256,
    }
    count = 0
    files: list[dict[str, str]] = []
    room = MAX_BODY_BYTES - len(body(**big)) - 100
    while (room := room - 30) > 0:
        files.append({"url": f"s3://b/{count:05d}?1"})
        count += 1
    parsed = parse(body(**big, files=files), OPEN)
    record = parsed.requested(Attempt(JOB, 1, parsed.digest, seal_key=b"k" * 32), datetime(2026, 1, 1, tzinfo=UTC), "m")
    assert len(record.to_bytes()) < 8 * 1024 * 1024, "requests takes 8 MiB"
    assert len(JobPlanned(job=record.job, total_tasks=count).to_bytes()) < 64 * 1024
    longest = parse(body(files=[{"url": "https://h/" + "x" * 200 + "?" + "q" * 16_000}]), OPEN)
    (spec,) = longest.requested(Attempt(JOB, 1, "d", seal_key=b"k" * 32), datetime(2026, 1, 1, tzinfo=UTC), "m").files or ()
    assert len(spec.to_bytes()) < 32 * 1024
    assert len(TaskBatch(job_id=JOB, attempt=1, destination=parsed.destination, tasks=()).to_bytes()) < 4096
