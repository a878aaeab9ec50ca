"""The callback step over memory ports: DESIGN §3.2's table, and a crash at each point between claim, call and record."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest
import structlog

from agents.callback import Answerer, callback
from agents.report import Reporter
from connectors.memory import MemoryCallback, MemoryLedger, MemoryPublisher, SystemClock
from export_service.failures import CallbackDenied, CallbackInvalid, CallbackRefused, CallbackThrottled
from export_service.messages import CallbackAnswered, CallbackOutcome, JobCompleted, JobSnapshot, JobStatus, ResultsRange
from export_service.metrics import Metrics
from export_service.settings import Callback, load
from streams.ack_window import AckWindow, Place
from streams.dead_letters import DeadLetters
from streams.steps import Incoming
from streams.topics import topics

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TOKEN = "AAAAKgAAAAIAAAAAAAAAAebfqJhRE-canary"


def completed(job_id: str = "j", tasks: int = 1) -> JobCompleted:
    snapshot = JobSnapshot(
        job_id=job_id,
        attempt=1,
        version=3,
        status=JobStatus.COMPLETED,
        total_tasks=tasks,
        updated_at=NOW,
        completed_at=NOW,
    )
    return JobCompleted(id=f"{job_id}:1", snapshot=snapshot, events=ResultsRange(partition=0, first=0, last=2))


async def no_report() -> None:
    """None is written, or wanted."""


class Bench:
    def __init__(self) -> None:
        self.ledger, self.callback, self.metrics = MemoryLedger(), MemoryCallback(), Metrics()
        settings = Callback(backoff_seconds=0.001, max_backoff_seconds=0.002)
        self.answerer = Answerer(self.callback, self.ledger, SystemClock(), settings, self.metrics, structlog.get_logger())

    async def answer(self, *, wait: float = 5) -> CallbackAnswered | None:
        if ("j", 1) not in self.ledger.attempts:
            await self.ledger.open_attempt("j", TOKEN, "d", None, NOW)
        async with asyncio.timeout(wait):
            return await self.answerer.answer(completed(), no_report())

    def fail(self, *errors: Exception) -> None:
        left = list(errors)

        def refuse(_: str) -> None:
            if left:
                raise left.pop(0)

        self.callback.refuse = refuse


async def test_an_accepted_answer_is_kept_and_a_completion_that_comes_again_gives_it_again_and_sends_nothing() -> None:
    bench = Bench()
    said = await bench.answer()
    assert said is not None
    assert (said.outcome, said.call, said.tries) == (CallbackOutcome.SENT, "SendTaskSuccess", 1)
    assert bench.ledger.attempts["j", 1].answer == said
    assert await bench.answer() == said
    assert len(bench.callback.answers) == 1


async def test_throttling_is_retried_and_what_is_refused_then_may_be_ours() -> None:
    bench = Bench()
    bench.fail(CallbackThrottled("ThrottlingException"), CallbackThrottled("ReadTimeoutError"), CallbackRefused("TaskTimedOut"))
    said = await bench.answer()
    assert said is not None
    assert (said.outcome, said.error, said.tries) == (CallbackOutcome.DUPLICATE, "TaskTimedOut", 3)


async def test_a_token_that_nobody_waits_for_is_orphaned_with_the_guides_line_and_without_the_token() -> None:
    bench = Bench()
    bench.fail(CallbackRefused("TaskDoesNotExist"))
    with structlog.testing.capture_logs() as logs:
        said = await bench.answer()
    assert said is not None
    assert said.outcome is CallbackOutcome.ORPHANED
    (line,) = logs
    assert line["event"] == "Failed to send Step Functions callback for job j: TaskDoesNotExist"
    assert (line["log_level"], line["error"]) == ("error", "TaskDoesNotExist")
    assert "canary" not in str(logs)
    assert "canary" not in said.to_bytes().decode()


async def test_an_output_that_is_refused_becomes_one_failure_that_says_so() -> None:
    bench = Bench()
    bench.fail(CallbackInvalid("InvalidOutput"))
    said = await bench.answer()
    assert said is not None
    assert (said.outcome, said.call) == (CallbackOutcome.SENT, "SendTaskFailure")
    assert [answer[2] for answer in bench.callback.answers] == ["InvalidOutput"]


async def test_while_access_is_denied_the_token_is_kept() -> None:
    bench = Bench()
    bench.fail(*[CallbackDenied("AccessDeniedException")] * 5)
    said = await bench.answer()
    assert said is not None
    assert (said.outcome, said.tries) == (CallbackOutcome.SENT, 6)


class Crash(BaseException):
    """As of a process that is killed."""


@pytest.mark.parametrize(("accepted", "outcome"), [(True, CallbackOutcome.DUPLICATE), (False, CallbackOutcome.SENT)])
async def test_after_a_crash_between_call_and_record_the_answer_is_sent_once_and_never_an_orphan(
    accepted: bool, outcome: CallbackOutcome
) -> None:
    bench = Bench()
    taken: list[str] = []

    def step_functions(then: Callable[[], Any]) -> Callable[[str], None]:
        def call(token: str) -> None:
            if token in taken:
                raise CallbackRefused("TaskTimedOut")
            if accepted:
                taken.append(token)
            then()

        return call

    def die() -> None:
        raise Crash

    bench.callback.refuse = step_functions(die)
    with pytest.raises(Crash):
        await bench.answer()
    assert bench.ledger.attempts["j", 1].answer is None
    bench.callback.refuse = step_functions(lambda: None)
    said = await bench.answer()
    assert said is not None
    assert said.outcome is outcome


async def test_a_job_that_waits_to_try_again_holds_no_other_up() -> None:
    bench = Bench()
    for job in ("stuck", "quick"):
        await bench.ledger.open_attempt(job, f"token-of-{job}", "d", None, NOW)

    def refuse(token: str) -> None:
        if token == "token-of-stuck":
            raise CallbackThrottled("ThrottlingException")

    bench.callback.refuse = refuse
    settings = Callback(concurrency=1, backoff_seconds=0.001, max_backoff_seconds=0.002)
    answerer = Answerer(bench.callback, bench.ledger, SystemClock(), settings, bench.metrics, structlog.get_logger())
    stuck = asyncio.create_task(answerer.answer(completed("stuck"), no_report()))
    async with asyncio.timeout(5):
        said = await answerer.answer(completed("quick"), no_report())
    assert said is not None
    assert said.outcome is CallbackOutcome.SENT
    stuck.cancel()


async def test_reports_of_one_job_are_written_in_the_order_of_its_ends() -> None:
    """A group that went back reads the ends of several runs at once."""
    written: list[int]
    bench, written, gate = Bench(), [], asyncio.Event()

    class SlowAtFirst(Reporter):
        async def write(self, completed: JobCompleted) -> None:
            if completed.run == 1:
                await gate.wait()
            written.append(completed.run)

    publisher, topic = MemoryPublisher(), topics(load())
    letters = DeadLetters(publisher, "dead", SystemClock())
    reporter = SlowAtFirst(cast(Any, None), cast(Any, None))
    handle = callback(bench.answerer, reporter, publisher, letters, topic, structlog.get_logger())
    window = AckWindow(10, lambda error: pytest.fail(repr(error)))
    place = Place("completions", 0)
    window.begin(place, 0)
    handling: list[Awaitable[None]] = []
    for offset, run in enumerate((1, 2)):
        entry = await window.admit(place, offset)
        assert entry is not None
        value = completed().model_copy(update={"run": run}).to_bytes()
        handling.append(asyncio.ensure_future(handle(Incoming(place, offset, NOW, b"j", value), entry)))
    await asyncio.sleep(0.01)
    gate.set()
    await asyncio.gather(*handling)
    assert written == [1, 2]


@pytest.mark.parametrize(("tasks", "claimed"), [(10_000, True), (10_001, False)])
async def test_nobody_is_told_before_the_report_is_written_and_a_long_one_is_written_before_the_claim(
    tasks: int, claimed: bool
) -> None:
    bench = Bench()
    await bench.ledger.open_attempt("j", TOKEN, "d", None, NOW)
    written: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
    answering = asyncio.create_task(bench.answerer.answer(completed(tasks=tasks), written))
    for _ in range(10):
        await asyncio.sleep(0)
    assert bench.ledger.attempts["j", 1].claimed is claimed
    assert bench.callback.answers == []
    written.set_result("file:///out/_report.jsonl")
    said = await answering
    assert said is not None
    ((_, _, output),) = bench.callback.answers
    assert json.loads(output)["reportUri"] == "file:///out/_report.jsonl"


async def test_a_completion_that_comes_again_writes_its_report_again_before_it_is_done() -> None:
    bench = Bench()
    said = await bench.answer()
    written: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
    answering = asyncio.create_task(bench.answerer.answer(completed(), written))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not answering.done()
    written.set_result(None)
    assert await answering == said
