"""In: the queue of requests. A message is deleted only when its request is safe on Kafka.

While a message is in work its visibility is extended at half the queue's own timeout, so that nobody else gets it. If it comes again
all the same, the newest receipt handle counts: SQS accepts a delete with an old one and does nothing.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from connectors.aws import unavailable
from export_service.failures import Unavailable
from export_service.ports import QueueMessage

_DELETE_AFTER = 0.02
"""Seconds that deletes wait for others to share a request with (10 at most)."""
_BATCH = 10


class SqsQueue:
    """The RequestQueue port. Use `open_queue`."""

    def __init__(self, client: Any, url: str, wait_seconds: int) -> None:
        self._client, self._url, self._wait = client, url, wait_seconds
        self._receipts: dict[str, str] = {}
        self._deletes: asyncio.Queue[tuple[str, asyncio.Future[None]]] = asyncio.Queue()

    @property
    def name(self) -> str:
        return self._url.rsplit("/", 1)[-1]

    async def receive(self) -> list[QueueMessage]:
        try:
            answer = await self._client.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=_BATCH,
                WaitTimeSeconds=self._wait,
                AttributeNames=["ApproximateReceiveCount"],
                MessageAttributeNames=["All"],
            )
        except (BotoCoreError, ClientError) as error:
            raise unavailable("sqs", error, "EXPORT_QUEUE_URL") from None
        messages = [_message(raw) for raw in answer.get("Messages", ())]
        self._receipts.update({message.id: message.receipt for message in messages})
        return messages

    async def delete(self, message: QueueMessage) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._deletes.put((message.id, done))
        await done

    async def release(self, message: QueueMessage, delay_seconds: int = 0) -> None:
        receipt = self._receipts.pop(message.id, message.receipt)
        try:
            await self._client.change_message_visibility(QueueUrl=self._url, ReceiptHandle=receipt, VisibilityTimeout=delay_seconds)
        except (BotoCoreError, ClientError) as error:
            raise unavailable("sqs", error, "EXPORT_QUEUE_URL") from None

    async def delete_in_batches(self) -> None:
        """Serves `delete` until cancelled."""
        while True:
            batch = [await self._deletes.get()]
            with suppress(TimeoutError):
                async with asyncio.timeout(_DELETE_AFTER):
                    while len(batch) < _BATCH:
                        batch.append(await self._deletes.get())
            await self._delete(batch)

    async def _delete(self, batch: list[tuple[str, "asyncio.Future[None]"]]) -> None:
        waiting = dict(batch)
        entries = [{"Id": str(n), "ReceiptHandle": self._receipts.get(id_, "")} for n, id_ in enumerate(waiting)]
        try:
            answer = await self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)
        except (BotoCoreError, ClientError) as error:
            return self._settle(batch, unavailable("sqs", error, "EXPORT_QUEUE_URL"))
        # HTTP 200 may still carry failures, entry by entry.
        failed = {int(entry["Id"]): str(entry.get("Code")) for entry in answer.get("Failed", ())}
        refused = {id_: failed[n] for n, id_ in enumerate(waiting) if n in failed}
        for id_, done in batch:
            if id_ in refused:
                self._settle([(id_, done)], Unavailable("SQS", "EXPORT_QUEUE_URL", f"delete refused: {refused[id_]}"))
            else:
                self._settle([(id_, done)], None)
        return None

    def _settle(self, batch: list[tuple[str, "asyncio.Future[None]"]], error: Unavailable | None) -> None:
        for id_, done in batch:
            if error is None:
                self._receipts.pop(id_, None)
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

    async def extend_while_in_work(self) -> None:
        """Keeps messages invisible that are neither deleted nor released, until cancelled."""
        timeout = await self._visibility()
        while True:
            await asyncio.sleep(timeout / 2)
            receipts = list(self._receipts.values())
            for start in range(0, len(receipts), _BATCH):
                entries = [
                    {"Id": str(n), "ReceiptHandle": receipt, "VisibilityTimeout": timeout}
                    for n, receipt in enumerate(receipts[start : start + _BATCH])
                ]
                # A message that cannot be extended comes again; that costs a look into the ledger, nothing else.
                with suppress(BotoCoreError, ClientError):
                    await self._client.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)

    async def _visibility(self) -> int:
        """The queue's own timeout in seconds: ReceiveMessage does not tell it."""
        while True:
            try:
                answer = await self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["VisibilityTimeout"])
                return max(2, int(answer["Attributes"]["VisibilityTimeout"]))
            except (BotoCoreError, ClientError):
                await asyncio.sleep(5)


@asynccontextmanager
async def open_queue(client: Any, url: str, wait_seconds: int) -> AsyncIterator[SqsQueue]:
    """The queue with its background work: deletes in batches, and visibility."""
    queue = SqsQueue(client, url, wait_seconds)
    tasks = [asyncio.create_task(queue.delete_in_batches()), asyncio.create_task(queue.extend_while_in_work())]
    try:
        yield queue
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _message(raw: dict[str, Any]) -> QueueMessage:
    attributes = {
        name: str(value.get("StringValue") or value.get("BinaryValue", b"").hex())
        for name, value in raw.get("MessageAttributes", {}).items()
    }
    return QueueMessage(
        id=raw["MessageId"],
        body=raw["Body"],
        receipt=raw["ReceiptHandle"],
        receive_count=int(raw.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
        attributes=attributes,
    )
