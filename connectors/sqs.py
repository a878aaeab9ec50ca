"""In: the queue of requests. A message is deleted only when its request is safe on Kafka.

While a message is in work its visibility is extended at half the queue's own timeout, so that nobody else gets it. If it comes again
all the same, the newest receipt handle counts: SQS accepts a delete with an old one and does nothing.

A FIFO queue gives nothing more of a message group while one of its messages is in flight, but one receive may bring several of them:
each says its group, and whoever handles them keeps their order.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

from connectors.aws import AWS_ERRORS, unavailable
from export_service import metric_names as names
from export_service.failures import Unavailable
from export_service.ports import QueueMessage
from export_service.samples import Sample

_DELETE_AFTER = 0.02
"""Seconds that deletes wait for others to share a request with."""
_BATCH = 10
"""SQS's limit for receive, and for each batch request."""
_SETTING = "EXPORT_QUEUE_URL"
_NUMBERS = {
    "visible": "ApproximateNumberOfMessages",
    "in_flight": "ApproximateNumberOfMessagesNotVisible",
    "delayed": "ApproximateNumberOfMessagesDelayed",
}
_Delete = tuple[QueueMessage, "asyncio.Future[None]"]


class SqsQueue:
    """The RequestQueue port. Use `open_queue`."""

    def __init__(self, client: Any, url: str, wait_seconds: int, max_receives: int, log: Any) -> None:
        self._client, self._url, self._wait, self._max_receives, self._log = client, url, wait_seconds, max_receives, log
        self._fifo = url.endswith(".fifo")
        self._unanswered: list[str] = []
        self._receipts: dict[str, str] = {}
        self._sent: dict[str, float] = {}
        self._oldest = 0.0
        """When the oldest of the last messages was sent; seconds since the epoch, 0: none."""
        self._messages: dict[str, int] = {}
        self._deletes: asyncio.Queue[_Delete] = asyncio.Queue()
        self._background: list[asyncio.Task[None]] = []

    @property
    def name(self) -> str:
        return self._url.rstrip("/").rsplit("/", 1)[-1]

    def start(self) -> None:
        self._background = [asyncio.create_task(self._delete_in_batches()), asyncio.create_task(self._extend_while_in_work())]

    async def stop(self) -> None:
        """Ends the background work. A delete that is still waiting fails with Unavailable: its message will come again."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        left = [self._deletes.get_nowait() for _ in range(self._deletes.qsize())]
        _settle((done for _, done in left), Unavailable("SQS", _SETTING, "the queue's client was closed"))

    async def receive(self) -> list[QueueMessage]:
        for task in self._background:
            if task.done():
                task.result()  # only a defect ends one; without it messages would stay undeleted and nobody would know
        # The same receive asked again, by botocore or by us, brings the same messages. A FIFO queue whose reply was lost would else hold
        # their groups back until their visibility timeout, and count a receive that nobody saw.
        attempt = self._unanswered.pop() if self._unanswered else uuid4().hex
        try:
            answer = await self._client.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=_BATCH,
                WaitTimeSeconds=self._wait,
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp", "AWSTraceHeader", "MessageGroupId"],
                MessageAttributeNames=["All"],
                **({"ReceiveRequestAttemptId": attempt} if self._fifo else {}),
            )
        except AWS_ERRORS as error:
            self._unanswered.append(attempt)
            raise unavailable("sqs", error, _SETTING) from None
        messages = [_message(raw, self._fifo) for raw in answer.get("Messages", ())]
        self._receipts.update({message.id: message.receipt for message in messages})
        sent = [int(raw.get("Attributes", {}).get("SentTimestamp", 0)) / 1000 for raw in answer.get("Messages", ())]
        self._sent.update({message.id: at for message, at in zip(messages, sent, strict=True) if at})
        # An empty answer is no sign of an empty queue, which the numbers are.
        self._oldest = min(filter(None, sent), default=self._oldest if self._messages.get("visible") else 0.0)
        return messages

    async def delete(self, message: QueueMessage) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._deletes.put_nowait((message, done))
        await done

    async def release(self, message: QueueMessage, delay_seconds: int = 0) -> None:
        receipt = self._receipts.pop(message.id, message.receipt)
        self._sent.pop(message.id, None)
        try:
            await self._client.change_message_visibility(QueueUrl=self._url, ReceiptHandle=receipt, VisibilityTimeout=delay_seconds)
        except AWS_ERRORS as error:
            raise unavailable("sqs", error, _SETTING) from None

    async def look(self) -> None:
        """Ask for the numbers of messages. Raises Unavailable."""
        try:
            answer = await self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=list(_NUMBERS.values()))
        except AWS_ERRORS as error:
            raise unavailable("sqs", error, _SETTING) from None
        self._messages = {state: int(answer["Attributes"].get(name, 0)) for state, name in _NUMBERS.items()}

    def samples(self) -> Iterator[Sample]:
        for state, number in self._messages.items():
            yield Sample(names.QUEUE_MESSAGES, number, (state,))
        oldest = min(self._sent.values(), default=self._oldest)
        yield Sample(names.QUEUE_AGE, max(0.0, time.time() - oldest) if oldest else 0.0)

    async def _delete_in_batches(self) -> None:
        while True:
            batch = [await self._deletes.get()]
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_DELETE_AFTER):
                        while len(batch) < _BATCH:
                            batch.append(await self._deletes.get())
                await self._delete(batch)
            finally:
                # Whatever ended this, nobody is left waiting.
                _settle((done for _, done in batch), Unavailable("SQS", _SETTING, "the delete was broken off"))

    async def _delete(self, batch: list[_Delete]) -> None:
        entries = [
            {"Id": str(n), "ReceiptHandle": self._receipts.get(message.id, message.receipt)} for n, (message, _) in enumerate(batch)
        ]
        try:
            answer = await self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)
        except AWS_ERRORS as error:
            return _settle((done for _, done in batch), unavailable("sqs", error, _SETTING))
        # HTTP 200 may still carry failures, entry by entry.
        failed = {int(entry["Id"]): entry for entry in answer.get("Failed", ())}
        for n, (message, done) in enumerate(batch):
            entry = failed.get(n)
            if entry is None or entry.get("SenderFault"):
                # Our fault is a handle that has expired: no further try can succeed. The message comes again, and then the ledger knows.
                self._receipts.pop(message.id, None)
                self._sent.pop(message.id, None)
                _settle([done], None)
            else:
                _settle([done], Unavailable("SQS", _SETTING, f"delete refused: {entry.get('Code')}"))
        return None

    async def _extend_while_in_work(self) -> None:
        timeout = await self._visibility()
        pause = timeout / 2
        while True:
            await asyncio.sleep(pause)
            # What failed is tried again well before it comes back; if it does, that costs a look into the ledger, nothing else.
            pause = timeout / 2 if await self._extend(timeout) else timeout / 8

    async def _extend(self, timeout: int) -> bool:
        """Whether no entry has to be tried again soon."""
        ids, well = list(self._receipts), True
        for start in range(0, len(ids), _BATCH):
            # Looked up now: what was deleted or given back since must not be hidden again.
            receipts = [self._receipts[id_] for id_ in ids[start : start + _BATCH] if id_ in self._receipts]
            entries = [{"Id": str(n), "ReceiptHandle": receipt, "VisibilityTimeout": timeout} for n, receipt in enumerate(receipts)]
            try:
                answer = await self._client.change_message_visibility_batch(QueueUrl=self._url, Entries=entries) if entries else {}
            except AWS_ERRORS:
                well = False
            else:
                # Our fault is a handle that has expired, or the 12 hours that a message may be in flight: no further try can succeed.
                well = well and all(entry.get("SenderFault") for entry in answer.get("Failed", ()))
        return well

    async def _visibility(self) -> int:
        """The queue's own timeout in seconds: ReceiveMessage does not tell it. Says so if the queue takes messages away before we do."""
        while True:
            try:
                names = ["VisibilityTimeout", "RedrivePolicy"]
                answer = await self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=names)
            except AWS_ERRORS:
                await asyncio.sleep(5)
                continue
            found = answer["Attributes"]
            most = int(json.loads(found.get("RedrivePolicy") or "{}").get("maxReceiveCount", 0))
            if 0 < most <= self._max_receives:
                self._log.warning(
                    f"The queue's redrive policy (maxReceiveCount={most}) takes messages away before EXPORT_QUEUE_MAX_RECEIVES="
                    f"{self._max_receives} does, and whoever waits for them is not told; set EXPORT_QUEUE_MAX_RECEIVES below it",
                    setting="EXPORT_QUEUE_MAX_RECEIVES",
                )
            return max(2, int(found["VisibilityTimeout"]))


@asynccontextmanager
async def open_queue(client: Any, url: str, wait_seconds: int, max_receives: int, log: Any) -> AsyncIterator[SqsQueue]:
    """The queue with its background work: deletes in batches, and visibility."""
    queue = SqsQueue(client, url, wait_seconds, max_receives, log)
    queue.start()
    try:
        yield queue
    finally:
        await queue.stop()


def _settle(waiting: Iterable["asyncio.Future[None]"], error: Unavailable | None) -> None:
    for done in waiting:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)


def _message(raw: dict[str, Any], fifo: bool) -> QueueMessage:
    attributes = {
        name: str(value.get("StringValue") or value.get("BinaryValue", b"").hex())
        for name, value in raw.get("MessageAttributes", {}).items()
    }
    system = raw.get("Attributes", {})
    if "AWSTraceHeader" in system:
        attributes.setdefault("AWSTraceHeader", system["AWSTraceHeader"])
    return QueueMessage(
        id=raw["MessageId"],
        body=raw["Body"],
        receipt=raw["ReceiptHandle"],
        receive_count=int(system.get("ApproximateReceiveCount", 1)),
        attributes=attributes,
        # Standard queues may have groups too, but for fairness: they promise no order.
        group=system.get("MessageGroupId") if fifo else None,
    )
