"""Large files: several connections, kept over cuts and kills, and never two versions in one file."""

import asyncio
import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from connectors import curl, large_files
from connectors.local_store import can_be_unnamed
from connectors.part_file import PartFile
from export_service import transfer
from export_service.messages import Outcome
from export_service.settings import Download
from tests.unit.test_transfer import Bench, serving
from tests.waiting import until

KIB = 1024
BLOCK = 64 * KIB
SIZE = 20 * BLOCK + 12_345
OLD, NEW = (os.urandom(SIZE) for _ in range(2))
Answer = Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]
DOWNLOAD = """
import asyncio, sys
from pathlib import Path
from connectors import curl, large_files
from export_service.settings import Download
from tests.unit.test_transfer import Bench, serving
curl._FULL_LARGE = large_files.LARGE = large_files.BLOCK = 64 * 1024
async def main():
    async with serving(Path(sys.argv[1]), Download(allowed_networks="127.0.0.1", connections=1)) as bench:
        bench.base = sys.argv[2]
        await bench.get()
asyncio.run(main())
"""


class Source:
    """A server of one file.

    Attributes:
        asked: for which bytes, in order; an empty string for all.
        pause: seconds between 16 KiB of one connection, or of all if there is a `line`.
        hold: an answer stops after so many bytes, until it is let go.
        cut: connections are cut after so many bytes, one after the other.
        odd: answers what is asked for with a range.
    """

    def __init__(self) -> None:
        self.body, self.headers = OLD, {"ETag": '"1"', "Accept-Ranges": "bytes"}
        self.asked: list[str] = []
        self.pause, self.hold, self.under_way, self.most = 0.0, SIZE, 0, 0
        self.cut: list[int] = []
        self.go = asyncio.Event()
        self.line: asyncio.Lock | None = None
        self.odd: Answer | None = None

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.headers.get("Range", "").removeprefix("bytes="))
        if not (span := re.fullmatch(r"(\d+)-(\d+)", self.asked[-1])):
            return await self.send(request, 200, 0, SIZE)
        if self.odd is not None:
            return await self.odd(request)
        if request.headers.get("If-Range") != self.headers["ETag"]:
            return await self.send(request, 200, 0, SIZE)
        return await self.send(request, 206, int(span[1]), int(span[2]) + 1)

    async def send(self, request: web.Request, status: int, first: int, stop: int, **headers: str) -> web.StreamResponse:
        more = {"Content-Range": f"bytes {first}-{stop - 1}/{SIZE}"} if status == 206 else {}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        length = {"Content-Length": str(stop - first)}
        response = web.StreamResponse(status=status, headers=self.headers | length | more | named)
        await response.prepare(request)
        cut = self.cut.pop(0) if self.cut else SIZE
        body = self.body
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            for at in range(first, stop, 16 * KIB):
                if at - first >= cut:
                    assert request.transport is not None
                    request.transport.close()
                    break
                if at >= self.hold:
                    await self.go.wait()
                async with self.line or asyncio.Lock():
                    await asyncio.sleep(self.pause)
                await response.write(body[at : min(at + 16 * KIB, stop)])
        except ConnectionError:
            pass
        finally:
            self.under_way -= 1
        return response

    @property
    def spans(self) -> list[tuple[int, int]]:
        return [(int(first), int(last) + 1) for first, last in (asked.split("-") for asked in self.asked if asked)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large is what has more than 64 KiB here."""
    for name, value in {"LARGE": BLOCK, "BLOCK": BLOCK, "_LOOK_SECONDS": 0.2, "_WORTH_SECONDS": 0.05, "_BEHIND": KIB}.items():
        monkeypatch.setattr(large_files, name, value)
    monkeypatch.setattr(curl, "_FULL_LARGE", 16 * KIB)
    monkeypatch.setattr(curl, "_FULL", 16 * KIB)
    monkeypatch.setattr(transfer, "_FURTHER", BLOCK)


@pytest.fixture
async def source() -> Source:
    return Source()


@pytest.fixture
async def bench(tmp_path: Path, source: Source) -> AsyncIterator[Bench]:
    settings = Download(attempts=3, stall_seconds=3, timeout_seconds=10, allowed_networks="127.0.0.1", concurrency=8)
    async with serving(tmp_path, settings) as made:
        made.answers = [source] * 1000
        yield made


async def whole(bench: Bench, body: bytes = OLD, **fields: Any) -> int:
    """It arrives as it is, and nothing else is there; how many tries that took."""
    result = await bench.get(**fields)
    assert (result.outcome, result.error, result.message) == (Outcome.SUCCEEDED, None, None)
    assert (result.bytes, result.sha256) == (SIZE, hashlib.sha256(body).hexdigest())
    assert bench.files() == {"out.bin": body}, "whole, and nothing beside it"
    return result.attempts


async def test_a_slow_source_is_not_seen_in_lumps(bench: Bench, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curl, "_FULL", 4 * KIB)
    monkeypatch.setattr(curl, "_FULL_LARGE", SIZE)
    source.pause = 0.02
    await whole(bench)
    assert source.spans, "it was seen to be slow while there was something left"


async def test_large_files_share_their_room_and_give_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curl, "_LARGE_TOGETHER", 16 * BLOCK)
    monkeypatch.setattr(curl, "_FULL_LARGE", 4 * BLOCK)
    async with curl.Curl(Download()) as made:
        for _ in range(2):
            responses = [made.start("http://127.0.0.1:1/") for _ in range(16)]
            for response in responses:
                response.is_large()
                response._waiting = SIZE
            assert [response._room() for response in responses] == [BLOCK] * 16
            for response in responses[2:]:
                response.release()
            assert responses[0]._room() == 4 * BLOCK
            for response in responses[:2]:
                response.release()
            assert made.large == 0


async def test_a_quick_source_is_asked_once(bench: Bench, source: Source) -> None:
    assert await whole(bench) == 1
    assert source.asked == [""]


async def test_a_source_that_is_slow_for_each_connection_is_asked_for_parts(
    bench: Bench, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_files, "_QUICKER", 0.5)  # this machine's pauses are not the source's
    source.pause = 0.04
    assert await whole(bench) == 1
    assert source.asked[0] == ""
    assert source.spans
    assert 4 <= source.most <= 8, "twice as many, as long as that helps, and not more than there may be files"
    starts = [first for first, _ in source.spans]
    assert starts == sorted(set(starts)), "in order, and nothing twice"


async def test_an_early_part_may_come_last(bench: Bench, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    async def late(request: web.Request) -> web.StreamResponse:
        first, stop = source.spans[-1]
        if len(source.spans) == 2:
            await until(lambda: source.under_way == 0 and source.spans[-1][1] == SIZE)
        return await source.send(request, 206, first, stop)

    monkeypatch.setattr(large_files, "_QUICKER", 0.0)
    source.pause, source.odd = 0.01, late
    assert await asyncio.wait_for(whole(bench), 5) == 1


async def test_a_source_that_answers_one_after_the_other_does_not_hold_the_first_up(
    bench: Bench, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        await source.go.wait()
        return web.Response()

    monkeypatch.setattr(large_files, "_PATIENCE_SECONDS", 0.2)
    source.pause, source.odd = 0.01, never
    assert await whole(bench) == 1
    assert len(source.spans) == 1
    source.go.set()


async def test_connections_that_do_not_help_are_given_up(bench: Bench, source: Source) -> None:
    source.line, source.pause = asyncio.Lock(), 0.02
    assert await whole(bench) == 1
    assert source.most <= 3, "one, and one more on trial, while the first is told that it has ended"


async def test_one_connection_is_enough_if_there_may_be_no_more(tmp_path: Path, source: Source) -> None:
    async with serving(tmp_path, Download(allowed_networks="127.0.0.1", connections=1)) as bench:
        bench.answers, source.pause = [source] * 9, 0.005
        await whole(bench)
    assert source.asked == [""]


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": 'W/"1"', "Accept-Ranges": "bytes"},
        {"Accept-Ranges": "bytes"},
        {"ETag": '"1"'},
        {"ETag": '"1"', "Accept-Ranges": "none"},
    ],
    ids=["weak ETag", "no ETag", "no ranges said", "no ranges"],
)
async def test_without_a_strong_etag_and_ranges_the_whole_is_asked_for_again(
    bench: Bench, source: Source, headers: dict[str, str]
) -> None:
    source.headers, source.pause, source.cut = headers, 0.005, [5 * BLOCK, 5 * BLOCK]
    assert await whole(bench) == 3
    assert source.asked == ["", "", ""]


async def _whole_again(source: Source, request: web.Request) -> web.StreamResponse:
    return await source.send(request, 200, 0, SIZE)


async def _elsewhere(source: Source, request: web.Request) -> web.StreamResponse:
    return await source.send(request, 206, 0, BLOCK)


async def _of_another(source: Source, request: web.Request) -> web.StreamResponse:
    first, stop = source.spans[-1]
    source.body = NEW
    return await source.send(request, 206, first, stop, ETag='"2"')


async def _of_nobody_knows(source: Source, request: web.Request) -> web.StreamResponse:
    first, stop = source.spans[-1]
    source.body, source.headers = NEW, {}
    return await source.send(request, 206, first, stop)


async def _of_another_length(source: Source, request: web.Request) -> web.StreamResponse:
    first, stop = source.spans[-1]
    return await source.send(request, 206, first, stop, Content_Range=f"bytes {first}-{stop - 1}/{SIZE + 1}")


async def _not_satisfiable(source: Source, request: web.Request) -> web.StreamResponse:  # noqa: ARG001
    return web.Response(status=416)


ODD = [_whole_again, _elsewhere, _of_another, _of_nobody_knows, _of_another_length, _not_satisfiable]


@pytest.mark.parametrize("odd", ODD)
async def test_a_part_that_is_not_the_one_asked_for_is_never_used_and_the_first_get_goes_on(
    bench: Bench, source: Source, odd: Callable[[Source, web.Request], Coroutine[Any, Any, web.StreamResponse]]
) -> None:
    # Slow enough that it is under way still when the answer is looked at: otherwise all would begin again, rightly.
    source.pause, source.odd = 0.02, lambda request: odd(source, request)
    assert await whole(bench) == 1
    assert source.spans, "it was asked for parts"
    assert source.asked.count("") == 1


@pytest.mark.parametrize("odd", ODD)
async def test_and_where_there_is_no_first_get_any_more_all_begins_anew(
    bench: Bench, source: Source, odd: Callable[[Source, web.Request], Coroutine[Any, Any, web.StreamResponse]]
) -> None:
    source.cut, source.odd = [7 * BLOCK], lambda request: odd(source, request)
    result = await bench.get()
    assert result.outcome is Outcome.SUCCEEDED
    assert bench.files() == {"out.bin": source.body}
    assert result.sha256 == hashlib.sha256(source.body).hexdigest()
    assert [asked == "" for asked in source.asked] == [True, True, False, True]


async def test_a_connection_that_is_cut_is_gone_on_with_from_the_byte(bench: Bench, source: Source) -> None:
    source.cut = [5 * BLOCK]
    assert await whole(bench) == 2
    assert source.asked[:2] == ["", ""]
    assert source.spans[0][0] == 5 * BLOCK


async def test_tries_that_get_on_do_not_count_and_those_that_do_not_do(bench: Bench, source: Source) -> None:
    source.cut = [4 * BLOCK, *[SIZE, SIZE, 0] * 5]
    assert await whole(bench) > 3
    source.cut = [0] * 20
    result = await bench.get()
    assert (result.outcome, result.error, result.attempts) == (Outcome.FAILED, "IncompleteRead", 3)
    assert bench.files() == {"out.bin": OLD}, "of what failed nothing is left"


async def test_a_source_that_changed_between_two_tries_is_fetched_from_its_beginning(bench: Bench, source: Source) -> None:
    source.cut = [5 * BLOCK]

    async def changed(_: float) -> None:
        source.body, source.headers["ETag"] = NEW, '"2"'

    bench.lanes._tasks._transfer._sleep = changed  # type: ignore[attr-defined]
    assert await whole(bench, NEW) == 2
    assert source.asked == ["", ""]


async def test_a_file_is_not_done_before_its_last_write_is(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write hashes what it has, and then notes how far it is, behind the last byte: where that is slow, the hash is there first."""

    def slow(self: PartFile, safe: int) -> None:
        time.sleep(0.005)
        note(self, safe)

    note = PartFile.note
    monkeypatch.setattr(PartFile, "note", slow)
    async with serving(tmp_path, Download(allowed_networks="127.0.0.1", connections=1, attempts=5)) as bench:
        bench.answers = [source] * 100
        assert (await bench.get(sha256="0" * 64)).attempts == 5, "nothing is gone on with"
        assert source.asked == [""] * 5
        for _ in range(5):
            await whole(bench)


async def test_what_is_not_what_was_promised_is_not_kept(tmp_path: Path, source: Source) -> None:
    # One connection: a machine with much to do would open others meanwhile.
    async with serving(tmp_path, Download(allowed_networks="127.0.0.1", connections=1, attempts=3)) as bench:
        bench.answers = [source] * 9
        result = await bench.get(sha256="0" * 64)
        assert (result.error, result.attempts) == ("ChecksumMismatch", 3)
        assert source.asked == ["", "", ""]
        assert bench.files() == {}
        assert (await bench.get(size=5)).error == "SizeMismatch"


async def test_a_file_that_is_cancelled_leaves_nothing_and_one_that_is_handed_back_its_part(bench: Bench, source: Source) -> None:
    source.hold = 8 * BLOCK
    for hand_back in (False, True):
        getting = asyncio.create_task(bench.get())
        await until(lambda: _recorded(bench.folder) >= 6 * BLOCK)
        if hand_back:
            await bench.lanes.stop()
            assert len(bench.files()) == 1
        else:
            (running,) = bench.lanes._tasks._running
            running.cancel()
            await until(lambda: bench.files() == {})
        getting.cancel()
    source.hold = SIZE
    source.asked.clear()
    await whole(bench)
    assert source.asked[0] == ""
    assert source.spans[0][0] >= 6 * BLOCK


async def test_a_worker_that_is_killed_in_the_middle_is_gone_on_with_from_the_byte(bench: Bench, source: Source) -> None:
    if not can_be_unnamed(str(bench.folder)):
        pytest.skip("this file system cannot name a file by its descriptor")
    source.hold = 8 * BLOCK
    with _worker(bench) as worker:
        await until(lambda: _recorded(bench.folder) >= 6 * BLOCK, 60)
        beside = asyncio.create_task(bench.get())
        await until(lambda: len(source.asked) == 2)
        source.go.set()
        assert (await beside).outcome is Outcome.SUCCEEDED
        assert source.asked[:2] == ["", ""], "who comes while the first lives begins anew, in a file of its own"
        assert (bench.folder / "out.bin").read_bytes() == OLD
        worker.kill()
        worker.wait()
    source.go.clear()
    (bench.folder / "out.bin").unlink()
    for path in bench.folder.iterdir():
        path.unlink()
    with _worker(bench) as worker:
        await until(lambda: _recorded(bench.folder) >= 6 * BLOCK, 60)
        worker.kill()
        worker.wait()
    source.go.set()
    source.asked.clear()
    await whole(bench)
    assert source.asked[0] == ""
    assert source.spans[0][0] >= 6 * BLOCK


def _worker(bench: Bench) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", DOWNLOAD, str(bench.folder), bench.base])


def _recorded(folder: Path) -> int:
    """What the record of the only part says."""
    for path in folder.glob(".*.part"):
        with path.open("rb") as file:
            file.seek(SIZE + 8)
            return int.from_bytes(file.read(8), "little")
    return 0


async def test_a_full_disk_gives_back_what_the_file_took(bench: Bench, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    left = 3

    def full(*arguments: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", full)
    result = await bench.get()
    assert (result.outcome, result.error, result.attempts) == (Outcome.FAILED, "DiskFull", 3)
    assert bench.files() == {}
    assert source.asked == ["", "", ""]
