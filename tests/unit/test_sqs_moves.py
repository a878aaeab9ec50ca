"""What the emulator does not do: SQS's own move of a dead-letter queue, and a queue in the middle of going away."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

from connectors import sqs_moves
from connectors.sqs_moves import Queues, look, move
from export_service.failures import ExportError, Unavailable
from tests.unit.test_sqs import ScriptedSqs, denied

URL = "https://sqs.eu-central-1.amazonaws.com/123456789012/q"
ARN = "arn:aws:sqs:eu-central-1:123456789012:q"
QUEUES = Queues(f"{URL}-dlq", f"{ARN}-dlq", URL, ARN, waiting=2, hidden=0)
TOLD: list[int] = []


def message(number: int, **attributes: str) -> dict[str, Any]:
    return {"MessageId": f"m{number}", "Body": f"body {number}", "ReceiptHandle": f"r{number}", "Attributes": attributes}


def holding(*messages: dict[str, Any]) -> ScriptedSqs:
    """A queue that gives these once, at an endpoint that moves nothing by itself."""
    client, left = ScriptedSqs(), list(messages)
    client.answers["start_message_move_task"] = denied("AWS.SimpleQueueService.UnsupportedOperation")
    client.answers["list_message_move_tasks"] = denied("InvalidAction")
    client.answers["receive_message"] = lambda asked: {"Messages": _take(left, asked["MaxNumberOfMessages"])}
    client.answers["send_message"] = lambda _: {"MessageId": "new"}
    return client


def _take(left: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    return [left.pop(0) for _ in left[:most]]


async def test_sqs_moves_them_itself_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqs_moves, "_POLL_SECONDS", 0)
    client = ScriptedSqs()
    tasks = iter([("RUNNING", 1), ("COMPLETED", 2)])

    def answer(_: object) -> dict[str, Any]:
        status, moved = next(tasks)
        return {"Results": [{"Status": status, "ApproximateNumberOfMessagesMoved": moved}]}

    client.answers["list_message_move_tasks"] = answer
    moved = await move(client, QUEUES, TOLD.append)
    assert (moved.messages, moved.by_sqs) == (2, True)
    assert client.requests["start_message_move_task"] == [{"SourceArn": f"{ARN}-dlq", "DestinationArn": ARN}]
    assert not client.requests["receive_message"]


async def test_a_move_that_is_under_way_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqs_moves, "_POLL_SECONDS", 0)
    client = ScriptedSqs()
    client.answers["start_message_move_task"] = denied("AWS.SimpleQueueService.UnsupportedOperation")
    tasks = iter([["RUNNING"], [], ["COMPLETED"]])
    client.answers["list_message_move_tasks"] = lambda _: {
        "Results": [{"Status": status, "ApproximateNumberOfMessagesMoved": 7} for status in next(tasks)]
    }
    moved = await move(client, QUEUES, TOLD.append)
    assert (moved.messages, moved.by_sqs) == (7, True)


async def test_a_move_that_sqs_ends_is_told_with_its_reason() -> None:
    client = ScriptedSqs()
    client.answers["list_message_move_tasks"] = lambda _: {"Results": [{"Status": "FAILED", "FailureReason": "AccessDenied"}]}
    with pytest.raises(ExportError, match=r"ended its move as FAILED after about 0 messages \(AccessDenied\)"):
        await move(client, QUEUES, TOLD.append)


async def test_who_may_not_move_is_told_so_and_nothing_is_received() -> None:
    client = ScriptedSqs()
    client.answers["start_message_move_task"] = denied("AccessDeniedException")
    with pytest.raises(Unavailable, match="AccessDenied"):
        await move(client, QUEUES, TOLD.append)
    assert not client.requests["receive_message"]


async def test_a_message_is_deleted_only_when_the_queue_has_it() -> None:
    client = holding(message(1), message(2))

    def full(asked: dict[str, Any]) -> dict[str, Any]:
        if asked["MessageBody"] == "body 2":
            raise ClientError({"Error": {"Code": "OverLimit"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "SendMessage")
        return {"MessageId": "new"}

    client.answers["send_message"] = full
    with pytest.raises(Unavailable, match="OverLimit"):
        await move(client, QUEUES, TOLD.append)
    assert [each["ReceiptHandle"] for each in client.requests["delete_message"]] == ["r1"]


async def test_by_hand_a_message_keeps_its_attributes_and_a_fifo_queue_does_not_take_it_for_a_repeat() -> None:
    sent = message(1, MessageGroupId="g", MessageDeduplicationId="d", AWSTraceHeader="Root=1") | {
        "MessageAttributes": {"a": {"DataType": "String", "StringValue": "b"}}
    }
    client = holding(sent)
    queues = Queues(f"{URL}-dlq.fifo", ARN, f"{URL}.fifo", ARN, waiting=1, hidden=0)
    assert (await move(client, queues, TOLD.append)).messages == 1
    (asked,) = client.requests["send_message"]
    assert asked["MessageDeduplicationId"] != "d"
    assert asked | {"MessageDeduplicationId": ""} == {
        "QueueUrl": f"{URL}.fifo",
        "MessageBody": "body 1",
        "MessageGroupId": "g",
        "MessageDeduplicationId": "",
        "MessageAttributes": {"a": {"DataType": "String", "StringValue": "b"}},
        "MessageSystemAttributes": {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1"}},
    }


async def test_no_more_are_moved_than_there_were_and_an_empty_queue_ends_it() -> None:
    round_and_round = holding(*map(message, range(9)))
    assert (await move(round_and_round, QUEUES, TOLD.append)).messages == 2
    assert (await move(holding(message(1)), QUEUES, TOLD.append)).messages == 1


async def test_a_queue_without_a_dead_letter_queue_says_what_to_do() -> None:
    client = ScriptedSqs()
    client.answers["get_queue_attributes"] = lambda _: {"Attributes": {"QueueArn": ARN}}
    with pytest.raises(ExportError, match=r"has no redrive policy.*--from URL"):
        await look(client, URL, None)
    with pytest.raises(ExportError, match="is the queue itself"):
        client.answers["get_queue_attributes"] = lambda _: {
            "Attributes": {"QueueArn": ARN, "ApproximateNumberOfMessages": "0", "ApproximateNumberOfMessagesNotVisible": "0"}
        }
        await look(client, URL, URL)
