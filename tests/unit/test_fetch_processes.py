"""Transfers in other processes: what comes back, what a stop leaves, and how either side notices that the other is gone."""

import asyncio
import marshal
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from connectors import fetch_processes
from connectors.fetch_processes import FetchProcesses, forked
from connectors.frames import Frames
from export_service.failures import FetchProcessEnded
from export_service.messages import Outcome, Task, TaskResult
from export_service.settings import Settings, load
from tests.waiting import until

BODY = b"content\n" * 500


class Bench:
    def __init__(self, ends: list[socket.socket], folder: Path) -> None:
        self.out = folder / "out"
        self.failures: list[BaseException] = []
        self.asked: list[str] = []
        self.held = asyncio.Event()
        self.processes = FetchProcesses(ends, self.failures.append)
        self.results: dict[int, TaskResult] = {}
        self.base = ""

    def start(self, index: int, path: str = "/file") -> Any:
        task = Task(index=index, url=self.base + path, name=f"{index}.bin")
        return self.processes.start(self.out.as_uri() + "/", task, task.url + "?sig=secret", partial(self._done, index))

    def _done(self, index: int, result: TaskResult) -> None:
        assert index not in self.results, "told twice"
        self.results[index] = result

    async def all_of(self, number: int) -> None:
        await until(lambda: len(self.results) == number, 30)

    async def serve(self, request: web.Request) -> web.Response:
        self.asked.append(request.raw_path)
        if request.path == "/held":
            await self.held.wait()
        return web.Response(body=BODY) if request.path != "/missing" else web.Response(status=404)


@pytest.fixture(params=[1, 3])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[socket.socket]]:
    with forked(settings(tmp_path), request.param) as sockets:
        yield sockets


def settings(folder: Path) -> Settings:
    return load(download={"allowed_networks": "127.0.0.1", "attempts": 2}, worker={"state_dir": folder})


@pytest.fixture
async def bench(ends: list[socket.socket], tmp_path: Path) -> AsyncIterator[Bench]:
    async with serving(ends, tmp_path) as made:
        yield made
        assert made.failures == []


@asynccontextmanager
async def serving(ends: list[socket.socket], folder: Path) -> AsyncIterator[Bench]:
    made = Bench(ends, folder)
    app = web.Application()
    app.router.add_get("/{name:.*}", made.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    await made.processes.connect()
    try:
        yield made
    finally:
        await made.processes.stop()
        await runner.cleanup()


async def test_files_arrive_and_each_outcome_is_told_once(bench: Bench) -> None:
    for index in range(500):
        bench.start(index, "/missing" if index % 100 == 7 else "/file")
    await bench.all_of(500)
    failed = {index: result for index, result in bench.results.items() if result.outcome is Outcome.FAILED}
    assert sorted(failed) == [7, 107, 207, 307, 407]
    assert failed[7].error == "HttpNotFound"
    assert failed[7].message == f"{bench.base}/missing answered 404 Not Found"
    assert {path.name for path in bench.out.iterdir()} == {f"{index}.bin" for index in range(500) if index not in failed}
    assert all((bench.out / f"{index}.bin").read_bytes() == BODY for index in range(500) if index not in failed)
    one = bench.results[3]
    assert (one.index, one.name, one.bytes, one.attempts, one.url) == (3, "3.bin", len(BODY), 1, f"{bench.base}/file")
    assert one.sha256 is not None
    assert all(path.endswith("?sig=secret") for path in bench.asked), "the whole URL is asked for"


async def test_one_that_is_stopped_is_not_told_of(bench: Bench) -> None:
    stop = bench.start(0, "/held")
    await until(lambda: len(bench.asked) == 1)
    stop()
    stop()
    bench.start(1)
    await bench.all_of(1)
    bench.held.set()
    bench.start(2)
    await bench.all_of(2)
    assert set(bench.results) == {1, 2}
    assert not (bench.out / "0.bin").exists()


async def test_a_stop_waits_until_nothing_is_written_any_more(bench: Bench) -> None:
    for index in range(10):
        bench.start(index, "/held")
    await until(lambda: len(bench.asked) == 10)
    await asyncio.wait_for(bench.processes.stop(), 10)
    bench.held.set()
    assert bench.results == {}
    assert not bench.out.exists() or list(bench.out.iterdir()) == []


def test_processes_end_with_their_sockets_and_not_by_a_terminals_interrupt(tmp_path: Path) -> None:
    others = _children()
    with forked(settings(tmp_path), 2):
        children = _children() - others
        assert len(children) == 2
        for child in children:
            os.kill(child, signal.SIGINT)
            os.kill(child, signal.SIGTERM)
            os.kill(child, 0)
    assert not children & _children()


def test_a_process_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_processes, "_END_SECONDS", 0.1)
    others = _children()
    with forked(settings(tmp_path), 1):
        (child,) = _children() - others
        os.kill(child, signal.SIGSTOP)
    assert child not in _children()


async def test_a_killed_process_is_the_end_of_its_worker(tmp_path: Path) -> None:
    others = _children()
    with forked(settings(tmp_path), 1) as ends:
        (child,) = _children() - others
        async with serving(ends, tmp_path) as bench:
            bench.start(0, "/held")
            await until(lambda: len(bench.asked) == 1)
            os.kill(child, signal.SIGKILL)
            await until(lambda: bool(bench.failures))
            assert isinstance(bench.failures[0], FetchProcessEnded)
            assert bench.results == {}


async def test_frames_come_whole_however_they_are_cut() -> None:
    values: list[Any] = []
    frames = Frames(values.append, lambda _: None)
    sent = [marshal.dumps(each) for each in ([1, "a"], [None], [(3, "x" * 70_000)])]
    data = b"".join(len(each).to_bytes(4, "little") + each for each in sent)
    for at in range(0, len(data), 7):
        frames.data_received(data[at : at + 7])
    assert values == [1, "a", None, (3, "x" * 70_000)]


async def test_what_a_receiver_raises_closes_the_connection_and_is_told() -> None:
    here, there = socket.socketpair()
    told: list[Exception | None] = []

    def fails(value: Any) -> None:
        raise ValueError(value)

    receiver, sender = Frames(fails, told.append), Frames(lambda _: None, lambda _: None)
    await receiver.connect(here)
    await sender.connect(there)
    sender.send("x")
    await until(lambda: bool(told))
    assert isinstance(told[0], ValueError)


def _children() -> set[int]:
    """Of this process; among them may be a stack's."""
    return {int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}
