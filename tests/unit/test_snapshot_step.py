"""The snapshot step writes the newest snapshot of a job, seldom while it runs and at once when it has ended."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from agents.snapshot import snapshot
from connectors.memory import MemoryPublisher, MemorySnapshots, SystemClock
from export_service.messages import JobSnapshot, JobStatus
from streams.ack_window import AckWindow, Entry, Place
from streams.dead_letters import DeadLetters
from streams.steps import Incoming
from tests.waiting import until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HERE = Place("snapshots", 0)


class Noting(MemorySnapshots):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[JobStatus, int]] = []

    async def put(self, snapshot: JobSnapshot) -> bool:
        self.written.append((snapshot.status, snapshot.version))
        return await super().put(snapshot)


class Bench:
    def __init__(self) -> None:
        self.store = Noting()
        self.errors: list[BaseException] = []
        self.window = AckWindow(100, self.errors.append)
        self.window.begin(HERE, 0)
        letters = DeadLetters(MemoryPublisher(), "dead-letters", SystemClock())
        self.handle = snapshot(self.store, letters, structlog.get_logger())
        self.next = 0
        self.handling: list[asyncio.Future[None]] = []

    async def comes(self, job: str, version: int, status: JobStatus = JobStatus.RUNNING) -> Entry:
        entry = await self.window.admit(HERE, self.next)
        assert entry is not None
        value = JobSnapshot(job_id=job, attempt=1, version=version, status=status, updated_at=NOW).to_bytes()
        record = Incoming(HERE, self.next, NOW, job.encode(), value)
        self.next += 1
        self.handling.append(asyncio.ensure_future(self.handle(record, entry)))
        await asyncio.sleep(0)
        return entry


def all_finished(*entries: Entry) -> Callable[[], bool]:
    return lambda: all(entry.finished for entry in entries)


async def test_a_job_that_ends_in_a_moment_is_written_once_and_at_once() -> None:
    bench = Bench()
    began = asyncio.get_running_loop().time()
    entries = [await bench.comes("j", 1), await bench.comes("j", 2), await bench.comes("j", 3, JobStatus.COMPLETED)]
    await asyncio.gather(*bench.handling)
    assert bench.store.written == [(JobStatus.COMPLETED, 3)]
    assert asyncio.get_running_loop().time() - began < 0.1
    assert all_finished(*entries)()


async def test_a_job_that_runs_is_written_without_its_end_and_holds_no_other_up() -> None:
    bench = Bench()
    slow = [await bench.comes("j", 1), await bench.comes("j", 2)]
    other = await bench.comes("k", 3, JobStatus.FAILED)
    await until(all_finished(other))
    assert bench.store.written == [(JobStatus.FAILED, 3)]
    await until(all_finished(*slow))
    assert bench.store.written[1:] == [(JobStatus.RUNNING, 2)]


async def test_what_comes_late_or_after_a_pause_is_written_too_and_older_ones_are_not_taken_for_newer() -> None:
    bench = Bench()
    first = [await bench.comes("j", 5, JobStatus.COMPLETED), await bench.comes("j", 4)]
    await until(all_finished(*first))
    assert bench.store.items["j"].version == 5
    again = await bench.comes("j", 9)
    await until(all_finished(again))
    assert bench.store.items["j"].version == 9
