"""The connector step over memory ports: ledger, then Kafka, then delete; and what happens when something does not answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog

from connectors.intake import Intake
from connectors.memory import MemoryCallback, MemoryLedger, MemoryPublisher, MemoryQueue, SystemClock
from export_service.failures import CallbackRefused, Unavailable
from export_service.messages import DeadLetter, ExportRequested
from export_service.requests import Policy
from export_service.settings import Callback, Queue

JOB = "550e8400-e29b-41d4-a716-446655440000"


class Bench:
    def __init__(self) -> None:
        self.queue, self.ledger = MemoryQueue(), MemoryLedger()
        self.publisher: MemoryPublisher = MemoryPublisher()
        self.callback = MemoryCallback()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        intake = Intake(
            self.queue,
            self.ledger,
            self.publisher,
            self.callback,
            SystemClock(),
            Policy("s3://exports/{exportId}.jsonl", "file:///out/{jobId}/", ()),
            Queue(receivers=2),
            Callback(),
            requests_topic="requests",
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

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.002)


def message(**fields: Any) -> str:
    return json.dumps({"jobId": JOB, "exportId": "e", "userId": "u"} | fields)


async def test_a_request_is_in_the_ledger_with_its_token_and_on_kafka_without_before_it_is_deleted() -> None:
    bench = Bench()
    bench.publisher.confirm = False
    bench.queue.send(message(taskToken="secret-token"), {"traceparent": "00-1-2-01"})
    async with bench.running():
        await bench.until(lambda: bool(bench.publisher.pending))
        assert bench.ledger.attempts[JOB, 1].token == "secret-token"
        assert not bench.queue.deleted
        bench.publisher.pending[0].set_result(None)
        await bench.until(lambda: bench.queue.deleted == ["m1"])
    (value,) = bench.publisher.values("requests")
    assert ExportRequested.model_validate_json(value).job.has_task_token
    assert b"secret-token" not in value
    assert bench.publisher.headers == [{"traceparent": b"00-1-2-01"}]
    assert bench.ledger.attempts[JOB, 1].published


async def test_a_message_that_comes_again_is_published_once_and_a_new_token_is_a_new_attempt() -> None:
    bench = Bench()
    for token in ("one", "one", "two"):
        bench.queue.send(message(taskToken=token))
    async with bench.running():
        await bench.until(lambda: len(bench.queue.deleted) == 3)
    attempts = [ExportRequested.model_validate_json(value).job.attempt for value in bench.publisher.values("requests")]
    assert sorted(set(attempts)) == [1, 2]


async def test_a_known_job_with_another_request_is_rejected() -> None:
    bench = Bench()
    async with bench.running():
        bench.queue.send(message())
        await bench.until(lambda: len(bench.queue.deleted) == 1)
        bench.queue.send(message(exportId="other", taskToken="t"))
        await bench.until(lambda: len(bench.queue.deleted) == 2)
    assert [answer[:3] for answer in bench.callback.answers] == [("failure", "t", "ExportRejected")]


async def test_a_bad_message_goes_whole_to_the_dead_letters_and_its_state_is_told_even_if_that_fails() -> None:
    bench = Bench()

    def refuse(_: str) -> None:
        raise CallbackRefused("TaskDoesNotExist")

    bench.callback.refuse = refuse
    bench.queue.send(message(taskToken="secret-token", files=[{"url": "ftp://h/x?sig=canary"}], keep="ä"))
    async with bench.running():
        await bench.until(lambda: bench.queue.deleted == ["m1"])
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
            await bench.until(lambda: any(line.get("setting") == "EXPORT_KAFKA_BOOTSTRAP_SERVERS" for line in logs))
            assert not bench.queue.deleted
            down = False
            await bench.until(lambda: bench.queue.deleted == ["m1"])
    assert "check EXPORT_KAFKA_BOOTSTRAP_SERVERS" in next(line["event"] for line in logs if "setting" in line)
    assert len(bench.publisher.values("requests")) == 1
