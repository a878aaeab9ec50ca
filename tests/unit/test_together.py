"""Records are acked when their writes are confirmed, though these go out together and later ones take the place of earlier ones."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streams.ack_window import AckWindow, Entry, Place
from streams.steps import beside
from streams.together import Together
from tests.waiting import until

HERE = Place("results", 0)
Futures = list["asyncio.Future[Any]"]


class Bench:
    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.window = AckWindow(100, self.errors.append)
        self.window.begin(HERE, 0)
        self.flushed: list[Futures] = []
        self.writes = 1
        self.together = Together(self.flush, 0.01)
        self.next = 0

    async def flush(self) -> Futures:
        made: Futures = [asyncio.get_running_loop().create_future() for _ in range(self.writes)]
        self.flushed.append(made)
        return made

    async def add(self, *outputs: "asyncio.Future[Any]") -> Entry:
        entry = await self.window.admit(HERE, self.next)
        assert entry is not None
        self.next += 1
        async with self.together.writing:
            self.together.add(entry, outputs)
        return entry


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    running = beside(made.together.run(), made.errors.append)
    yield made
    running.cancel()


async def test_records_of_a_moment_share_a_flush_and_wait_for_it_and_for_their_own_outputs(bench: Bench) -> None:
    output: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    entries = [await bench.add(), await bench.add(output), await bench.add()]
    await until(lambda: len(bench.flushed) == 1)
    assert not any(entry.finished for entry in entries)
    bench.flushed[0][0].set_result(None)
    await until(lambda: entries[0].finished and entries[2].finished)
    assert not entries[1].finished
    output.set_result(None)
    await until(lambda: entries[1].finished)
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


async def test_no_flush_begins_while_a_record_is_being_written(bench: Bench) -> None:
    await bench.add()
    async with bench.together.writing:
        await asyncio.sleep(0.1)
        assert bench.flushed == []
    await until(lambda: len(bench.flushed) == 1)


async def test_records_that_wrote_nothing_are_acked(bench: Bench) -> None:
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
