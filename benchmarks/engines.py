"""What may fetch files behind the source port: files a second and processor time a file of HTTP clients, each writing the same way.

    ./dev benchmark engines [--files 8000] [--size 16384] [--rounds 3] [--folder /dev/shm]

nginx on loopback; one process, 64 files at a time, uvloop; each file is hashed and gets its name when it is whole, by this service's
own folder (`connectors/local_store.py`). libcurl runs as the fetch process runs it. The others are asked as their documentation says,
without redirects, retries or the check of addresses that ours makes. Files are compared with their source. pyreqwest and obstore
(both Rust) come from PyPI, into a folder of the benchmark's. Needs nginx (Debian: nginx-light).
"""

import argparse
import asyncio
import hashlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.parts import have, start_nginx
from benchmarks.small_files import check, make_files, served
from connectors.fetcher import open_lane
from connectors.local_store import LocalFolder
from export_service.messages import Outcome, Task
from export_service.settings import load

AT_A_TIME = 64
_PACKAGES = ("pyreqwest==0.15.1", "obstore==0.12.1", "typing_extensions")
Fetch = Callable[[str], Awaitable[Any]]
"""A name -> the body."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=8000)
    parser.add_argument("--size", type=int, default=16 * 1024, help="bytes of one file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default="/dev/shm")
    options = parser.parse_args()
    if not have("nginx", packages="nginx-light"):
        return 1
    with tempfile.TemporaryDirectory(prefix="export-benchmark-", dir=options.folder) as folder:
        run(Path(folder), options.files, options.size, options.rounds)
    return 0


def run(folder: Path, files: int, size: int, rounds: int) -> None:
    packages = folder / "packages"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages), *_PACKAGES]
    subprocess.run(install, check=True)
    names = make_files(folder / "source", files, size)
    nginx, base = start_nginx(folder, served(folder / "source"))
    seen: dict[str, list[tuple[float, float]]] = {engine: [] for engine in ENGINES}
    try:
        for number in range(rounds + 1):
            for engine in ENGINES:
                out = folder / f"out-{number}-{engine}"
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    taken, cpu = pool.apply(measure, (engine, base, names, out, packages))
                check(folder / "source", out, names)
                subprocess.run(["rm", "-r", str(out)], check=True)
                if number:  # the first round warms up
                    seen[engine].append((files / taken, cpu / files * 1e6))
    finally:
        nginx.terminate()
        nginx.wait()
    print(f"{'':<12}{'files/s':>10}{'CPU us a file':>16}   medians of {rounds} rounds, {files} files of {size} bytes")
    for engine, measured in seen.items():
        rate, cpu = (statistics.median(column) for column in zip(*measured, strict=True))
        print(f"{engine:<12}{rate:>10,.0f}{cpu:>16,.0f}")


def measure(engine: str, base: str, names: list[str], out: Path, packages: Path) -> tuple[float, float]:
    """Seconds, and seconds of processor time of this process."""
    sys.path.insert(0, str(packages))
    os.environ["EXPORT_DOWNLOAD_ALLOWED_NETWORKS"] = "127.0.0.1"
    out.mkdir()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        started, cpu = time.monotonic(), time.process_time()
        runner.run(ENGINES[engine](base, names, out))
        return time.monotonic() - started, time.process_time() - cpu


async def _ours(base: str, names: list[str], out: Path) -> None:
    """As the fetch process does."""
    ended, left = asyncio.Event(), len(names)
    waiting = iter(enumerate(names))

    def fatal(error: BaseException) -> None:
        raise error

    async with AsyncExitStack() as stack:
        lane = await open_lane(load(), stack, fatal)

        def start() -> None:
            if (following := next(waiting, None)) is not None:
                index, name = following
                lane.start(out.as_uri() + "/", Task(index=index, name=name, url=f"{base}/{name}"), f"{base}/{name}", done)

        def done(result: Any) -> None:
            nonlocal left
            assert result.outcome is Outcome.SUCCEEDED, result
            left -= 1
            if not left:
                ended.set()
            start()

        for _ in range(AT_A_TIME):
            start()
        await ended.wait()


async def _each(names: list[str], out: Path, fetch: Fetch) -> None:
    waiting = iter(names)
    with ThreadPoolExecutor(1) as pool:
        folder = LocalFolder(out, pool)

        async def worker() -> None:
            for name in waiting:
                body = bytes(await fetch(name))
                hashlib.sha256(body).hexdigest()
                folder.put(name, body)

        await asyncio.gather(*(worker() for _ in range(AT_A_TIME)))


async def _aiohttp(base: str, names: list[str], out: Path) -> None:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_A_TIME)) as session:

        async def fetch(name: str) -> bytes:
            async with session.get(f"{base}/{name}") as response:
                response.raise_for_status()
                return await response.read()

        await _each(names, out, fetch)


async def _pyreqwest(base: str, names: list[str], out: Path) -> None:
    from pyreqwest.client import ClientBuilder  # type: ignore[import-not-found]

    async with ClientBuilder().error_for_status(True).build() as client:

        async def fetch(name: str) -> Any:
            return await (await client.get(f"{base}/{name}").build().send()).bytes()

        await _each(names, out, fetch)


async def _obstore(base: str, names: list[str], out: Path) -> None:
    from obstore.store import HTTPStore  # type: ignore[import-not-found]

    store = HTTPStore.from_url(base, client_options={"allow_http": True})

    async def fetch(name: str) -> Any:
        return await (await store.get_async(name)).bytes_async()

    await _each(names, out, fetch)


ENGINES = {"libcurl": _ours, "aiohttp": _aiohttp, "pyreqwest": _pyreqwest, "obstore": _obstore}

if __name__ == "__main__":
    raise SystemExit(main())
