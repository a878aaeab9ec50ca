"""A record that cannot be read is kept whole, but for its secrets."""

import base64
import json

import pytest
from pydantic import ValidationError

from connectors.memory import MemoryPublisher, SystemClock
from export_service.messages import DeadLetter, JobSnapshot
from export_service.readers import Unreadable, read_batch, read_event
from streams.ack_window import Place
from streams.dead_letters import DeadLetters
from streams.steps import Incoming

SECRET = "canary-0123456789abcdef"
TOKEN = f"AAAAKgAAAAIAAAAAAAAAA{SECRET}AAAA"


async def letter(value: bytes) -> DeadLetter:
    publisher = MemoryPublisher()
    letters = DeadLetters(publisher, "dead", SystemClock())
    with pytest.raises(ValidationError) as caught:
        JobSnapshot.model_validate_json(value)
    record = Incoming(Place("tasks", 1), 7, SystemClock().now(), b"key", value)
    await (await letters.put(record, caught.value))
    (written,) = publisher.values("dead")
    return DeadLetter.model_validate_json(written)


async def test_text_keeps_all_but_its_secrets_and_the_reason_quotes_nothing() -> None:
    text = json.dumps({"jobId": TOKEN, "attempt": f"https://h/?sig={SECRET}", "taskToken": "short", "other": [1, "ä"]})
    found = await letter(text.encode())
    assert found.body is not None
    assert json.loads(found.body)["other"] == [1, "ä"]
    assert "canary" not in found.to_bytes().decode()
    assert "attempt: Input should be a valid integer" in found.reason
    assert (found.source, found.key) == ("tasks:1:7", "key")


async def test_the_reason_of_results_and_batches_quotes_nothing_either() -> None:
    for result in ({"index": 0, "outcome": f"'{SECRET}\"", "name": "n", "url": "u"}, {"index": TOKEN}):
        event = {"type": "TaskResults", "jobId": "j", "attempt": 1, "results": [result]}
        with pytest.raises(Unreadable) as caught:
            read_event(json.dumps(event).encode())
        assert "canary" not in str(caught.value)
        assert "results[0]." in str(caught.value)
    for value in (b"", b"\xff", b"[]", b"{}", b'{"type": "TaskBatch", "jobId": 5}'):
        with pytest.raises(Unreadable):
            read_batch(value)


async def test_a_record_without_secrets_is_unchanged() -> None:
    for value in (b'{"half": ', b"\xff\x00\xfe not UTF-8"):
        found = await letter(value)
        assert (found.body or "").encode() + base64.b64decode(found.body_base64 or "") == value


async def test_bytes_that_are_no_text_lose_their_secrets_too() -> None:
    found = await letter(b"\xff" + f'{{"taskToken": "{TOKEN}", "url": "https://h/a?sig={SECRET}"'.encode() + b"\xfe")
    body = base64.b64decode(found.body_base64 or "")
    assert body == b'\xff{"taskToken": "(redacted)", "url": "https://h/a?(redacted)"\xfe'
