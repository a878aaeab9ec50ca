"""The connector: SQS -> requests. Long polls, checks, notes the attempt (with its token) in the ledger, publishes, and deletes last.

A job's first token asks for its plan; each other one tells the tally, which knows how far the job is, that somebody else waits.

Whatever dies in between, the message comes again and the ledger knows how far it had got. A message that is wrong goes to dead-letters,
and the state that waits for it is told at once. So does one that brings the connector down each time it comes: poison.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from traceback import extract_tb
from typing import Any, TypeVar

from export_service import metric_names as names
from export_service.backoff import pauses
from export_service.callbacks import failure
from export_service.failures import CallbackError, CallbackThrottled, RequestRejected, Unavailable
from export_service.messages import AttemptOpened, DeadLetter
from export_service.metrics import Metrics
from export_service.ports import Clock, Ledger, Publisher, QueueMessage, RequestQueue, TaskCallback
from export_service.redaction import body_without_secrets, names_token, without_secrets
from export_service.requests import Parsed, Policy, parse
from export_service.samples import Sample
from export_service.sealing import new_key
from export_service.settings import Callback, Queue

T = TypeVar("T")
_TELL_TRIES = 4
"""Of a rejection's answer that is throttled. It is not kept anywhere: after these the state waits for its own time-out."""


class _Stopping(Exception):
    """Told to stop while a dependency was away."""


class Intake:
    """`run` until stopped, once. At a stop the long polls end, messages in work are finished, all others go back to the queue at once.
    Who does not want to wait for the messages in work cancels it: they go back too.

    Messages of one group, as a FIFO queue has them, are taken one after the other; if one is not done with, all behind it go back.

    While a dependency is away, messages are kept and tried again rather than released: each release would count as a receive, and the
    queue's redrive policy would take good messages away during an outage.
    """

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
        metrics: Metrics,
        *,
        requests_topic: str,
        results_topic: str,
        dead_letters_topic: str,
        log: Any,
    ) -> None:
        self._queue, self._ledger, self._publisher, self._callback = queue, ledger, publisher, callback
        self._clock, self._policy, self._settings, self._answers = clock, policy, settings, answers
        self._requests, self._results, self._dead_letters = requests_topic, results_topic, dead_letters_topic
        self._metrics, self._log = metrics, log
        self._slots = asyncio.Semaphore(settings.max_in_flight)
        self._work: set[asyncio.Task[None]] = set()
        self._last: dict[str, asyncio.Task[None]] = {}
        self._not_begun: list[QueueMessage] = []
        self._away: set[str] = set()
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Returns after `stop`, when no message is in work any more. Raises what is a defect, after all that a stop does; its message
        comes again when its visibility timeout is over."""
        receivers = [asyncio.create_task(self._receive()) for _ in range(self._settings.receivers)]
        events = [asyncio.create_task(event.wait()) for event in (stop, self._stop)]
        try:
            await asyncio.wait([*events, *receivers], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stop.set()
            for task in (*events, *receivers):
                task.cancel()
            ended = await asyncio.gather(*receivers, return_exceptions=True)
            await asyncio.gather(*map(self._give_back, self._not_begun), *self._work, return_exceptions=True)
        for error in (self._failure, *ended):
            if error is not None and not isinstance(error, asyncio.CancelledError):
                raise error

    def samples(self) -> Iterator[Sample]:
        yield Sample(names.QUEUE_WORK, len(self._work))

    async def _receive(self) -> None:
        with suppress(_Stopping):
            while True:
                messages = await self._until_available(self._queue.receive)
                try:
                    while messages:
                        await self._slots.acquire()
                        self._begin(messages.pop(0))
                finally:
                    self._not_begun += messages

    def _begin(self, message: QueueMessage) -> None:
        before = self._last.get(message.group) if message.group else None
        task = asyncio.create_task(self._take(message) if before is None else self._take_after(before, message))
        self._work.add(task)
        if message.group:
            self._last[message.group] = task
        task.add_done_callback(partial(self._done, message.group))

    def _done(self, group: str | None, task: "asyncio.Task[None]") -> None:
        self._work.discard(task)
        self._slots.release()
        if group and self._last.get(group) is task:
            del self._last[group]
        if not task.cancelled() and (error := task.exception()) and self._failure is None:
            self._failure = error
            self._stop.set()

    async def _take_after(self, before: "asyncio.Task[None]", message: QueueMessage) -> None:
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([before, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        # The one before is deleted, or else there is a stop: nothing is given back, and nothing fails, without one.
        await (self._give_back(message) if self._stop.is_set() else self._take(message, behind=True))

    async def _take(self, message: QueueMessage, *, behind: bool = False) -> None:
        """`behind` others of its group it may have come often because of them alone."""
        receives, most = message.receive_count, self._settings.max_receives
        token: str | None = None
        try:
            try:
                if receives > most and not behind:
                    await self._put_away(message, "was never done with: the connector ended each time, maybe because of it")
                else:
                    parsed = parse(message.body, self._policy)
                    token = parsed.token
                    await self._until_available(lambda: self._request(message, parsed))
            except RequestRejected as rejected:
                await self._reject(message, rejected, token or rejected.token)
            except _Stopping:
                raise
            except Exception as error:
                if receives < most:
                    raise
                last = extract_tb(error.__traceback__)[-1]
                # Not its text, which may quote the message.
                await self._put_away(message, f"cannot be handled: {type(error).__name__} in {last.name}, line {last.lineno}")
            await self._until_available(lambda: self._queue.delete(message))
        except _Stopping:
            await self._give_back(message)
        except asyncio.CancelledError:
            await self._give_back(message)
            raise

    async def _request(self, message: QueueMessage, parsed: Parsed) -> None:
        now = self._clock.now()
        attempt = await self._ledger.open_attempt(parsed.job_id, parsed.token, parsed.digest, new_key(), now)
        if attempt.request_digest != parsed.digest:
            raise RequestRejected(
                f"jobId: {parsed.job_id} is known with another request; use a new jobId for another export",
                job_id=parsed.job_id,
                # The token of a job that runs is that job's to answer.
                token=None if parsed.token == attempt.token else parsed.token,
            )
        if attempt.published:
            self._log.info("Request came again", jobId=parsed.job_id, receiveCount=message.receive_count)
            return
        first = replace(attempt, number=attempt.first)
        headers = {
            name: without_secrets(value, parsed.token).encode()
            for name, value in message.attributes.items()
            if not names_token(name)
        }
        key = parsed.job_id.encode()
        if not attempt.begun:
            # Also when another token was here first: whoever took that one may have died before Kafka had the request.
            request = parsed.requested(first, now, message.id)
            await (await self._publisher.send(self._requests, key, request.to_bytes(), headers=headers))
        if attempt.number != attempt.first:
            opened = AttemptOpened(request=parsed.requested(attempt, now, message.id))
            await (await self._publisher.send(self._results, key, opened.to_bytes(), headers=headers))
        await self._ledger.mark_published(parsed.job_id, attempt.number)
        if attempt.number == attempt.first:
            self._metrics.jobs_accepted.labels("true" if parsed.token else "false").inc()
        self._log.info(
            "Processing export job",
            jobId=parsed.job_id,
            exportId=parsed.message.export_id,
            hasTaskToken=parsed.token is not None,
            **({"attempt": attempt.number} if attempt.number > 1 else {}),
        )

    async def _reject(self, message: QueueMessage, rejected: RequestRejected, secret: str | None) -> None:
        told = None if rejected.token is None else await self._tell(rejected, rejected.token)
        letter = DeadLetter(
            source=f"sqs:{self._queue.name}",
            reason=rejected.reason,
            job_id=rejected.job_id,
            message_id=message.id,
            receive_count=message.receive_count,
            body=body_without_secrets(message.body, secret),
            told_step_functions=told,
            at=self._clock.now(),
        ).to_bytes()
        key = (rejected.job_id or message.id).encode()

        async def publish() -> None:
            await (await self._publisher.send(self._dead_letters, key, letter))

        await self._until_available(publish)
        self._metrics.dead_letters.labels("sqs").inc()
        self._metrics.requests_rejected.labels({None: "no_token", True: "true", False: "false"}[told]).inc()
        self._log.warning("Rejected export request", jobId=rejected.job_id, messageId=message.id, reason=rejected.reason)

    async def _put_away(self, message: QueueMessage, why: str) -> None:
        """Poison: rejected, unless the ledger says that its request was accepted. If it cannot say, nobody is told."""
        reason = f"{why} (received {message.receive_count} times, EXPORT_QUEUE_MAX_RECEIVES={self._settings.max_receives})"
        rejected, token = RequestRejected(reason), None
        try:
            parsed = parse(message.body, self._policy)
            rejected, token = RequestRejected(reason, job_id=parsed.job_id), parsed.token
            known = await self._until_available(lambda: self._ledger.find_attempt(parsed.job_id, parsed.token))
            if known is None or known.request_digest == parsed.digest:
                rejected.token = token
                if known and (known.published or known.claimed or known.answer):
                    self._log.info("Request came again", jobId=parsed.job_id, receiveCount=message.receive_count)
                    return
        except RequestRejected as bad:
            rejected, token = bad, bad.token
        except _Stopping:
            raise
        except Exception as error:
            self._log.error(
                "Cannot find out about a message that failed too often", messageId=message.id, error=type(error).__name__
            )
        await self._reject(message, rejected, token)

    async def _tell(self, rejected: RequestRejected, token: str) -> bool:
        """ExportRejected to the waiting state; one that cannot be told times out, as it would have without us."""
        details = {"jobId": rejected.job_id} if rejected.job_id else {}
        payload = failure("ExportRejected", rejected.reason, self._answers.cause, details)
        code = ""
        for pause in islice(pauses(0.2, 2), _TELL_TRIES):
            try:
                await self._callback.failure(token, payload.error, payload.cause)
                return True
            except CallbackError as error:
                code = error.code
                self._metrics.not_accepted(error)
                if not isinstance(error, CallbackThrottled) or await self._stopped_within(pause):
                    break
        text = f"Failed to send Step Functions callback for job {rejected.job_id}: {code}"
        self._log.error(text, jobId=rejected.job_id, error=code)
        return False

    async def _give_back(self, message: QueueMessage) -> None:
        # A message that cannot be released comes again by itself, when its visibility timeout is over.
        with suppress(Unavailable):
            await self._queue.release(message)

    async def _until_available(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call again until all answer; one line in the log when a dependency goes away, one when it is back.

        Raises _Stopping instead of a pause once the intake is told to stop.
        """
        mine: set[str] = set()
        for pause in pauses(0.2, 30):
            try:
                value = await call()
            except Unavailable as error:
                if error.what not in self._away:
                    self._log.warning(str(error), setting=error.setting)
                self._away.add(error.what)
                mine.add(error.what)
                if await self._stopped_within(pause):
                    raise _Stopping from None
                continue
            for what in sorted(mine & self._away):
                self._log.info("Dependency answers again", dependency=what)
                self._away.discard(what)
            return value
        raise AssertionError("pauses never end")

    async def _stopped_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        return self._stop.is_set()
