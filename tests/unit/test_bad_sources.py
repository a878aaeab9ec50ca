"""Thousands of files from servers that fail in every way of the chaos tests, at full concurrency: each has an outcome, none is half."""

import asyncio
import zlib
from collections import Counter
from pathlib import Path

from connectors.fetch_processes import forked
from export_service.messages import Outcome, TaskResult
from export_service.settings import load
from tests.chaos import bad_source
from tests.e2e.conftest import FileServer
from tests.unit.sources import Work, working

FILES, POLITE = 2500, 10
MAY_FAIL = {
    "HttpNotFound", "HttpForbidden", "TooManyRedirects", "HttpServerError", "HttpThrottled", "IncompleteRead", "Timeout",
}  # fmt: skip


def way_of(path: str) -> str:
    """What is wrong with a path, by the rule of bad_source: its way's number, or whole."""
    choice = zlib.crc32(path.encode()) % (3 * (len(bad_source._WAYS) + 1))
    return str(choice) if choice <= len(bad_source._WAYS) else "well"


BUSY = ("1", "2")
"""503 and 429."""


async def test_nothing_hangs_and_nothing_is_half_written(tmp_path: Path) -> None:
    # A server that says 429 or 503 is left alone for a while, so these are others than the rest, with some files each.
    servers = [FileServer() for _ in range(POLITE + 2)]
    for server in servers:
        server.misbehave = bad_source.misbehave
    made = load(download={"allowed_networks": "127.0.0.1", "stall_seconds": 1, "publish_seconds": 0.05, "processes": 2})
    urls: list[str] = []
    busy = 0
    for path in map("/{}".format, range(2 * FILES)):
        if way_of(path) in BUSY:
            busy += 1
            if busy <= 4 * POLITE:
                urls.append(servers[busy % POLITE].base + path)
        elif len(urls) < FILES:
            urls.append(servers[POLITE + len(urls) % 2].base + path)
    del urls[FILES:]
    try:
        with forked(made, 2) as ends:
            async with working(ends, made, tmp_path) as work:
                await work.take(urls)
                await work.all_done(120)
                results = work.results
                await asyncio.to_thread(check, work, urls, results)
                assert (work.downloader.busy, len(work.downloader.waiting)) == (0, 0)
    finally:
        for server in servers:
            server.close()


def check(work: Work, urls: list[str], results: dict[tuple[str, int], TaskResult]) -> None:
    assert sorted(index for _, index in results) == list(range(FILES)), "every file has its outcome"
    files = {path.relative_to(work.out / "j").as_posix(): path for path in work.out.rglob("*") if path.is_file()}
    failed = {index: result for (_, index), result in results.items() if result.outcome is not Outcome.SUCCEEDED}
    assert {result.error for result in failed.values()} <= MAY_FAIL
    for (_, index), result in results.items():
        if index in failed:
            assert result.name not in files, "nothing is left of it"
        else:
            assert files[result.name].read_bytes() == FileServer.content("/" + urls[index].rpartition("/")[2])
    assert len(files) == FILES - len(failed), "and nothing besides"
    outcomes: dict[str, Counter[Outcome]] = {}
    for (_, index), result in results.items():
        outcomes.setdefault(way_of("/" + urls[index].rpartition("/")[2]), Counter())[result.outcome] += 1
    ways = len(bad_source._WAYS)
    assert len(outcomes) == ways + 2, "all forms have come"
    for choice, (_, transient) in enumerate(bad_source._WAYS):
        wanted = Outcome.SUCCEEDED if transient else Outcome.FAILED
        assert set(outcomes[str(choice)]) == {wanted}, f"way {choice}"
    assert set(outcomes[str(ways)]) == set(outcomes["well"]) == {Outcome.SUCCEEDED}
