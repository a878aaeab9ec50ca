"""Records are acked when what they put is confirmed, though it goes out together and later values take the place of earlier ones."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streams.ack_window import AckWindow, Entry, Place
from streams.steps import beside
from streams.together import MOST, Together
from tests.waiting import until

HERE = Place("results", 0)
Futures = list["asyncio.Future[Any]"]


class Bench:
    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.window = AckWindow(MOST + 100, self.errors.append)
        self.window.begin(HERE, 0)
        self.flushed: list[Futures] = []
        self.writes, self.owned, self.next = 1, True, 0
        self.together = Together(self.flush, self.window, lambda: self.owned, 0.01)

    async def flush(self) -> Futures:
        made: Futures = [asyncio.get_running_loop().create_future() for _ in range(self.writes)]
        self.flushed.append(made)
        return made

    async def add(self, *outputs: "asyncio.Future[Any]") -> Entry:
        entry = await self.window.admit(HERE, self.next)
        assert entry is not None
        self.next += 1
        self.together.add(entry, outputs)
        return entry


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    running = beside(made.together.run(), made.errors.append)
    yield made
    running.cancel()


async def test_records_of_a_moment_share_a_flush_and_wait_for_it_and_for_their_outputs(bench: Bench) -> None:
    output: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    entries = [await bench.add(), await bench.add(output), await bench.add()]
    await until(lambda: len(bench.flushed) == 1)
    bench.flushed[0][0].set_result(None)
    await asyncio.sleep(0)
    assert not any(entry.finished for entry in entries)
    output.set_result(None)
    await until(lambda: all(entry.finished for entry in entries))
    assert bench.window.position(HERE) == 3
    assert bench.errors == []


async def test_a_later_record_goes_with_a_later_flush(bench: Bench) -> None:
    first = await bench.add()
    await until(lambda: len(bench.flushed) == 1)
    second = await bench.add()
    await until(lambda: len(bench.flushed) == 2)
    bench.flushed[1][0].set_result(None)
    await until(lambda: second.finished)
    assert not first.finished
    assert bench.window.position(HERE) == 0


async def test_many_records_do_not_wait_for_the_time() -> None:
    bench = Bench()
    bench.together = Together(bench.flush, bench.window, lambda: True, 60)
    running = beside(bench.together.run(), bench.errors.append)
    for _ in range(MOST):
        await bench.add()
    await until(lambda: len(bench.flushed) == 1)
    running.cancel()


async def test_nothing_goes_out_while_somebody_else_may_have_the_partitions(bench: Bench) -> None:
    bench.owned = False
    entry = await bench.add()
    await asyncio.sleep(0.1)
    assert bench.flushed == []
    bench.owned = True
    await until(lambda: len(bench.flushed) == 1)
    bench.flushed[0][0].set_result(None)
    await until(lambda: entry.finished)


async def test_records_that_put_nothing_are_acked(bench: Bench) -> None:
    bench.writes = 0
    entry = await bench.add()
    await until(lambda: entry.finished)


async def test_a_write_that_fails_is_fatal_and_acks_nothing(bench: Bench) -> None:
    entry = await bench.add()
    await until(lambda: len(bench.flushed) == 1)
    bench.flushed[0][0].set_exception(RuntimeError("broker"))
    await until(lambda: bool(bench.errors))
    assert not entry.finished
    assert bench.window.position(HERE) is None
