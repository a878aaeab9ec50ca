"""A fetch waits for long only if it asks for everything, and for more than a record only where records come thick."""

from types import SimpleNamespace
from typing import Any

import pytest

from streams.patience import BUSY_WAIT_MS, DENSE_BYTES, DENSE_WAIT_MS, IDLE_WAIT_MS, NEW_SECONDS, Patience


class Fetcher:
    def __init__(self) -> None:
        self._records: dict[int, object] = {}
        self._fetch_max_wait_ms, self._fetch_min_bytes = 1500, 1
        self.comes = False
        self.asked: list[int] = []

    def _get_actions_per_node(self, assignment: Any) -> str:  # noqa: ARG002
        self.asked.append(self._fetch_max_wait_ms)
        return "actions"

    async def _proc_fetch_request(self, *_: Any) -> bool:
        return self.comes


class Assignment:
    def __init__(self) -> None:
        self.tps, self.paused = [0, 1], set[int]()

    def state_value(self, tp: int) -> Any:
        return SimpleNamespace(paused=tp in self.paused)


@pytest.fixture
def bench() -> Any:
    made = SimpleNamespace(fetcher=Fetcher(), assignment=Assignment(), at=100.0)
    made.patience = Patience(made.fetcher, lambda: made.at)

    def ask() -> int:
        assert made.fetcher._get_actions_per_node(made.assignment) == "actions"
        return int(made.fetcher.asked[-1])

    made.ask = ask
    return made


def test_a_new_assignment_is_busy_for_a_while(bench: Any) -> None:
    assert bench.ask() == BUSY_WAIT_MS
    bench.at += NEW_SECONDS - 0.1
    assert bench.ask() == BUSY_WAIT_MS
    bench.at += 0.2
    assert bench.ask() == IDLE_WAIT_MS
    bench.assignment = Assignment()
    assert bench.ask() == BUSY_WAIT_MS


async def test_partitions_left_out_make_it_busy_and_records_do_not(bench: Any) -> None:
    bench.ask()
    bench.at += NEW_SECONDS + 1
    bench.fetcher.comes = True
    assert await bench.fetcher._proc_fetch_request() is True
    assert bench.ask() == IDLE_WAIT_MS
    bench.fetcher._records[1] = object()
    assert bench.ask() == BUSY_WAIT_MS
    bench.fetcher._records.clear()
    assert bench.ask() == IDLE_WAIT_MS
    bench.assignment.paused.add(0)
    assert bench.ask() == BUSY_WAIT_MS
    bench.assignment.paused.clear()
    assert bench.ask() == IDLE_WAIT_MS


async def test_where_answers_follow_each_other_the_broker_waits_for_more(bench: Any) -> None:
    async def answered(times: int, every: float) -> None:
        for _ in range(times):
            bench.at += every
            await bench.fetcher._proc_fetch_request()

    bench.fetcher.comes = True
    await answered(5, 0.003)
    assert (bench.ask(), bench.fetcher._fetch_min_bytes) == (BUSY_WAIT_MS, 1), "a small job stays quick"
    await answered(30, 0.003)
    assert (bench.ask(), bench.fetcher._fetch_min_bytes) == (DENSE_WAIT_MS, DENSE_BYTES)
    await answered(30, DENSE_WAIT_MS / 1000)
    assert bench.ask() == DENSE_WAIT_MS, "as long as it pays"
    await answered(30, 0.1)
    assert (bench.ask(), bench.fetcher._fetch_min_bytes) == (BUSY_WAIT_MS if bench.at < 102 else IDLE_WAIT_MS, 1)
    await answered(40, 0.003)
    bench.fetcher.comes = False
    await answered(1, DENSE_WAIT_MS / 1000)
    assert bench.fetcher._get_actions_per_node(bench.assignment) == "actions"
    assert bench.fetcher._fetch_min_bytes == 1, "the last record waits once"
