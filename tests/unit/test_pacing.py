"""How many tasks of a job may be on their way to whom: the plan step's side of `demand`, on a clock of the test's own."""

import asyncio
from collections.abc import Mapping

import pytest
import structlog
from structlog.testing import capture_logs

from agents import pacing
from agents.pacing import FRESH_SECONDS, NoMoreTurns, Pacer, Turn
from connectors.memory import Delivered
from export_service.messages import DownloadDemand
from tests.waiting import until


class Bench:
    def __init__(self) -> None:
        self.now = 100.0
        self.pacer = Pacer(structlog.get_logger(), lambda: self.now)
        self.offsets: dict[int, int] = {}

    def hear(
        self, read: Mapping[int, int], waiting: Mapping[str, int] | None = None, *, worker: str = "w", window: int = 128
    ) -> None:
        self.pacer.hear(DownloadDemand(worker=worker, read=dict(read), window=window, waiting=dict(waiting or {})))

    async def send(self, job: str, tasks: int) -> Turn:
        """Wait for a turn, and use it."""
        with await self.pacer.turn(job, tasks) as turn:
            confirmed: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()
            turn.sent(confirmed)
            offset = self.offsets.get(turn.partition, 0)
            self.offsets[turn.partition] = offset + 1
            confirmed.set_result(Delivered(turn.partition, offset))
        await asyncio.sleep(0)
        return turn

    async def fill(self, job: str, tasks: int = 64) -> int:
        """Send until it has to wait; how many were sent."""
        sent = 0
        while True:
            sending = asyncio.create_task(self.send(job, tasks))
            for _ in range(5):
                await asyncio.sleep(0)
            if not sending.done():
                sending.cancel()
                await asyncio.wait([sending])
                return sent
            await sending
            sent += 1


async def test_a_job_gets_a_window_and_another_is_not_in_its_way() -> None:
    bench = Bench()
    bench.hear({0: 0})
    assert await bench.fill("big") == 2
    assert await bench.fill("small", 1) == 128
    assert await bench.fill("big") == 0


async def test_what_was_read_makes_room_and_what_waits_with_the_worker_takes_it() -> None:
    bench = Bench()
    bench.hear({0: 0})
    assert await bench.fill("big") == 2
    waits = asyncio.create_task(bench.send("big", 64))
    await asyncio.sleep(0)
    bench.hear({0: 1}, {"big": 64})
    await asyncio.sleep(0)
    assert not waits.done(), "one is on its way still, the other waits there"
    bench.hear({0: 2}, {"big": 64})
    await asyncio.wait_for(waits, 5)
    assert await bench.fill("big") == 0
    bench.hear({0: 3}, {})
    assert await bench.fill("big") == 2


async def test_a_batch_that_is_larger_than_the_window_is_sent_when_half_of_it_is_free() -> None:
    bench = Bench()
    bench.hear({0: 0}, window=16)
    assert await bench.fill("big", 128) == 1
    bench.hear({0: 1}, {"big": 9}, window=16)
    assert await bench.fill("big", 128) == 0
    bench.hear({0: 1}, {"big": 8}, window=16)
    assert await bench.fill("big", 128) == 1


async def test_a_job_goes_to_the_worker_with_most_room_for_it_and_over_all_of_its_partitions() -> None:
    bench = Bench()
    bench.hear({0: 0, 1: 0}, {"big": 100}, worker="busy")
    bench.hear({2: 0, 3: 0}, worker="idle")
    assert {(await bench.send("big", 50)).partition for _ in range(2)} == {2, 3}
    assert {(await bench.send("other", 1)).partition for _ in range(8)} == {0, 1, 2, 3}
    assert await bench.fill("big", 28) == 2, "28 of what is left with each"


async def test_a_worker_that_is_silent_or_has_no_partitions_gets_nothing() -> None:
    bench = Bench()
    bench.hear({0: 0}, worker="dies")
    bench.hear({}, worker="drains")
    bench.now += FRESH_SECONDS + 0.1
    assert await bench.fill("job") == 0
    bench.hear({0: 0}, worker="took over")
    assert await bench.fill("job") == 2


async def test_a_turn_that_is_not_used_is_given_back_and_one_that_is_cancelled_too() -> None:
    bench = Bench()
    bench.hear({0: 0})
    for _ in range(2):
        with await bench.pacer.turn("job", 64):
            pass
    assert await bench.fill("job") == 2
    gone = asyncio.create_task(bench.pacer.turn("job", 64))
    await asyncio.sleep(0)
    gone.cancel()
    bench.hear({0: 2})
    assert await bench.fill("job") == 2


async def test_who_waits_is_told_when_there_will_be_no_more_turns() -> None:
    bench = Bench()
    waits = asyncio.create_task(bench.pacer.turn("job", 1))
    await asyncio.sleep(0)
    bench.pacer.close()
    with pytest.raises(NoMoreTurns):
        await waits
    with pytest.raises(NoMoreTurns):
        await bench.pacer.turn("job", 1)


async def test_an_operator_is_told_that_no_worker_takes_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "_COMPLAIN_SECONDS", 0.01)
    bench = Bench()
    with capture_logs() as logs:
        waits = [asyncio.create_task(bench.pacer.turn("job", 1)) for _ in range(3)]
        await until(lambda: logs)
        await asyncio.sleep(0.05)
    assert [line["event"] for line in logs] == ["Plans wait: no download worker says on the topic demand that it takes tasks"]
    bench.hear({0: 0})
    await asyncio.gather(*waits)
