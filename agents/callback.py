"""completions -> report, Step Functions, callbacks: writes the job's report, then answers the waiting state, once.

A callback that fails never fails a job. The answer is claimed in the ledger, sent, and what Step Functions said is kept there and published
on `callbacks`. A completion that comes again finds that, and only publishes it again; after a crash between the call and its record, the
token that is refused is known to be one that we may have used.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, Literal
from weakref import WeakValueDictionary

from aiolimiter import AsyncLimiter
from pydantic import ValidationError

from agents.report import Reporter, write_with_retries
from export_service.backoff import pauses, until_available
from export_service.callbacks import Failure, Success, answer, cut
from export_service.failures import CallbackDenied, CallbackInvalid, CallbackRefused, CallbackThrottled
from export_service.messages import CallbackAnswered, CallbackOutcome, JobCompleted
from export_service.metrics import Metrics
from export_service.ports import Clock, Ledger, Publisher, TaskCallback
from export_service.redaction import fingerprint, redact
from export_service.settings import Callback as CallbackSettings
from streams.ack_window import Entry
from streams.dead_letters import DeadLetters
from streams.steps import Handle, Incoming
from streams.topics import Topics

_BESIDE = 10_000
"""Tasks of a job, up to which its report is written while its answer is claimed. After a crash between claim and call nobody knows whether
a token that is refused was used: a claim does not wait for a report that takes seconds."""


class Answerer:
    def __init__(
        self, callback: TaskCallback, ledger: Ledger, clock: Clock, settings: CallbackSettings, metrics: Metrics, log: Any
    ) -> None:
        self._callback, self._ledger, self._clock, self._settings = callback, ledger, clock, settings
        self._metrics, self._log = metrics, log
        # Only the call itself holds a slot: a job that waits to try again holds nobody up.
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._rate = AsyncLimiter(settings.per_second, 1)

    async def answer(self, completed: JobCompleted, report: Awaitable[str | None]) -> CallbackAnswered | None:
        """When the report is written tell Step Functions, unless it was told already; what it said, or None if nobody waits.

        Args:
            report: writes it; its URI, None if there is none.
        """
        job, writing = completed.snapshot, asyncio.ensure_future(report)
        if (job.total_tasks or 0) > _BESIDE:
            await writing
        claim = until_available(lambda: self._ledger.claim(job.job_id, job.attempt, self._clock.now()), self._log)
        attempt, report_uri = await asyncio.gather(claim, writing)
        if attempt is None or attempt.token is None:
            return None
        if attempt.answer is not None:
            # Its record on `callbacks` may have been lost with the worker that had this answer.
            return attempt.answer
        payload = answer(job, self._settings.cause, report_uri)
        said = await self._send(completed, attempt.token, payload, maybe_accepted=attempt.claimed)
        await until_available(lambda: self._ledger.record_answer(said), self._log)
        # Not before: an answer that is in the ledger is not given, and so not counted, again.
        self._metrics.answered(said)
        return said

    async def _send(
        self, completed: JobCompleted, token: str, payload: Success | Failure, *, maybe_accepted: bool
    ) -> CallbackAnswered:
        job = completed.snapshot
        waits = pauses(self._settings.backoff_seconds, self._settings.max_backoff_seconds)
        for tries, pause in enumerate(waits, start=1):
            call: Literal["SendTaskSuccess", "SendTaskFailure"] = "SendTaskFailure"
            try:
                async with self._slots, self._rate:
                    if isinstance(payload, Success):
                        call = "SendTaskSuccess"
                        await self._callback.success(token, payload.output)
                    else:
                        await self._callback.failure(token, payload.error, payload.cause)
                kind = "success" if call == "SendTaskSuccess" else "failure"
                self._log.info(
                    f"Sent Step Functions {kind} callback for job {job.job_id}", jobId=job.job_id, taskToken=redact(token)
                )
                return self._answered(completed, token, call, CallbackOutcome.SENT, None, tries)
            except CallbackRefused as error:
                self._metrics.not_accepted(error)
                # The answer to an earlier try may have been lost on its way to us: then the refused token is one we used.
                outcome = CallbackOutcome.DUPLICATE if maybe_accepted else CallbackOutcome.ORPHANED
                if outcome is CallbackOutcome.ORPHANED:
                    self._failed(completed, error.code)
                return self._answered(completed, token, call, outcome, error.code, tries)
            except CallbackInvalid as error:
                self._metrics.not_accepted(error)
                self._failed(completed, error.code)
                if isinstance(payload, Failure):
                    return self._answered(completed, token, call, CallbackOutcome.ORPHANED, error.code, tries)
                payload = Failure("InvalidOutput", cut(f"Step Functions refused the job's output: {error}", 1000))
            except CallbackThrottled as error:
                self._metrics.not_accepted(error)
                maybe_accepted = True
                self._log.warning("Step Functions callback will be retried", jobId=job.job_id, error=error.code, tries=tries)
                await asyncio.sleep(pause)
            except CallbackDenied as error:
                self._metrics.not_accepted(error)
                self._failed(
                    completed, error.code, wayOut="allow states:SendTaskSuccess and states:SendTaskFailure, in the token's Region"
                )
                await asyncio.sleep(self._settings.max_backoff_seconds)
        raise AssertionError("pauses never end")

    def _failed(self, completed: JobCompleted, code: str, **more: str) -> None:
        job_id = completed.snapshot.job_id
        self._log.error(f"Failed to send Step Functions callback for job {job_id}: {code}", jobId=job_id, error=code, **more)

    def _answered(
        self,
        completed: JobCompleted,
        token: str,
        call: Literal["SendTaskSuccess", "SendTaskFailure"],
        outcome: CallbackOutcome,
        error: str | None,
        tries: int,
    ) -> CallbackAnswered:
        job, now = completed.snapshot, self._clock.now()
        # A new token for a job that succeeded before asks for its answer long after `completed_at`.
        latency = max(0, round((now - job.updated_at).total_seconds() * 1000))
        return CallbackAnswered(
            job_id=job.job_id,
            attempt=job.attempt,
            call=call,
            outcome=outcome,
            error=error,
            token=fingerprint(token),
            tries=tries,
            answered_at=now,
            latency_ms=latency,
        )


def callback(
    answerer: Answerer, reporter: Reporter, publisher: Publisher, dead_letters: DeadLetters, topics: Topics, log: Any
) -> Handle:
    writing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def written(completed: JobCompleted) -> str | None:
        # In their order: where many are read again, the report of an earlier run must not be the last that is written.
        async with writing.setdefault(completed.snapshot.job_id, asyncio.Lock()):
            return await until_available(lambda: write_with_retries(reporter, completed, log), log)

    async def handle(record: Incoming, entry: Entry) -> None:
        try:
            completed = JobCompleted.model_validate_json(record.value or b"")
        except ValidationError as error:
            return entry.after([await dead_letters.put(record, error)])
        said = await answerer.answer(completed, written(completed))
        if said is None:
            return entry.done()
        key = said.job_id.encode()
        return entry.after([await publisher.send(topics.callbacks.name, key, said.to_bytes())])

    return handle
