"""A fetch waits for long only if it asks for everything and nothing has come for a while."""

from types import SimpleNamespace
from typing import Any

import pytest

from streams.patience import BUSY_WAIT_MS, IDLE_AFTER_SECONDS, IDLE_WAIT_MS, Patience


class Fetcher:
    def __init__(self) -> None:
        self._records: dict[int, object] = {}
        self._fetch_max_wait_ms = 1500
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


def test_idle_only_after_a_while(bench: Any) -> None:
    assert bench.ask() == BUSY_WAIT_MS
    bench.at += IDLE_AFTER_SECONDS - 0.1
    assert bench.ask() == BUSY_WAIT_MS
    bench.at += 0.2
    assert bench.ask() == IDLE_WAIT_MS


async def test_records_new_partitions_and_partitions_left_out_make_it_busy(bench: Any) -> None:
    def idle() -> None:
        bench.ask()
        bench.at += IDLE_AFTER_SECONDS + 1
        assert bench.ask() == IDLE_WAIT_MS

    idle()
    bench.fetcher.comes = True
    assert await bench.fetcher._proc_fetch_request() is True
    assert bench.ask() == BUSY_WAIT_MS
    idle()
    bench.assignment = Assignment()
    assert bench.ask() == BUSY_WAIT_MS
    idle()
    bench.fetcher._records[1] = object()
    assert bench.ask() == BUSY_WAIT_MS
    bench.fetcher._records.clear()
    idle()
    bench.assignment.paused.add(0)
    bench.at += 100
    assert bench.ask() == BUSY_WAIT_MS
    bench.assignment.paused.clear()
    idle()
