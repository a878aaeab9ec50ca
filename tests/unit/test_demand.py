"""What a download worker says that it takes."""

import asyncio
import platform
import sys
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from agents import demand as demands
from agents.demand import Demand
from export_service.messages import DownloadDemand, Task, TaskResult
from tests.unit.test_download import NAMES, Bench, batch, ok
from tests.waiting import until


class Saying(Bench):
    """A download worker of 4 slots whose transfers wait for `gate`, and what it says."""

    def __init__(self) -> None:
        self.gate, self.read = asyncio.Event(), {0: 0}
        super().__init__(self._transfer)
        demand = Demand(self.downloader, 4, lambda: self.read, self.publisher, NAMES.demand.name)
        self.running = asyncio.create_task(demand.run())

    async def _transfer(self, _: str, task: Task, __: str) -> TaskResult:
        await self.gate.wait()
        return ok(task)

    def said(self) -> list[DownloadDemand]:
        return [DownloadDemand.model_validate_json(value) for value in self.publisher.values(NAMES.demand.name)]


@pytest.fixture
async def saying() -> AsyncIterator[Saying]:
    made = Saying()
    yield made
    made.running.cancel()
    made.gate.set()
    await made.downloader.drain(1)


def of(job: str, tasks: int) -> bytes:
    return replace(batch(tasks), job_id=job).to_bytes()


async def test_twice_its_slots_may_wait_and_jobs_that_wait_share_that(saying: Saying) -> None:
    await until(lambda: bool(saying.said()))
    assert (saying.said()[-1].window, saying.said()[-1].waiting) == (1000, {}), "two seconds of a quick one's work"
    await saying.take(of("big", 40), 0)
    await until(lambda: saying.said()[-1].window == demands.LEAST_WINDOW)
    saying.read = {0: 1}
    await until(lambda: (saying.said()[-1].read, saying.said()[-1].waiting) == ({0: 1}, {"big": 36}))
    await saying.take(of("small", 1), 1)
    await saying.take(of("other", 20), 2)
    await until(lambda: saying.said()[-1].waiting == {"big": 36, "other": 20})


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says it")
async def test_it_says_where_it_is_and_how_much_memory_it_has(saying: Saying) -> None:
    await until(lambda: bool(saying.said()))
    said = saying.said()[-1]
    assert said.host == platform.node()
    assert said.memory is not None
    assert 10_000_000 < said.memory < 10_000_000_000


async def test_a_quick_worker_takes_more_and_says_so_at_once(saying: Saying) -> None:
    saying.gate.set()
    await until(lambda: bool(saying.said()))
    for offset in range(5):
        await saying.take(of("big", 100), offset)
    await until(lambda: saying.said()[-1].window >= 100)


async def test_partitions_that_come_or_go_are_said_and_silence_never_lasts(saying: Saying, monkeypatch: pytest.MonkeyPatch) -> None:
    await until(lambda: bool(saying.said()))
    saying.read = {}
    await until(lambda: saying.said()[-1].read == {})
    monkeypatch.setattr(demands, "REPEAT_SECONDS", 0.1)
    said = len(saying.said())
    await until(lambda: len(saying.said()) > said + 1)
