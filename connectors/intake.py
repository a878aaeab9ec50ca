"""The connector: SQS -> requests. Long polls, checks, notes the attempt (with its token) in the ledger, publishes, and deletes last.

Whatever dies in between, the message comes again and the ledger knows how far it had got. A message that is wrong goes to dead-letters,
and the state that waits for it is told at once.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from export_service.backoff import pauses, until_available
from export_service.callbacks import failure
from export_service.failures import CallbackError, RequestRejected, Unavailable
from export_service.messages import DeadLetter
from export_service.ports import Clock, Ledger, Publisher, QueueMessage, RequestQueue, TaskCallback
from export_service.redaction import without_secrets
from export_service.requests import Parsed, Policy, parse
from export_service.sealing import new_key
from export_service.settings import Callback, Queue


class Intake:
    """`run` until stopped. At a stop, messages in work are finished; the long polls end at once."""

    def __init__(
        self,
        queue: RequestQueue,
        ledger: Ledger,
        publisher: Publisher,
        callback: TaskCallback,
        clock: Clock,
        policy: Policy,
        settings: Queue,
        answers: Callback,
        *,
        requests_topic: str,
        dead_letters_topic: str,
        log: Any,
    ) -> None:
        self._queue, self._ledger, self._publisher, self._callback = queue, ledger, publisher, callback
        self._clock, self._policy, self._settings, self._answers = clock, policy, settings, answers
        self._requests, self._dead_letters, self._log = requests_topic, dead_letters_topic, log
        self._slots = asyncio.Semaphore(settings.max_in_flight)
        self._work: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        receivers = [asyncio.create_task(self._receive()) for _ in range(self._settings.receivers)]
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([stopped, *receivers], return_when=asyncio.FIRST_COMPLETED)
            for receiver in receivers:
                if receiver.done():
                    receiver.result()  # only a defect ends a receiver: let it be seen
        finally:
            for task in (stopped, *receivers):
                task.cancel()
            await asyncio.gather(stopped, *receivers, return_exceptions=True)
            await asyncio.gather(*self._work)

    async def _receive(self) -> None:
        while True:
            messages = await until_available(self._queue.receive, self._log)
            for message in messages:
                await self._slots.acquire()
                self._spawn(self._take(message))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _take(self, message: QueueMessage) -> None:
        try:
            for pause in pauses(0.2, 30):
                try:
                    return await self._handle(message)
                except Unavailable as error:
                    self._log.warning(str(error), setting=error.setting, messageId=message.id)
                    await asyncio.sleep(pause)
        finally:
            self._slots.release()

    async def _handle(self, message: QueueMessage) -> None:
        try:
            await self._request(message, parse(message.body, self._policy))
        except RequestRejected as rejected:
            await self._reject(message, rejected)
        await self._queue.delete(message)

    async def _request(self, message: QueueMessage, parsed: Parsed) -> None:
        now = self._clock.now()
        attempt = await self._ledger.open_attempt(parsed.job_id, parsed.token, parsed.digest, new_key(), now)
        if attempt.request_digest != parsed.digest:
            raise RequestRejected(
                f"jobId: {parsed.job_id} is known with another request; use a new jobId for another export",
                job_id=parsed.job_id,
                token=parsed.token,
            )
        if attempt.published:
            self._log.info("Request came again", jobId=parsed.job_id, receiveCount=message.receive_count)
            return
        record = parsed.requested(attempt, now, message.id)
        headers = {name: value.encode() for name, value in message.attributes.items()}
        await (await self._publisher.send(self._requests, parsed.job_id.encode(), record.to_bytes(), headers=headers))
        await self._ledger.mark_published(parsed.job_id, attempt.number)
        self._log.info(
            "Processing export job",
            jobId=parsed.job_id,
            exportId=parsed.message.export_id,
            hasTaskToken=parsed.token is not None,
        )

    async def _reject(self, message: QueueMessage, rejected: RequestRejected) -> None:
        told = None
        if rejected.token is not None:
            told = await self._tell(rejected, rejected.token)
        letter = DeadLetter(
            source=f"sqs:{self._queue.name}",
            reason=rejected.reason,
            job_id=rejected.job_id,
            message_id=message.id,
            receive_count=message.receive_count,
            body=without_secrets(message.body),
            told_step_functions=told,
            at=self._clock.now(),
        )
        key = (rejected.job_id or message.id).encode()
        await (await self._publisher.send(self._dead_letters, key, letter.to_bytes()))
        self._log.warning("Rejected export request", jobId=rejected.job_id, messageId=message.id, reason=rejected.reason)

    async def _tell(self, rejected: RequestRejected, token: str) -> bool:
        """ExportRejected to the waiting state; one that cannot be told times out, as it would have without us."""
        details = {"jobId": rejected.job_id} if rejected.job_id else {}
        payload = failure("ExportRejected", rejected.reason, self._answers.cause, details)
        try:
            await self._callback.failure(token, payload.error, payload.cause)
        except CallbackError as error:
            text = f"Failed to send Step Functions callback for job {rejected.job_id}: {error.code}"
            self._log.error(text, jobId=rejected.job_id, error=error.code)
            return False
        return True
