"""The connector when things go wrong around it: outages, a stop in the middle, defects, and callers who spread their secrets."""

import asyncio
import json
from collections import Counter
from functools import partial
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.intake import Intake
from connectors.memory import MemoryCallback, MemoryLedger, MemoryPublisher, MemoryQueue, SystemClock
from export_service.failures import CallbackThrottled, Unavailable
from export_service.messages import DeadLetter, ExportRequested
from export_service.metrics import Metrics
from export_service.ports import Attempt, QueueMessage
from export_service.requests import Policy
from export_service.settings import Callback, Queue
from tests.waiting import until

JOB = "550e8400-e29b-41d4-a716-446655440000"
TOKEN = "AAAAKgAAAAIAAAAAAAAAAcanary"


class Kafka(MemoryPublisher):
    away = False

    def __init__(self) -> None:
        super().__init__(refuse=self._refuse)

    def _refuse(self, _: str) -> None:
        if self.away:
            raise Unavailable("Kafka", "EXPORT_KAFKA_BOOTSTRAP_SERVERS", "refused")


class Sqs(MemoryQueue):
    """Counts releases; the first `refused` deletes fail."""

    def __init__(self) -> None:
        super().__init__()
        self.released: list[str] = []
        self.refused = 0

    async def delete(self, message: QueueMessage) -> None:
        if self.refused:
            self.refused -= 1
            raise Unavailable("SQS", "EXPORT_QUEUE_URL", "refused")
        await super().delete(message)

    async def release(self, message: QueueMessage, delay_seconds: int = 0) -> None:  # noqa: ARG002
        self.in_flight.pop(message.id)
        self.released.append(message.id)


class Bench:
    def __init__(self, **queue: int) -> None:
        self.queue, self.ledger, self.kafka, self.callback = Sqs(), MemoryLedger(), Kafka(), MemoryCallback()
        self.metrics = Metrics()
        self.settings = Queue(**{"receivers": 1} | queue)
        self.stop = asyncio.Event()

    def start(self) -> "asyncio.Task[None]":
        policy = Policy("s3://exports/{exportId}.jsonl", "file:///out/{jobId}/", ())
        intake = Intake(
            self.queue,
            self.ledger,
            self.kafka,
            self.callback,
            SystemClock(),
            policy,
            self.settings,
            Callback(),
            self.metrics,
            requests_topic="requests",
            results_topic="results",
            dead_letters_topic="dead",
            log=structlog.get_logger(),
        )
        return asyncio.create_task(intake.run(self.stop))

    async def finish(self, running: "asyncio.Task[None]") -> None:
        self.stop.set()
        await asyncio.wait_for(running, 10)

    def letters(self) -> list[DeadLetter]:
        return [DeadLetter.model_validate_json(value) for value in self.kafka.values("dead")]


def job(number: int) -> str:
    return f"{JOB[:-3]}{number:03d}"


def request(**fields: Any) -> str:
    return json.dumps({"jobId": JOB, "exportId": "e", "userId": "u"} | fields)


async def test_a_stop_finishes_what_is_in_work_and_gives_the_rest_back_at_once() -> None:
    bench = Bench(max_in_flight=1)
    bench.kafka.confirm = False
    ids = [bench.queue.send(request(jobId=job(n))) for n in range(9)]
    running = bench.start()
    await until(lambda: bool(bench.kafka.pending))
    bench.stop.set()
    await until(lambda: len(bench.queue.released) == 8)
    assert not running.done(), "the message in work is not confirmed yet"
    bench.kafka.pending[0].set_result(None)
    await asyncio.wait_for(running, 10)
    assert bench.queue.deleted == ids[:1]
    assert bench.queue.released == ids[1:]


async def test_no_more_messages_are_in_work_than_allowed() -> None:
    bench = Bench(max_in_flight=3, receivers=2)
    bench.kafka.confirm = False
    for n in range(12):
        bench.queue.send(request(jobId=job(n)))
    running = bench.start()
    for done in range(12):
        await until(partial(lambda done: len(bench.kafka.pending) > done, done))
        assert len(bench.kafka.pending) - done <= 3
        bench.kafka.pending[done].set_result(None)
    await until(lambda: len(bench.queue.deleted) == 12)
    await bench.finish(running)


async def test_an_outage_is_two_lines_whatever_waits_for_it() -> None:
    bench = Bench()
    bench.kafka.away = True
    for n in range(20):
        bench.queue.send(request(jobId=job(n)))
    with structlog.testing.capture_logs() as logs:
        running = bench.start()
        await until(lambda: len(bench.ledger.attempts) == 20)
        bench.kafka.away = False
        await until(lambda: len(bench.queue.deleted) == 20)
        await bench.finish(running)
    events = Counter(line["event"] for line in logs)
    assert events["Kafka does not answer (refused); check EXPORT_KAFKA_BOOTSTRAP_SERVERS"] == 1
    assert events["Dependency answers again"] == 1
    assert events["Processing export job"] == 20
    assert not bench.queue.released, "a release counts as a receive, and the redrive policy counts receives"


async def test_a_stop_during_an_outage_ends_and_gives_the_messages_back() -> None:
    bench = Bench()
    bench.kafka.away = True
    ids = [bench.queue.send(request(jobId=job(n))) for n in range(4)]
    running = bench.start()
    await until(lambda: len(bench.ledger.attempts) == 4)
    await bench.finish(running)
    assert sorted(bench.queue.released) == ids
    assert not bench.queue.deleted


async def test_a_queue_that_refuses_a_delete_gets_it_again_and_nothing_else_is_repeated() -> None:
    bench = Bench()
    bench.queue.refused = 3
    bench.queue.send(request(taskToken=TOKEN, prefix="ftp://x/"))
    running = bench.start()
    await until(lambda: bench.queue.deleted == ["m1"])
    await bench.finish(running)
    assert len(bench.letters()) == 1
    assert len(bench.callback.answers) == 1


async def test_a_rejection_is_told_once_although_its_dead_letter_has_to_wait() -> None:
    bench = Bench()
    bench.kafka.away = True
    bench.queue.send(request(taskToken=TOKEN, prefix="ftp://x/"))
    running = bench.start()
    await until(lambda: bool(bench.callback.answers))
    assert not bench.queue.deleted
    bench.kafka.away = False
    await until(lambda: bench.queue.deleted == ["m1"])
    await bench.finish(running)
    ((_, token, error, cause),) = bench.callback.answers
    assert (token, error) == (TOKEN, "ExportRejected")
    assert json.loads(cause) == {"error": "ExportRejected", "cause": bench.letters()[0].reason, "jobId": JOB}
    assert bench.letters()[0].told_step_functions is True


@pytest.mark.parametrize(("throttled", "told"), [(2, True), (99, False)])
async def test_a_throttled_answer_to_a_rejection_is_tried_a_few_times(throttled: int, told: bool) -> None:
    bench, tries = Bench(), 0

    def refuse(_: str) -> None:
        nonlocal tries
        tries += 1
        if tries <= throttled:
            raise CallbackThrottled("ThrottlingException")

    bench.callback.refuse = refuse
    bench.queue.send(request(taskToken=TOKEN, prefix="ftp://x/"))
    with structlog.testing.capture_logs() as logs:
        running = bench.start()
        await until(lambda: bench.queue.deleted == ["m1"])
        await bench.finish(running)
    assert bench.letters()[0].told_step_functions is told
    failed = [line for line in logs if line["log_level"] == "error"]
    assert [line["event"] for line in failed] == (
        [] if told else [f"Failed to send Step Functions callback for job {JOB}: ThrottlingException"]
    )


async def test_a_defect_ends_the_intake_and_leaves_the_message_on_the_queue() -> None:
    class Broken(MemoryLedger):
        async def mark_published(self, job_id: str, number: int) -> None:
            raise KeyError(job_id, number)

    bench = Bench()
    bench.ledger = Broken()
    bench.queue.send(request())
    with pytest.raises(KeyError):
        await asyncio.wait_for(bench.start(), 10)
    assert not bench.queue.deleted


async def test_the_token_of_a_running_job_is_not_answered_for_another_request() -> None:
    bench = Bench()
    bench.queue.send(request(taskToken=TOKEN))
    running = bench.start()
    await until(lambda: bench.queue.deleted == ["m1"])
    bench.queue.send(request(taskToken=TOKEN, exportId="other"))
    await until(lambda: bench.queue.deleted == ["m1", "m2"])
    await bench.finish(running)
    assert not bench.callback.answers
    assert bench.letters()[0].told_step_functions is None


async def test_a_message_whose_connector_died_before_kafka_had_it_is_published_under_the_ledgers_key() -> None:
    bench = Bench()
    bench.queue.send(request(taskToken=TOKEN, files=[{"url": "https://h/a?sig=1"}]))
    bench.kafka.away = True
    running = bench.start()
    await until(lambda: bool(bench.ledger.attempts))
    await bench.finish(running)
    (attempt,) = bench.ledger.attempts.values()
    bench.kafka.away, bench.stop = False, asyncio.Event()
    bench.queue.send(request(taskToken=TOKEN, files=[{"url": "https://h/a?sig=1"}]))
    running = bench.start()
    await until(lambda: bool(bench.queue.deleted))
    await bench.finish(running)
    assert bench.ledger.attempts[JOB, 1] == Attempt(JOB, 1, attempt.request_digest, TOKEN, True, seal_key=attempt.seal_key)
    assert len(bench.kafka.values("requests")) == 1


@pytest.mark.parametrize("wrong", [{}, {"prefix": "ftp://h/"}], ids=["accepted", "rejected"])
async def test_a_token_that_the_caller_spread_is_on_no_topic_and_in_no_log(wrong: dict[str, str]) -> None:
    spread = {
        "taskToken": TOKEN,
        "note": f"token {TOKEN}",
        "deep": [json.dumps({"TaskToken": TOKEN})],
        "link": f"https://h/?t={TOKEN}",
    }
    bench = Bench()
    attributes = {"taskToken": TOKEN, "custom": f"x {TOKEN}", "link": "https://h/a?sig=canary", "traceparent": "00-1-2-01"}
    bench.queue.send(request(taskToken=TOKEN, metadata=spread | {"keep": "this"}, **wrong), attributes)
    with structlog.testing.capture_logs() as logs:
        running = bench.start()
        await until(lambda: bench.queue.deleted == ["m1"])
        await bench.finish(running)
    everything = f"{dict(bench.kafka.records)} {bench.kafka.headers} {logs} {bench.ledger!r}"
    assert "canary" not in everything
    if not wrong:
        (value,) = bench.kafka.values("requests")
        assert ExportRequested.model_validate_json(value).job.metadata["keep"] == "this"
        assert bench.kafka.headers[0] is not None
        assert bench.kafka.headers[0]["traceparent"] == b"00-1-2-01"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.sampled_from(
    ["jobId", "exportId", "userId", "metadata", "taskToken", "files", "manifest", "prefix", "destination", "toleratedFailures", "x"]
)
_BODIES = (
    st.text(max_size=60)
    | _VALUES.map(json.dumps)
    | st.dictionaries(_FIELDS, _VALUES).map(lambda fields: request(**fields))
    | st.lists(st.fixed_dictionaries({"url": st.text(max_size=30)}), max_size=3).map(lambda files: request(files=files))
    | st.sampled_from(["[" * 100_000, '{"a":' * 5000, "1" * 5000, '"\\ud800"', "[" * 40 + "]" * 40])
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_BODIES, min_size=1, max_size=10))
def test_any_message_leaves_the_intake_healthy_and_the_queue_empty(bodies: list[str]) -> None:
    async def check() -> None:
        bench = Bench()
        for body in bodies:
            bench.queue.send(body)
        running = bench.start()
        await until(lambda: len(bench.queue.deleted) == len(bodies) or running.done())
        await bench.finish(running)
        accepted = {ExportRequested.model_validate_json(value).message_id for value in bench.kafka.values("requests")}
        rejected = {letter.message_id for letter in bench.letters()}
        assert len(bench.queue.deleted) == len(bodies)
        assert not accepted & rejected
        assert accepted | rejected, "the first message at least is one or the other"

    asyncio.run(check())
