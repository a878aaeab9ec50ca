"""What the emulator does not do: answers of SQS that are half good, late or wrong."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import structlog
from botocore.exceptions import ClientError

from connectors.sqs import SqsQueue, open_queue
from export_service.failures import Unavailable
from export_service.ports import QueueMessage
from tests.waiting import until

URL = "https://sqs.eu-central-1.amazonaws.com/123456789012/export-jobs"


class ScriptedSqs:
    """Records requests; `answers[operation]` says what comes back."""

    def __init__(self) -> None:
        self.requests: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "get_queue_attributes": lambda _: {"Attributes": {"VisibilityTimeout": "600"}}
        }

    def __getattr__(self, operation: str) -> Any:
        async def call(**arguments: Any) -> dict[str, Any]:
            await asyncio.sleep(0)
            self.requests[operation].append(arguments)
            answer = self.answers.get(operation)
            return answer(arguments) if answer else {}

        return call


def opened(client: ScriptedSqs, url: str = URL) -> AbstractAsyncContextManager[SqsQueue]:
    return open_queue(client, url, 0, 8, structlog.get_logger())


def raw(number: int, receipt: str = "r1") -> dict[str, Any]:
    return {"MessageId": f"m{number}", "Body": "{}", "ReceiptHandle": f"m{number}-{receipt}"}


def message(number: int, receipt: str = "r1") -> QueueMessage:
    return QueueMessage(f"m{number}", "{}", f"m{number}-{receipt}")


def denied(code: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def answer(_: dict[str, Any]) -> dict[str, Any]:
        raise ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 400}}, "x")

    return answer


def handles(request: dict[str, Any]) -> list[str]:
    return [entry["ReceiptHandle"] for entry in request["Entries"]]


async def test_deletes_share_requests_of_at_most_ten_and_all_are_confirmed() -> None:
    client = ScriptedSqs()
    async with opened(client) as queue:
        await asyncio.gather(*(queue.delete(message(n)) for n in range(25)))
    sizes = [len(request["Entries"]) for request in client.requests["delete_message_batch"]]
    assert sizes == [10, 10, 5]
    assert sorted(h for request in client.requests["delete_message_batch"] for h in handles(request)) == sorted(
        f"m{n}-r1" for n in range(25)
    )


async def test_a_refused_entry_fails_alone_and_an_expired_handle_is_given_up() -> None:
    client = ScriptedSqs()
    failed = [
        {"Id": "1", "Code": "InternalError", "SenderFault": False},
        {"Id": "2", "Code": "ReceiptHandleIsInvalid", "SenderFault": True},
    ]
    client.answers["delete_message_batch"] = lambda _: {"Failed": failed}
    async with opened(client) as queue:
        ends = await asyncio.gather(*(queue.delete(message(n)) for n in range(4)), return_exceptions=True)
    assert [type(end) for end in ends] == [type(None), Unavailable, type(None), type(None)]
    assert "InternalError" in str(ends[1])
    assert "EXPORT_QUEUE_URL" in str(ends[1])


async def test_a_request_that_fails_fails_each_delete_in_it_and_the_next_ones_work() -> None:
    client = ScriptedSqs()
    client.answers["delete_message_batch"] = denied("AccessDeniedException")
    async with opened(client) as queue:
        ends = await asyncio.gather(queue.delete(message(1)), queue.delete(message(2)), return_exceptions=True)
        assert ["AWS_ACCESS_KEY_ID" in str(end) for end in ends] == [True, True]
        client.answers["delete_message_batch"] = lambda _: {}
        await queue.delete(message(1))


async def test_the_newest_receipt_handle_counts_and_a_second_delete_still_has_its_own() -> None:
    client = ScriptedSqs()
    async with opened(client) as queue:
        client.answers["receive_message"] = lambda _: {"Messages": [raw(1, "r1")]}
        (first,) = await queue.receive()
        client.answers["receive_message"] = lambda _: {"Messages": [raw(1, "r2")]}
        (second,) = await queue.receive()
        await queue.delete(first)
        await queue.delete(second)
    assert [handles(request) for request in client.requests["delete_message_batch"]] == [["m1-r2"], ["m1-r2"]]


async def test_visibility_is_extended_while_a_message_is_in_work_and_only_then() -> None:
    client = ScriptedSqs()
    client.answers["get_queue_attributes"] = lambda _: {"Attributes": {"VisibilityTimeout": "2"}}
    client.answers["receive_message"] = lambda _: {"Messages": [raw(n) for n in range(3)]}
    async with opened(client) as queue:
        kept, deleted, released = await queue.receive()
        await queue.delete(deleted)
        await queue.release(released, 7)
        await until(lambda: bool(client.requests["change_message_visibility_batch"]))
    (request, *_) = client.requests["change_message_visibility_batch"]
    assert handles(request) == [kept.receipt]
    assert request["Entries"][0]["VisibilityTimeout"] == 2
    (release,) = client.requests["change_message_visibility"]
    assert (release["ReceiptHandle"], release["VisibilityTimeout"]) == (released.receipt, 7)


async def test_an_extension_that_fails_is_tried_again_before_the_message_comes_back() -> None:
    client = ScriptedSqs()
    client.answers["get_queue_attributes"] = lambda _: {"Attributes": {"VisibilityTimeout": "4"}}
    client.answers["receive_message"] = lambda _: {"Messages": [raw(1)]}
    began: list[float] = []

    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        began.append(asyncio.get_running_loop().time())
        if len(began) == 1:
            return denied("InternalFailure")(_)
        return {"Failed": [{"Id": "0", "Code": "InternalError", "SenderFault": False}]} if len(began) == 2 else {}

    client.answers["change_message_visibility_batch"] = refuse
    async with opened(client) as queue:
        await queue.receive()
        received = asyncio.get_running_loop().time()
        await until(lambda: len(began) == 3)
    assert began[2] - received < 4, "both kinds of failure, and the message is still ours"


@pytest.mark.parametrize(("most", "said"), [(8, True), (9, False), (None, False)])
async def test_a_redrive_policy_that_comes_before_ours_is_said_once(most: int | None, said: bool) -> None:
    client = ScriptedSqs()
    policy = {} if most is None else {"RedrivePolicy": json.dumps({"maxReceiveCount": most})}
    client.answers["get_queue_attributes"] = lambda _: {"Attributes": {"VisibilityTimeout": "2", **policy}}
    client.answers["receive_message"] = lambda _: {"Messages": [raw(1)]}
    with structlog.testing.capture_logs() as logs:
        async with opened(client) as queue:
            await queue.receive()
            await until(lambda: bool(client.requests["change_message_visibility_batch"]))
    assert [line["setting"] for line in logs] == ["EXPORT_QUEUE_MAX_RECEIVES"] * said
    assert all(f"maxReceiveCount={most}" in line["event"] for line in logs)


async def test_only_a_fifo_queue_has_groups_and_a_receive_that_failed_is_asked_again_as_the_same() -> None:
    client = ScriptedSqs()
    attributes = {"Attributes": {"MessageGroupId": "job-1", "ApproximateReceiveCount": "1"}}
    client.answers["receive_message"] = lambda _: {"Messages": [raw(1) | attributes]}
    async with opened(client) as queue:
        (found,) = await queue.receive()
    assert found.group is None, "there it is for fairness, and promises no order"
    (request,) = client.requests.pop("receive_message")
    assert "ReceiveRequestAttemptId" not in request

    async with opened(client, f"{URL}.fifo") as queue:
        (found,) = await queue.receive()
        assert found.group == "job-1"
        client.answers["receive_message"] = denied("ServiceUnavailable")
        with pytest.raises(Unavailable):
            await queue.receive()
        client.answers["receive_message"] = lambda _: {}
        await queue.receive()
        await queue.receive()
    first, failed, again, last = (request["ReceiveRequestAttemptId"] for request in client.requests["receive_message"])
    assert failed == again
    assert len({first, failed, last}) == 3


async def test_closing_leaves_no_delete_waiting() -> None:
    client = ScriptedSqs()
    hanging = asyncio.Event()

    async def never(**_: Any) -> None:
        hanging.set()
        await asyncio.Event().wait()

    client.__dict__["delete_message_batch"] = never
    async with opened(client) as queue:
        under_way = asyncio.create_task(queue.delete(message(1)))
        await hanging.wait()
        queued = asyncio.create_task(queue.delete(message(2)))
        await asyncio.sleep(0)
    ends = await asyncio.wait_for(asyncio.gather(under_way, queued, return_exceptions=True), 5)
    assert [type(end) for end in ends] == [Unavailable, Unavailable]


async def test_a_defect_in_the_background_is_not_silent() -> None:
    client = ScriptedSqs()
    client.answers["delete_message_batch"] = lambda _: {"Failed": [{"Id": "not a number"}]}
    async with opened(client) as queue:
        with pytest.raises(Unavailable):
            await queue.delete(message(1))
        with pytest.raises(ValueError, match="not a number"):
            await queue.receive()


@pytest.mark.parametrize(
    ("code", "setting"),
    [
        ("AWS.SimpleQueueService.NonExistentQueue", "EXPORT_QUEUE_URL"),
        ("QueueDoesNotExist", "EXPORT_QUEUE_URL"),
        ("InvalidClientTokenId", "AWS_ACCESS_KEY_ID"),
        ("ExpiredTokenException", "AWS_ACCESS_KEY_ID"),
    ],
)
async def test_an_error_names_the_setting_to_look_at(code: str, setting: str) -> None:
    client = ScriptedSqs()
    client.answers["receive_message"] = denied(code)
    with pytest.raises(Unavailable, match=rf"SQS does not answer \({code}\); check {setting}"):
        await SqsQueue(client, URL, 0, 8, None).receive()


async def test_attributes_count_and_trace_context_come_along() -> None:
    client = ScriptedSqs()
    attributes = {"a": {"StringValue": "x", "DataType": "String"}, "b": {"BinaryValue": b"\x01\xff", "DataType": "Binary"}}
    more: dict[str, Any] = {
        "MessageAttributes": attributes,
        "Attributes": {"ApproximateReceiveCount": "3", "AWSTraceHeader": "Root=1-2"},
    }
    client.answers["receive_message"] = lambda _: {"Messages": [raw(1) | more]}
    queue = SqsQueue(client, URL, 20, 8, None)
    (found,) = await queue.receive()
    assert queue.name == "export-jobs"
    assert found.receive_count == 3
    assert dict(found.attributes) == {"a": "x", "b": "01ff", "AWSTraceHeader": "Root=1-2"}
    assert client.requests["receive_message"][0]["WaitTimeSeconds"] == 20
