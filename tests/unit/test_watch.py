"""The watch over memory ports and a clock of the test's own: who gets a beat, and when a job is ended."""

import asyncio
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from agents.watch import Watch
from connectors.memory import MemoryCallback, MemoryLedger, MemoryPublisher
from export_service.failures import CallbackRefused, CallbackThrottled, Unavailable
from export_service.messages import JobCancelled, JobSnapshot, JobStatus
from export_service.metrics import Metrics
from export_service.settings import Watch as Settings

START = datetime(2026, 1, 1, tzinfo=UTC)
TOKEN = "AAAAKgAAAAIAAAAAAAAAAebfqJhRE-canary"


class Clock:
    def __init__(self) -> None:
        self.at = START

    def now(self) -> datetime:
        return self.at


class Bench:
    def __init__(self, **settings: Any) -> None:
        self.clock, self.ledger, self.callback = Clock(), MemoryLedger(), MemoryCallback()
        self.publisher: MemoryPublisher = MemoryPublisher()
        self.metrics = Metrics()
        self.watch = Watch(
            self.callback,
            self.ledger,
            self.publisher,
            self.clock,
            Settings(**settings),
            self.metrics,
            self.explain,
            results_topic="results",
            log=structlog.get_logger(),
        )
        self.version = 0
        self.explained: list[list[str]] = []
        self.readable = asyncio.Event()
        self.readable.set()

    async def explain(self, job_ids: Collection[str]) -> Mapping[str, Mapping[str, Any]]:
        self.explained.append(sorted(job_ids))
        await self.readable.wait()
        if "gone" in job_ids:
            raise Unavailable("Kafka", "EXPORT_KAFKA_BOOTSTRAP_SERVERS", "refused")
        return {job_id: {"missingTasks": f"of {job_id}"} for job_id in job_ids}

    async def open(self, attempt: int = 1) -> None:
        await self.ledger.open_attempt("j", f"{TOKEN}-{attempt}", "d", None, START)

    def see(self, *, moved: bool = True, status: JobStatus = JobStatus.RUNNING, **fields: Any) -> None:
        self.version += 1
        at = self.clock.at if moved else START
        given: dict[str, Any] = {
            "job_id": "j",
            "attempt": 1,
            "has_task_token": True,
            "heartbeat_seconds": 30,
            "total_tasks": 9,
        } | fields
        self.watch.see(JobSnapshot(version=self.version, status=status, updated_at=at, **given))

    async def pass_time(self, seconds: float) -> None:
        """In steps of a second, as the watch is ticked."""
        for _ in range(round(seconds)):
            self.clock.at += timedelta(seconds=1)
            await self.watch.tick()
            await asyncio.sleep(0)

    @property
    def beats(self) -> int:
        return sum(answer[0] == "heartbeat" for answer in self.callback.answers)

    @property
    def ended(self) -> list[JobCancelled]:
        return [JobCancelled.model_validate_json(value) for value in self.publisher.values("results")]


async def test_a_job_that_moves_gets_one_beat_an_interval_and_one_that_does_not_gets_none() -> None:
    bench = Bench()
    await bench.open()
    for _ in range(60):
        bench.see()
        await bench.pass_time(1)
    assert 5 <= bench.beats <= 7, "every ten seconds: a third of what the state waits"
    so_far = bench.beats
    await bench.pass_time(100)
    assert bench.beats <= so_far + 1, "what had moved before the silence counts once"
    assert not bench.ended


async def test_jobs_that_nobody_waits_for_or_that_have_ended_get_no_beat() -> None:
    bench = Bench()
    bench.see(has_task_token=False)
    await bench.pass_time(20)
    bench.see(status=JobStatus.COMPLETED)
    await bench.pass_time(20)
    assert (bench.beats, len(bench.watch)) == (0, 0)


async def test_a_beat_that_nobody_waits_for_ends_that_attempt_of_the_job_and_says_why() -> None:
    bench = Bench()
    await bench.open()

    def refuse(_: str) -> None:
        raise CallbackRefused("TaskTimedOut")

    bench.callback.refuse = refuse
    bench.see()
    await bench.pass_time(11)
    (event,) = bench.ended
    assert (event.job_id, event.attempt, event.error) == ("j", 1, "ExportCancelled")
    assert "TaskTimedOut" in event.cause
    assert "canary" not in str(bench.publisher.records)


async def test_a_wrong_token_and_a_throttled_beat_end_nothing_and_a_throttled_one_is_sent_again_soon() -> None:
    for error, tries in ((CallbackRefused("InvalidToken"), 1), (CallbackThrottled("ThrottlingException"), 3)):
        bench, seen = Bench(), list[str]()
        await bench.open()

        def refuse(token: str, seen: list[str] = seen, error: Exception = error) -> None:
            seen.append(token)
            raise error

        bench.callback.refuse = refuse
        bench.see()
        await bench.pass_time(17)
        assert not bench.ended
        assert len(seen) >= tries
        assert tries > 1 or len(seen) == 1


async def test_the_newest_attempt_is_the_one_that_gets_the_beats() -> None:
    bench = Bench()
    await bench.open(1)
    await bench.open(2)
    bench.see()
    bench.see(attempt=2)
    await bench.pass_time(11)
    assert {answer[1] for answer in bench.callback.answers} == {f"{TOKEN}-2"}


async def test_a_deadline_ends_the_attempt_that_it_is_of_and_its_end_is_asked_for_again_if_it_does_not_come() -> None:
    bench = Bench()
    bench.see(has_task_token=False, deadline_at=START + timedelta(seconds=5), completed_tasks=3, failed_tasks=1)
    await bench.pass_time(4)
    assert not bench.ended
    await bench.pass_time(30)
    (event,) = bench.ended
    assert (event.attempt, event.error) == (1, "ExportDeadlineExceeded")
    assert event.cause == "not done at 2026-01-01T00:00:05.000Z: 4 of 9 tasks had ended"
    await bench.pass_time(60)
    assert len(bench.ended) == 2


async def test_jobs_that_do_not_move_are_named_once_a_period_with_what_they_miss() -> None:
    bench = Bench(stuck_seconds=50)
    bench.see(has_task_token=False)
    bench.see(has_task_token=False, job_id="k")
    with structlog.testing.capture_logs() as logs:
        await bench.pass_time(120)
    said = [(line["event"], line["jobId"], line["missingTasks"]) for line in logs]
    assert said == [("Export job does not move", job, f"of {job}") for job in ("j", "k")] * 2
    assert bench.explained == [["j", "k"]] * 2, "read once for both"
    bench.watch.forget()
    assert len(bench.watch) == 0


async def test_beats_do_not_wait_for_what_is_read_about_a_job_and_one_that_moves_meanwhile_is_not_named() -> None:
    bench = Bench(stuck_seconds=5)
    await bench.open()
    bench.readable.clear()
    bench.see(job_id="k", has_task_token=False)
    with structlog.testing.capture_logs() as logs:
        await bench.pass_time(6)
        assert bench.explained == [["k"]]
        for _ in range(30):
            bench.see()
            bench.see(job_id="k", has_task_token=False)
            await bench.pass_time(1)
        bench.readable.set()
        await bench.pass_time(2)
    assert bench.beats >= 2
    assert not logs


async def test_a_job_is_named_also_when_nothing_can_be_read_about_it() -> None:
    bench = Bench(stuck_seconds=5)
    bench.see(job_id="gone", has_task_token=False)
    with structlog.testing.capture_logs() as logs:
        await bench.pass_time(6)
    (line,) = logs
    assert line["missingTasks"] == "not known: Kafka does not answer (refused); check EXPORT_KAFKA_BOOTSTRAP_SERVERS"
