"""The download step: every outcome of a batch is published before the batch is acked, whatever happens in between."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from msgspec.structs import replace

from agents.download import Downloader
from connectors.memory import MemoryLedger, MemoryPublisher, SystemClock
from export_service.messages import Outcome, Task, TaskBatch, TaskResult
from export_service.ports import Attempt
from export_service.readers import read_batch
from export_service.sealing import new_key, seal
from export_service.settings import load
from export_service.transfer import TransferTasks
from streams.ack_window import AckWindow, Place
from streams.dead_letters import DeadLetters
from streams.steps import Incoming
from streams.topics import topics
from tests.unit.sources import read_results
from tests.waiting import until

NAMES = topics(load())
HERE = Place(NAMES.tasks.name, 0)


class Bench:
    """A Downloader over memory ports; `transfer` is the test's."""

    def __init__(self, transfer: Callable[[str, Task, str], Coroutine[Any, Any, TaskResult]], publish_seconds: float = 60) -> None:
        self.publisher, self.ledger, self.errors = MemoryPublisher(), MemoryLedger(), list[BaseException]()
        self.window = AckWindow(100, self.errors.append)
        self.downloader = Downloader(
            TransferTasks(lambda destination, task, url, _: transfer(destination, task, url), self.errors.append),
            self.ledger,
            self.publisher,
            DeadLetters(self.publisher, NAMES.dead_letters.name, SystemClock()),
            NAMES,
            structlog.get_logger(),
            load(download={"concurrency": 4, "publish_seconds": publish_seconds}).download,
        )
        self.downloader.start(self.errors.append)

    async def take(self, value: bytes, offset: int = 0) -> None:
        if not self.window.knows(HERE):
            self.window.begin(HERE, offset)
        entry = await self.window.admit(HERE, offset)
        assert entry is not None
        await self.downloader.handle(Incoming(HERE, offset, datetime.now(UTC), b"k", value), entry)

    def published(self) -> list[int]:
        values = map(read_results, self.publisher.values(NAMES.results.name))
        return [result.index for record in values for result in record.results]


def batch(count: int, query: str | None = None) -> TaskBatch:
    tasks = tuple(Task(index=i, url=f"http://h/{i}", query=query, name=f"n{i}") for i in range(count))
    return TaskBatch(job_id="j", attempt=1, destination="file:///out/", tasks=tasks)


def ok(task: Task) -> TaskResult:
    return TaskResult(index=task.index, outcome=Outcome.SUCCEEDED, name=task.name, url=task.url)


async def test_outcomes_that_are_published_early_do_not_swallow_those_still_under_way() -> None:
    """A batch was acked without the outcomes that finished while an earlier part of it was being published."""
    gates = {index: asyncio.Event() for index in range(4)}

    async def transfer(_: str, task: Task, __: str) -> TaskResult:
        await gates[task.index].wait()
        return ok(task)

    bench = Bench(transfer, publish_seconds=0.01)
    await bench.take(batch(4).to_bytes())
    for index, gate in gates.items():
        gate.set()
        await until(lambda seen=index: seen in bench.published())  # type: ignore[misc]
    assert await bench.window.empty(10)
    assert sorted(bench.published()) == [0, 1, 2, 3]
    await bench.downloader.drain(1)


async def test_a_batch_is_acked_only_when_its_results_are_confirmed() -> None:
    async def transfer(_: str, task: Task, __: str) -> TaskResult:
        return ok(task)

    bench = Bench(transfer)
    bench.publisher.confirm = False
    await bench.take(batch(3).to_bytes())
    await until(lambda: len(bench.publisher.pending) == 1)
    assert bench.window.position(HERE) == 0
    bench.publisher.pending[0].set_result(None)
    assert await bench.window.empty(10)
    assert bench.window.position(HERE) == 1
    await bench.downloader.drain(1)


async def test_a_drain_publishes_what_is_done_and_hands_back_the_rest() -> None:
    async def transfer(_: str, task: Task, __: str) -> TaskResult:
        if task.index >= 2:
            await asyncio.Event().wait()
        return ok(task)

    bench = Bench(transfer)
    await bench.take(batch(6).to_bytes())
    await until(lambda: bench.downloader.busy == 4)
    await bench.downloader.drain(0.05)
    (rest,) = map(read_batch, bench.publisher.values(NAMES.tasks.name))
    assert sorted(bench.published()) == [0, 1]
    assert [task.index for task in rest.tasks] == [2, 3, 4, 5]
    assert await bench.window.empty(10), "nothing is left to replay"
    assert not bench.errors


@pytest.mark.parametrize("tasks", [3, 6], ids=["all done", "some under way"])
async def test_a_drain_while_outcomes_wait_for_the_producer_loses_none(tasks: int) -> None:
    """The batch was acked without the outcomes whose send the drain cancelled."""

    async def transfer(_: str, task: Task, __: str) -> TaskResult:
        if task.index >= 3:
            await asyncio.Event().wait()
        return ok(task)

    bench = Bench(transfer, publish_seconds=0.01)
    full, send = asyncio.Event(), bench.publisher.send

    async def wait_for_space(*_: object, **__: object) -> asyncio.Future[None]:
        full.set()
        await asyncio.Event().wait()
        raise AssertionError

    bench.publisher.send = wait_for_space  # type: ignore[method-assign]
    await bench.take(batch(tasks).to_bytes())
    await asyncio.wait_for(full.wait(), 10)
    draining = asyncio.create_task(bench.downloader.drain(0.05))
    bench.publisher.send = send  # type: ignore[method-assign]
    await draining
    handed_back = [task.index for value in bench.publisher.values(NAMES.tasks.name) for task in read_batch(value).tasks]
    assert sorted(bench.published() + handed_back) == list(range(tasks))
    assert await bench.window.empty(10), "nothing is left to replay"


async def test_what_is_not_a_batch_goes_to_the_dead_letters_whole() -> None:
    async def transfer(_: str, task: Task, __: str) -> TaskResult:
        return ok(task)

    bench = Bench(transfer)
    await bench.take(b"\xff\x00 not a batch")
    assert await bench.window.empty(10)
    (letter,) = bench.publisher.values(NAMES.dead_letters.name)
    assert b"/wAgbm90IGEgYmF0Y2g=" in letter
    await bench.downloader.drain(1)


async def test_a_sealed_query_is_opened_with_the_jobs_key_and_stays_out_of_the_results() -> None:
    seen: list[str] = []

    async def transfer(_: str, task: Task, url: str) -> TaskResult:
        seen.append(url)
        return ok(task)

    key = new_key()
    bench = Bench(transfer)
    bench.ledger.attempts["j", 1] = Attempt("j", 1, "digest", seal_key=key)
    _, query = seal("http://h/0?Signature=secret", key)
    await bench.take(batch(1, query).to_bytes(), 0)
    await bench.take(batch(1, "bm90IHNlYWxlZCB3aXRoIHRoaXMga2V5").to_bytes(), 1)
    assert await bench.window.empty(10)
    records = [read_results(value) for value in bench.publisher.values(NAMES.results.name)]
    assert seen == ["http://h/0?Signature=secret"]
    assert {result.error for record in records for result in record.results} == {None, "Unsealable"}
    assert b"secret" not in b"".join(bench.publisher.values(NAMES.results.name))
    await bench.downloader.drain(1)


async def test_a_cancelled_job_ends_what_is_under_way_and_takes_no_more_and_others_go_on() -> None:
    started: list[int] = []
    ended: list[int] = []

    async def transfer(_: str, task: Task, __: str) -> TaskResult:
        started.append(task.index)
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(task.index)
        return ok(task)

    bench = Bench(transfer)
    await bench.take(batch(6).to_bytes())
    await until(lambda: len(started) == 4)
    bench.downloader.cancel("other", 1)
    assert not ended
    bench.downloader.cancel("j", 1)
    await until(lambda: len(bench.publisher.values(NAMES.results.name)) == 1)
    assert sorted(ended) == [0, 1, 2, 3]
    assert len(started) == 4, "what waited was not begun"
    (record,) = map(read_results, bench.publisher.values(NAMES.results.name))
    assert sorted((result.index, result.outcome) for result in record.results) == [(i, Outcome.CANCELLED) for i in range(6)]
    await until(lambda: bench.window.position(HERE) == 1)
    await bench.take(batch(2).to_bytes(), 1)
    await until(lambda: bench.window.position(HERE) == 2)
    assert len(started) == 4
    later = replace(batch(2), attempt=2)
    await bench.take(later.to_bytes(), 2)
    await until(lambda: len(started) == 6)
    assert not bench.errors


async def test_a_transfer_that_ends_in_the_moment_of_its_cancellation_counts_once() -> None:
    gate = asyncio.Event()

    async def transfer(_: str, task: Task, __: str) -> TaskResult:
        await gate.wait()
        return ok(task)

    bench = Bench(transfer)
    await bench.take(batch(3).to_bytes())
    await asyncio.sleep(0)
    gate.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    bench.downloader.cancel("j", 1)
    await until(lambda: bench.window.position(HERE) == 1)
    assert sorted(bench.published()) == [0, 1, 2]
    await bench.take(replace(batch(9), attempt=2).to_bytes(), 1)
    await until(lambda: bench.window.position(HERE) == 2)
    assert len(bench.published()) == 12, "all slots are free again"


async def test_the_next_free_slot_is_for_the_user_who_has_none() -> None:
    started: list[tuple[str, int]] = []
    gates = [asyncio.Event() for _ in range(20)]

    async def transfer(destination: str, task: Task, _: str) -> TaskResult:
        started.append((destination, task.index))
        await gates[task.index].wait()
        return ok(task)

    def of(user: str, tasks: int) -> bytes:
        return replace(batch(tasks), job_id=user, user_id=user, destination=user).to_bytes()

    bench = Bench(transfer)
    await bench.take(of("a", 20), 0)
    await until(lambda: len(started) == 4)
    await bench.take(of("b", 1), 1)
    gates[3].set()
    await until(lambda: len(started) == 5)
    assert started[-1] == ("b", 0), "read behind nineteen others, and begun before them"
    bench.window.keep_only([])
    bench.downloader._forget_lost()
    assert len(bench.downloader.waiting) == 0, "they are the next owner's"
    for gate in gates:
        gate.set()
    await bench.downloader.drain(1)
    assert not bench.errors
