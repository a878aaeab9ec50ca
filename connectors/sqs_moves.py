"""Moves what is in SQS's own dead-letter queue back to the queue. No message is deleted there before the queue has it.

SQS does it by itself (StartMessageMoveTask) where it can. An endpoint that cannot is asked to receive, send and delete: a message may come
twice then, which the ledger makes good.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from connectors.aws import AWS_ERRORS, code_of, unavailable
from export_service.failures import ExportError

_SETTING = "EXPORT_QUEUE_URL"
_POLL_SECONDS = 1.0
_EMPTY_RECEIVES = 3
"""After which a queue counts as empty: a receive asks only some of SQS's servers."""
_HIDDEN_SECONDS = 60
_CANNOT = ("UnsupportedOperation", "InvalidAction", "UnknownOperation", "NotImplemented")


@dataclass(frozen=True)
class Queues:
    """`waiting` are visible messages, about; `hidden` are in flight somewhere."""

    source: str
    source_arn: str
    target: str
    target_arn: str
    waiting: int
    hidden: int

    @property
    def fifo(self) -> bool:
        return self.target.endswith(".fifo")


@dataclass(frozen=True)
class Moved:
    messages: int
    by_sqs: bool


async def look(client: Any, queue_url: str, source_url: str | None) -> Queues:
    """What there is to move to `queue_url`. Raises ExportError, Unavailable.

    Args:
        source_url: the dead-letter queue; None: the one that the queue's redrive policy names.
    """
    try:
        target = await _attributes(client, queue_url, "QueueArn", "RedrivePolicy")
        if source_url is None:
            arn = json.loads(target.get("RedrivePolicy") or "{}").get("deadLetterTargetArn")
            if arn is None:
                raise ExportError(
                    f"the queue {_name(queue_url)} has no redrive policy, so no dead-letter queue; name one with --from URL"
                )
            *_, account, name = arn.split(":")
            source_url = (await client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account))["QueueUrl"]
        counts = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        source = await _attributes(client, source_url, "QueueArn", *counts)
    except AWS_ERRORS as error:
        raise unavailable("sqs", error, _SETTING) from None
    if source["QueueArn"] == target["QueueArn"]:
        raise ExportError(f"--from {_name(source_url)} is the queue itself; name its dead-letter queue")
    return Queues(source_url, source["QueueArn"], queue_url, target["QueueArn"], int(source[counts[0]]), int(source[counts[1]]))


async def move(client: Any, queues: Queues, progress: Callable[[int], None]) -> Moved:
    """`progress` is told how many are moved. Raises ExportError, Unavailable; what was not moved is in the dead-letter queue then."""
    try:
        if await _start(client, queues):
            return Moved(await _wait(client, queues, progress), by_sqs=True)
        return Moved(await _by_hand(client, queues, progress), by_sqs=False)
    except AWS_ERRORS as error:
        raise unavailable("sqs", error, _SETTING) from None


async def send_message(client: Any, url: str, body: str, group: str, dedup: str, **more: Any) -> str:
    """The message's id. `group` and `dedup` are used where the queue is FIFO. Raises Unavailable."""
    fifo = {"MessageGroupId": group, "MessageDeduplicationId": dedup} if url.endswith(".fifo") else {}
    try:
        return str((await client.send_message(QueueUrl=url, MessageBody=body, **fifo, **more))["MessageId"])
    except AWS_ERRORS as error:
        raise unavailable("sqs", error, _SETTING) from None


async def _attributes(client: Any, url: str, *names: str) -> dict[str, str]:
    found: dict[str, str] = (await client.get_queue_attributes(QueueUrl=url, AttributeNames=list(names)))["Attributes"]
    return found


async def _start(client: Any, queues: Queues) -> bool:
    """False: this endpoint cannot."""
    try:
        await client.start_message_move_task(SourceArn=queues.source_arn, DestinationArn=queues.target_arn)
    except ClientError as error:
        if not _cannot(error):
            raise
        return await _runs(client, queues)
    return True


async def _runs(client: Any, queues: Queues) -> bool:
    """Whether SQS moves this queue's messages already: the answer to a start may have been lost, or it was another's."""
    try:
        tasks = (await client.list_message_move_tasks(SourceArn=queues.source_arn, MaxResults=1))["Results"]
    except ClientError as error:
        if not _cannot(error):
            raise
        return False
    return any(task["Status"] == "RUNNING" for task in tasks)


def _cannot(error: ClientError) -> bool:
    """An endpoint that does not know the call says so in one of many ways; moto with a 500."""
    name = code_of(error).rpartition(".")[2]
    return name.startswith(_CANNOT) or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) in (404, 500, 501)


async def _wait(client: Any, queues: Queues, progress: Callable[[int], None]) -> int:
    while True:
        tasks = (await client.list_message_move_tasks(SourceArn=queues.source_arn, MaxResults=1))["Results"]
        # One that has just been started may not be listed yet.
        task = tasks[0] if tasks else {"Status": "RUNNING"}
        moved = int(task.get("ApproximateNumberOfMessagesMoved", 0))
        progress(moved)
        if task["Status"] == "COMPLETED":
            return moved
        if task["Status"] not in ("RUNNING", "CANCELLING"):
            why = task.get("FailureReason", "no reason given")
            raise ExportError(
                f"SQS ended its move as {task['Status']} after about {moved} messages ({why}); the rest is where it was"
            )
        await asyncio.sleep(_POLL_SECONDS)


async def _by_hand(client: Any, queues: Queues, progress: Callable[[int], None]) -> int:
    """Not more than there were at first: one that fails again at once would go round for ever."""
    moved = empty = 0
    while moved < queues.waiting and empty < _EMPTY_RECEIVES:
        answer = await client.receive_message(
            QueueUrl=queues.source,
            MaxNumberOfMessages=min(10, queues.waiting - moved),
            WaitTimeSeconds=1,
            VisibilityTimeout=_HIDDEN_SECONDS,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        messages = answer.get("Messages", ())
        empty = 0 if messages else empty + 1
        for message in messages:  # one after the other: a FIFO queue's order is kept
            await _move_one(client, queues, message)
            moved += 1
            progress(moved)
    return moved


async def _move_one(client: Any, queues: Queues, message: dict[str, Any]) -> None:
    system = message.get("Attributes", {})
    more: dict[str, Any] = {}
    if attributes := message.get("MessageAttributes"):
        more["MessageAttributes"] = attributes
    if trace := system.get("AWSTraceHeader"):
        more["MessageSystemAttributes"] = {"AWSTraceHeader": {"DataType": "String", "StringValue": trace}}
    # Not its own deduplication id: within five minutes of the first sending the queue would drop it and say that it was sent.
    dedup = hashlib.sha256(f"{system.get('MessageDeduplicationId')} {message['MessageId']}".encode()).hexdigest()
    await send_message(client, queues.target, message["Body"], system.get("MessageGroupId", message["MessageId"]), dedup, **more)
    await client.delete_message(QueueUrl=queues.source, ReceiptHandle=message["ReceiptHandle"])


def _name(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]
