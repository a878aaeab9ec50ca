"""The connector step over memory ports: ledger, then Kafka, then delete; and what happens when something does not answer."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import structlog

from connectors.intake import Intake
from connectors.memory import MemoryCallback, MemoryLedger, MemoryPublisher, MemoryQueue, SystemClock
from export_service.failures import CallbackRefused, Unavailable
from export_service.messages import AttemptOpened, DeadLetter, ExportRequested
from export_service.metrics import Metrics
from export_service.requests import Policy, parse
from export_service.settings import Callback, Queue
from tests.waiting import until

JOB = "550e8400-e29b-41d4-a716-446655440000"


class Bench:
    def __init__(self) -> None:
        self.queue, self.ledger = MemoryQueue(), MemoryLedger()
        self.publisher: MemoryPublisher = MemoryPublisher()
        self.callback, self.metrics = MemoryCallback(), Metrics()
        self.policy = Policy("s3://exports/{exportId}.jsonl", "file:///out/{jobId}/", ())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        intake = Intake(
            self.queue,
            self.ledger,
            self.publisher,
            self.callback,
            SystemClock(),
            self.policy,
            Queue(receivers=2),
            Callback(),
            self.metrics,
            requests_topic="requests",
            results_topic="results",
            dead_letters_topic="dead",
            log=structlog.get_logger(),
        )
        stop = asyncio.Event()
        task = asyncio.create_task(intake.run(stop))
        try:
            yield
        finally:
            stop.set()
            await asyncio.wait_for(task, 10)


def message(**fields: Any) -> str:
    return json.dumps({"jobId": JOB, "exportId": "e", "userId": "u"} | fields)


async def test_a_request_is_in_the_ledger_with_its_token_and_on_kafka_without_before_it_is_deleted() -> None:
    bench = Bench()
    bench.publisher.confirm = False
    bench.queue.send(message(taskToken="secret-token"), {"traceparent": "00-1-2-01"})
    async with bench.running():
        await until(lambda: bool(bench.publisher.pending))
        assert bench.ledger.attempts[JOB, 1].token == "secret-token"
        assert not bench.queue.deleted
        bench.publisher.pending[0].set_result(None)
        await until(lambda: bench.queue.deleted == ["m1"])
    (value,) = bench.publisher.values("requests")
    assert ExportRequested.model_validate_json(value).job.has_task_token
    assert b"secret-token" not in value
    assert bench.publisher.headers == [{"traceparent": b"00-1-2-01"}]
    assert bench.ledger.attempts[JOB, 1].published


async def test_a_message_that_comes_again_is_published_once_and_a_new_token_opens_an_attempt() -> None:
    bench = Bench()
    async with bench.running():
        for n, token in enumerate(("one", "one", "two", "two")):
            bench.queue.send(message(taskToken=token))
            await until(lambda sent=n: len(bench.queue.deleted) == sent + 1)  # type: ignore[misc]
    (requested,) = map(ExportRequested.model_validate_json, bench.publisher.values("requests"))
    (opened,) = map(AttemptOpened.model_validate_json, bench.publisher.values("results"))
    assert (requested.job.attempt, opened.job.attempt, opened.job.has_task_token) == (1, 2, True)
    assert opened.request.model_copy(update={"job": None, "message_id": None}) == requested.model_copy(
        update={"job": None, "message_id": None}
    )


async def test_a_second_token_brings_the_first_ones_request_too_if_kafka_never_had_it() -> None:
    bench = Bench()
    digest = parse(message(taskToken="one"), bench.policy).digest
    await bench.ledger.open_attempt(JOB, "one", digest, b"k" * 32, datetime.now(UTC))
    bench.queue.send(message(taskToken="two"))
    async with bench.running():
        await until(lambda: len(bench.queue.deleted) == 1)
    (requested,) = map(ExportRequested.model_validate_json, bench.publisher.values("requests"))
    (opened,) = map(AttemptOpened.model_validate_json, bench.publisher.values("results"))
    assert (requested.job.attempt, opened.job.attempt) == (1, 2)


async def test_a_known_job_with_another_request_is_rejected() -> None:
    bench = Bench()
    async with bench.running():
        bench.queue.send(message())
        await until(lambda: len(bench.queue.deleted) == 1)
        bench.queue.send(message(exportId="other", taskToken="t"))
        await until(lambda: len(bench.queue.deleted) == 2)
    assert [answer[:3] for answer in bench.callback.answers] == [("failure", "t", "ExportRejected")]


async def test_a_bad_message_goes_whole_to_the_dead_letters_and_its_state_is_told_even_if_that_fails() -> None:
    bench = Bench()

    def refuse(_: str) -> None:
        raise CallbackRefused("TaskDoesNotExist")

    bench.callback.refuse = refuse
    bench.queue.send(message(taskToken="secret-token", files=[{"url": "ftp://h/x?sig=canary"}], keep="ä"))
    async with bench.running():
        await until(lambda: bench.queue.deleted == ["m1"])
    (value,) = bench.publisher.values("dead")
    letter = DeadLetter.model_validate_json(value)
    assert (letter.job_id, letter.told_step_functions, letter.source) == (JOB, False, "sqs:export-jobs")
    assert letter.body is not None
    assert json.loads(letter.body)["files"] == [{"url": "ftp://h/x?(redacted)"}]
    assert b"secret-token" not in value
    assert b"canary" not in value


async def test_while_kafka_does_not_answer_nothing_is_deleted_and_afterwards_all_goes_on() -> None:
    down = True

    def refuse(_: str) -> None:
        if down:
            raise Unavailable("Kafka", "EXPORT_KAFKA_BOOTSTRAP_SERVERS", "refused")

    bench = Bench()
    bench.publisher.refuse = refuse
    bench.queue.send(message())
    with structlog.testing.capture_logs() as logs:
        async with bench.running():
            await until(lambda: any(line.get("setting") == "EXPORT_KAFKA_BOOTSTRAP_SERVERS" for line in logs))
            assert not bench.queue.deleted
            down = False
            await until(lambda: bench.queue.deleted == ["m1"])
    assert "check EXPORT_KAFKA_BOOTSTRAP_SERVERS" in next(line["event"] for line in logs if "setting" in line)
    assert len(bench.publisher.values("requests")) == 1
