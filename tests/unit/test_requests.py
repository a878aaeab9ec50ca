"""The SQS message: each mistake is one sentence with field, value and way out, and never shows a secret."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from export_service.failures import RequestRejected
from export_service.ports import Attempt
from export_service.requests import Policy, parse
from export_service.sealing import new_key, unseal

JOB = "550e8400-e29b-41d4-a716-446655440000"
POLICY = Policy("s3://exports/{exportId}/manifest.jsonl", "file:///out/{jobId}/", ("s3://allowed/",))
URL = "https://example.com/a.csv"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def body(**fields: Any) -> str:
    return json.dumps({"jobId": JOB, "exportId": "e1", "userId": "u1"} | fields)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        (json.dumps({"jobId": JOB, "userId": "u"}), "exportId"),
        (body(jobId="17"), "jobId: .*'17'"),
        (body(userId=5), "userId: .*5"),
        (body(files=[], prefix="s3://b/p/"), "files and prefix are both given"),
        (body(files=[{"url": "ftp://h/f"}]), r"files\[0\].url: 'ftp://h/f' has the scheme 'ftp'; known are http, https, s3"),
        (body(files=[{"url": "https://me:pw@h/f"}]), "has credentials in it"),
        (body(files=[{"url": URL}, {"url": URL}]), r"files\[1\].name 'a.csv' is the name of files\[0\] too"),
        (body(files=[{"url": URL, "name": "../x"}]), r"files\[0\].name '../x' has a '.' or '..' part"),
        (body(files=[{"url": URL, "name": "/x"}]), "is an absolute path"),
        (body(files=[{"url": URL, "sha256": "zz"}]), "files.0.sha256"),
        (body(manifest={"url": "gopher://x/y", "format": "csv"}), "manifest.url: .* has the scheme 'gopher'"),
        (body(manifest={"url": URL, "format": "xml"}), "manifest.format"),
        (body(prefix="https://h/p/"), "prefix: .* known are s3"),
        (body(destination="s3://other/x/"), "destination: .* is not below an allowed one .*EXPORT_DESTINATIONS"),
        (body(destination="file:///out/../etc/"), "destination: "),
        (body(exportId="a/../../b"), "exportId: .*becomes a part of a path"),
        (body(toleratedFailures=-1), "toleratedFailures"),
        (body(toleratedFailurePercentage=101), "toleratedFailurePercentage"),
        (body(metadata={"format": "xml"}), "metadata: metadata.format is the report's format"),
        (body(exportId=".."), "becomes a part of a path"),
        (body(x="y" * 1_048_576), "more than 1048576; name the files in a manifest instead"),
    ],
)
def test_a_mistake_is_a_sentence(text: str, reason: str) -> None:
    with pytest.raises(RequestRejected, match=reason):
        parse(text, POLICY)


def test_a_rejection_carries_what_is_usable_and_shows_no_secret() -> None:
    with pytest.raises(RequestRejected) as caught:
        parse(body(taskToken="my-secret-token", files=[{"url": "ftp://h/f?sig=canary"}]), POLICY)
    assert (caught.value.job_id, caught.value.token) == (JOB, "my-secret-token")
    assert "my-secret-token" not in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_token_of_2049_characters_is_rejected_and_not_usable() -> None:
    with pytest.raises(RequestRejected, match="taskToken") as caught:
        parse(body(taskToken="t" * 2049), POLICY)
    assert caught.value.token is None
    assert "ttt" not in str(caught.value)


def test_no_files_and_no_catalog_says_both_ways_out() -> None:
    with pytest.raises(RequestRejected, match=r"names no files .* EXPORT_CATALOG is not set"):
        parse(body(), Policy(None, POLICY.destination, ()))


def test_the_seed_shaped_message_goes_through_the_catalog_and_ids_stay_in_their_place() -> None:
    parsed = parse(body(exportId="a b?c", taskToken="t", unknown=1), POLICY)
    record = parsed.requested(Attempt(JOB, 1, parsed.digest), NOW, "m1")
    assert record.manifest is not None
    assert record.manifest.url == "s3://exports/a%20b%3Fc/manifest.jsonl"
    assert record.job.destination == f"file:///out/{JOB}/"
    assert record.job.has_task_token
    assert parsed.token == "t"
    assert "'t'" not in repr(parsed)


def test_queries_are_sealed_in_the_record_and_open_with_the_attempts_key() -> None:
    parsed = parse(body(files=[{"url": URL + "?sig=a%2Fb"}]), POLICY)
    key = new_key()
    record = parsed.requested(Attempt(JOB, 1, parsed.digest, seal_key=key), NOW, None)
    assert b"sig" not in record.to_bytes()
    assert record.files is not None
    assert unseal(record.files[0].url, record.files[0].query, key) == URL + "?sig=a%2Fb"


def test_the_digest_knows_neither_token_nor_order() -> None:
    one = parse(body(taskToken="one", metadata={"a": 1, "b": 2}), POLICY).digest
    two = parse(json.dumps({"metadata": {"b": 2, "a": 1}, "userId": "u1", "exportId": "e1", "jobId": JOB}), POLICY).digest
    assert one == two
    assert one != parse(body(exportId="e2"), POLICY).digest


def test_an_sns_envelope_is_opened() -> None:
    assert parse(json.dumps({"Type": "Notification", "Message": body()}), POLICY).job_id == JOB
