"""The plan step: what is handed out, to the end, at the workers' pace, once; and who goes on where a plan was left."""

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from agents import plan as planning
from agents.file_list import CHANGED, FileLists
from agents.pacing import Pacer
from agents.plan import Planner
from connectors.memory import MemoryLedger, MemoryPublisher
from connectors.sources import LocalFiles, Sources
from export_service.batching import MAX_BATCH_TASKS
from export_service.failures import TransferError
from export_service.messages import DownloadDemand, ExportRequested, JobInfo, JobPlanned, ManifestRef, PlanFailed, Task
from export_service.ports import Attempt, Download, FileSource, Planned
from export_service.readers import read_batch, read_event
from export_service.settings import Settings
from export_service.shards import SHARD_TASKS, bitmap_from_text, bitmap_to_text
from export_service.spool import Batch, Spool
from streams.ack_window import AckWindow, Entry, Place
from streams.topics import topics
from tests.waiting import until

NAMES = topics(Settings())


class Halting:
    """A list that is there up to so many lines; after `go_on` comes the rest, or the connection `breaks`, once."""

    def __init__(self, path: Path, lines: int, *, breaks: bool = False) -> None:
        self._path, self._lines, self._breaks = path, lines, breaks
        self.size, self.go_on = None, asyncio.Event()

    @asynccontextmanager
    async def open(self, _: str) -> AsyncIterator[Download]:
        yield self

    async def chunks(self) -> AsyncIterator[bytes]:
        lines = self._path.read_bytes().splitlines(keepends=True)
        yield b"".join(lines[: self._lines])
        await self.go_on.wait()
        if self._breaks:
            self._breaks = False
            raise TransferError("HttpBroken", "the connection broke", retryable=True)
        yield b"".join(lines[self._lines :])

    def list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        raise AssertionError(prefix)


class Bench:
    """One plan worker over memory ports: its ledger and topics are those of the one before, if given."""

    def __init__(self, folder: Path, before: "Bench | None" = None, source: FileSource | None = None) -> None:
        self.folder, self.log = folder, structlog.get_logger()
        self.ledger: MemoryLedger = before.ledger if before else MemoryLedger()
        self.publisher: MemoryPublisher = before.publisher if before else MemoryPublisher()
        # No worker is silent here, however slow the machine.
        self.pacer, self.window = Pacer(self.log, lambda: 0.0), AckWindow(100, lambda error: pytest.fail(str(error)))
        self.place = Place(NAMES.requests.name, 0)
        self.window.begin(self.place, 0)
        self.done: dict[int, str] | None = before.done if before else None
        lists = FileLists(Sources({"file": source or LocalFiles(folder)}), self.ledger, 100_000, self.log)
        self.planner = Planner(lists, self.ledger, self.publisher, NAMES, self.pacer, folder, self.log)
        self._taken = 0

    def write(self, files: int, *, name: str = "list", change: int | None = None) -> None:
        lines = [json.dumps({"url": f"http://h/{'other' if n == change else n}", "name": f"n{n}"}) for n in range(files)]
        (self.folder / f"{name}.jsonl").write_text("\n".join(lines))

    def request(self, job: str = "list") -> ExportRequested:
        self.ledger.attempts.setdefault((job, 1), Attempt(job, 1, ""))
        info = JobInfo(job_id=job, export_id="e", user_id="u", requested_at=datetime.now(UTC), destination="file:///out/")
        manifest = ManifestRef(url=f"{self.folder.as_uri()}/{job}.jsonl", format="jsonl")
        return ExportRequested(job=info, manifest=manifest, done=self.done)

    async def start(self, job: str = "list") -> "tuple[asyncio.Task[bool], Entry]":
        entry = await self.window.admit(self.place, self._taken)
        assert entry is not None
        self._taken += 1
        return asyncio.create_task(self.planner.plan(self.request(job), entry)), entry

    async def begun(self, files: int, room: int) -> "asyncio.Task[bool]":
        """A plan whose list is read, and that waits for more room."""
        self.write(files)
        self.room(room)
        running, _ = await self.start()
        await until(lambda: len(self.planned()) == 1 and bool(self.pacer._waiting), 30)
        return running

    async def killed(self, room: int) -> None:
        """A plan that is cut off when it has no more room, if it has not ended before."""
        self.room(room)
        running, _ = await self.start()
        await until(lambda: running.done() or bool(self.pacer._waiting), 30)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    def room(self, window: int, waiting: dict[str, int] | None = None) -> None:
        """As a worker that has read everything and has `waiting` of it left."""
        read = len(self.publisher.values(NAMES.tasks.name))
        self.pacer.hear(DownloadDemand(worker="w", read={0: read}, window=window, waiting=waiting or {}))

    async def run(self, job: str = "list") -> bool:
        """To its end, with all the room that there is."""
        self.room(10_000_000)
        return await asyncio.wait_for((await self.start(job))[0], 60)

    def handed_out(self, job: str = "list") -> list[int]:
        return [task.index for task in self.tasks(job)]

    def tasks(self, job: str = "list") -> list[Task]:
        batches = map(read_batch, self.publisher.values(NAMES.tasks.name))
        return [task for batch in batches if batch.job_id == job for task in batch.tasks]

    def said(self) -> list[object]:
        return [read_event(value) for value in self.publisher.values(NAMES.results.name)]

    def planned(self) -> list[JobPlanned]:
        return [event for event in self.said() if isinstance(event, JobPlanned)]

    def failed(self) -> list[str]:
        return [event.cause for event in self.said() if isinstance(event, PlanFailed)]


@pytest.mark.parametrize("files", [0, 1, 1000, 1001, 8500])
async def test_a_list_is_handed_out_whole_and_in_order(tmp_path: Path, files: int) -> None:
    bench = Bench(tmp_path)
    bench.write(files)
    assert await bench.run()
    assert bench.handed_out() == list(range(files))
    assert {task.url for task in bench.tasks()} == {f"http://h/{n}" for n in range(files)}
    assert [planned.total_tasks for planned in bench.planned()] == [files]
    assert bench.ledger.plans["list", 1].ended
    assert {read_batch(value).user_id for value in bench.publisher.values(NAMES.tasks.name)} <= {"u"}


async def test_a_job_is_planned_while_its_tasks_wait_and_another_passes_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(8500)
    bench.write(1, name="small")
    bench.room(64)
    big, entry = await bench.start()
    await until(lambda: len(bench.planned()) == 1, 30)
    await until(lambda: bool(bench.pacer._waiting), 30)
    assert bench.planned()[0].total_tasks == 8500
    some = len(bench.handed_out())
    assert 32 <= some <= 64
    assert bench.handed_out() == list(range(some))
    small, _ = await bench.start("small")
    assert await asyncio.wait_for(small, 10)
    assert bench.handed_out("small") == [0]
    assert not big.done()
    assert not entry.finished
    bench.room(100_000)
    assert await asyncio.wait_for(big, 30)
    assert bench.handed_out() == list(range(8500))


async def test_many_large_plans_are_open_at_a_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.room(8)
    plans = []
    for number in range(12):
        bench.write(1001, name=f"big-{number}")
        plans.append((await bench.start(f"big-{number}"))[0])
    await until(lambda: len(bench.pacer._waiting) == 12, 30)
    bench.write(1, name="small")
    assert await asyncio.wait_for((await bench.start("small"))[0], 10)
    bench.room(10_000)
    assert all(await asyncio.gather(*plans))
    assert all(bench.handed_out(f"big-{number}") == list(range(1001)) for number in range(12))


async def test_the_next_owner_goes_on_where_a_drain_ended_a_plan(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    running = await first.begun(8500, 2000)
    await first.planner.drain(10)
    assert not await running, "not acked"
    through = len(first.handed_out())
    assert 0 < through < 8500
    kept = first.ledger.plans["list", 1]
    assert (kept.through, kept.digest, kept.ended) == (through, first.planned()[0].plan_digest, False)
    second = Bench(tmp_path, first)
    assert await second.run()
    assert second.handed_out() == list(range(8500)), "each once"
    assert await Bench(tmp_path, second).run(), "a replay of a plan that ended does nothing"
    assert len(second.handed_out()) == 8500


@pytest.mark.parametrize("files", [700, 8500])
async def test_a_plan_is_killed_again_and_again_and_each_next_owner_goes_on_where_the_last_one_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    """Also of a later run, whose list has tasks that are done at both ends of what is handed out at a time."""
    monkeypatch.setattr(planning, "_SAVE_SECONDS", 0)
    done = {0: bitmap_to_text(int("1100" * 2048, 2)), 1: bitmap_to_text(0b11 << 300)}
    bitmaps = {shard: bitmap_from_text(text) for shard, text in done.items()}
    left = [n for n in range(files) if not bitmaps.get(n // SHARD_TASKS, 0) >> n % SHARD_TASKS & 1]
    bench = Bench(tmp_path)
    bench.write(files)
    bench.done = done
    while not bench.ledger.plans.get(("list", 1), Planned()).ended:
        bench = Bench(tmp_path, bench)
        await bench.killed(files // 3)
    assert bench.handed_out() == left, "each once"


async def test_the_next_owner_hands_out_as_soon_as_it_has_read_what_was_handed_out_before(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    running = await first.begun(8500, 2000)
    await first.planner.drain(10)
    assert not await running
    through = len(first.handed_out())
    kept = first.ledger.plans["list", 1]
    first.ledger.plans["list", 1] = replace(kept, digest=None)  # as if it had been killed before it had read all
    source = Halting(tmp_path / "list.jsonl", through + 1000)
    second = Bench(tmp_path, first, source)
    second.room(10_000)
    running, _ = await second.start()
    await until(lambda: len(second.handed_out()) > through, 30)
    assert len(second.planned()) == 1, "the list is not read yet"
    source.go_on.set()
    assert await asyncio.wait_for(running, 30)
    assert second.handed_out() == list(range(8500)), "each once"
    assert len({planned.plan_digest for planned in second.planned()}) == 1


async def test_a_plan_that_an_earlier_version_left_goes_on_when_the_whole_list_is_the_same(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    running = await first.begun(8500, 2000)
    await first.planner.drain(10)
    assert not await running
    kept = first.ledger.plans["list", 1]
    first.ledger.plans["list", 1] = replace(kept, so_far=None)
    second = Bench(tmp_path, first)
    assert await second.run()
    assert sorted(set(second.handed_out())) == list(range(8500))
    assert len(second.handed_out()) < 8500 + MAX_BATCH_TASKS, "but for one batch"


@pytest.mark.parametrize(("change", "more"), [(0, False), (None, False), (2999, True)])
async def test_a_list_that_changed_before_the_next_owner_goes_on_fails_the_job(
    tmp_path: Path, change: int | None, more: bool
) -> None:
    """At once where it had been handed out (None: in its last task), else when its end is read."""
    first = Bench(tmp_path)
    running = await first.begun(3000, 100)
    await first.planner.drain(10)
    assert not await running
    before = first.handed_out()
    first.write(3000, change=before[-1] if change is None else change)
    second = Bench(tmp_path, first)
    assert await second.run()
    assert second.failed() == [CHANGED]
    assert more or second.handed_out() == before
    assert second.ledger.plans["list", 1].ended


@pytest.mark.parametrize("files", [0, 50])
async def test_a_list_that_is_shorter_than_what_was_handed_out_fails_the_job(tmp_path: Path, files: int) -> None:
    first = Bench(tmp_path)
    running = await first.begun(3000, 100)
    await first.planner.drain(10)
    assert not await running
    first.write(files)
    second = Bench(tmp_path, first)
    assert await second.run()
    assert second.failed() == [CHANGED]


async def test_a_list_that_changes_between_two_tries_to_read_it_fails_the_job(tmp_path: Path) -> None:
    source = Halting(tmp_path / "list.jsonl", 2000, breaks=True)
    bench = Bench(tmp_path, source=source)
    bench.write(3000)
    bench.room(10_000)
    running, _ = await bench.start()
    await until(lambda: bool(bench.handed_out()), 30)
    bench.write(3000, change=5)
    source.go_on.set()
    assert await asyncio.wait_for(running, 30)
    assert bench.failed() == [CHANGED]


async def test_a_plan_whose_partition_went_to_another_worker_stops_at_the_next_batch(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    running = await bench.begun(3000, 100)
    before = bench.handed_out()
    bench.window.keep_only([])
    bench.room(100_000)
    assert not await asyncio.wait_for(running, 10)
    assert bench.handed_out() == before


async def test_a_cancelled_job_is_planned_and_nothing_more_of_it_handed_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    running = await bench.begun(3000, 100)
    before = bench.handed_out()
    bench.planner.cancel("list", 1)
    bench.room(100_000)
    assert await asyncio.wait_for(running, 10)
    assert bench.handed_out() == before
    assert bench.ledger.plans["list", 1].ended


async def test_how_far_a_plan_is_counts_what_the_broker_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_SAVE_SECONDS", 0)
    bench = Bench(tmp_path)
    running = await bench.begun(3000, 1000)
    bench.publisher.confirm = False
    known = len(bench.handed_out())
    bench.room(1000)
    await until(lambda: len(bench.handed_out()) > known, 30)
    await asyncio.sleep(0)
    assert bench.ledger.plans["list", 1].through <= known
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("size", [10, 300_000], ids=["in memory", "in a file"])
def test_a_spool_gives_back_what_was_put_there(tmp_path: Path, size: int) -> None:
    batches = [Batch(n, n + 2, 1, bytes([n]) * 32, bytes([n]) * size) for n in range(3)]
    with Spool(tmp_path) as spool:
        spool.put(batches[0])
        assert spool.take() == batches[0]
        assert spool.take() is None
        spool.put(batches[1])
        spool.put(batches[2])
        assert [spool.take(), spool.take(), spool.take()] == [*batches[1:], None]
        assert list(tmp_path.iterdir()) == [], "it has no name, so that a kill leaves nothing"


async def test_a_list_waits_for_room_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has room for some batches only, until all of them were handed out."""
    bench, pwrite, refused = Bench(tmp_path), os.pwrite, 0

    def full(fd: int, data: bytes, at: int) -> int:
        nonlocal refused
        if at + len(data) > 200_000:
            refused += 1
            if room := 200_000 - at:
                return pwrite(fd, data[:room], at)
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    bench.write(8500)
    bench.room(64)
    running, _ = await bench.start()
    await until(lambda: refused > 0, 30)
    bench.room(100_000)
    assert await asyncio.wait_for(running, 60)
    assert bench.handed_out() == list(range(8500))
    assert bench.failed() == []


async def test_a_disk_that_cannot_be_written_fails_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", broken)
    bench = Bench(tmp_path)
    bench.write(8500)
    bench.room(64)
    running, _ = await bench.start()
    await until(lambda: bool(bench.failed()), 30)
    bench.room(100_000)
    assert await asyncio.wait_for(running, 30)
    assert bench.failed() == ["the list of files cannot be kept in EXPORT_WORKER_STATE_DIR: Input/output error"]
