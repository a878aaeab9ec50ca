"""How quickly the console shows many jobs: from its start, to a request, to a browser. Prints medians.

    ./dev benchmark console [--jobs 10000] [--requests 50]

On `snapshots` are three records a job, as of one that began, moved and ended; every hundredth still runs. With Chromium installed also its
first contentful paint, of a page that it has not seen before.
"""

import argparse
import asyncio
import random
import re
import statistics
import sys
import tempfile
import time
import urllib.request
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

from export_service.devstack import processes
from export_service.devstack import stack as stacks
from export_service.messages import JobSnapshot, JobStatus
from export_service.settings import load
from streams.publisher import KafkaPublisher
from streams.topics import declare, topics

_PAGES = ("/", "/jobs", "/jobs?page=100", "/jobs?user=user-7&status=COMPLETED", "/jobs?q=export-99")
_PAINTED = "return performance.getEntriesByName('first-contentful-paint').map((each) => each.startTime)[0]"


async def fill(jobs: int) -> None:
    settings, begin = load(), datetime.now(UTC) - timedelta(days=1)
    names = topics(settings)
    await declare(settings, names.manifest())
    async with KafkaPublisher(settings) as publisher:
        sent = []
        for number in range(jobs):
            asked = begin + timedelta(seconds=number * 86_000 / jobs)
            job = JobSnapshot(
                job_id=str(uuid.UUID(int=random.getrandbits(128), version=4)),
                attempt=1,
                version=1,
                export_id=f"export-{number}",
                user_id=f"user-{number % 40}",
                status=JobStatus.RUNNING,
                total_tasks=1000,
                requested_at=asked,
                updated_at=asked,
                destination=f"s3://exports/user-{number % 40}/",
            )
            ended = {"status": JobStatus.COMPLETED, "completed_at": asked + timedelta(seconds=60), "completed_tasks": 1000}
            steps: list[dict[str, object]] = [{}, {"completed_tasks": 400}, ended if number % 100 else {"completed_tasks": 700}]
            for version, fields in enumerate(steps, 1):
                each = job.model_copy(update={"version": version, "updated_at": asked + timedelta(seconds=20 * version), **fields})
                sent.append(await publisher.send(names.snapshots.name, job.job_id.encode(), each.to_bytes()))
            if len(sent) > 1000:
                await asyncio.gather(*sent)
                sent.clear()
        await asyncio.gather(*sent)


def get(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        return str(answer.read().decode())


def measure(folder: Path, env: dict[str, str], jobs: int, requests: int) -> None:
    port, begun = processes.free_port(), time.monotonic()
    base, wanted = f"http://127.0.0.1:{port}", f"{jobs:,} jobs"
    command = [sys.executable, "-m", "export_service", "console", "--port", str(port)]
    child = processes.start(command, folder / "console.log", env)
    try:
        while not processes.listens(port):
            time.sleep(0.01)
        listening = time.monotonic() - begun
        while wanted not in get(f"{base}/jobs"):
            time.sleep(0.02)
        print(f"listens after {listening:.2f} s, shows {wanted} after {time.monotonic() - begun:.2f} s")
        status = Path(f"/proc/{child.pid}/status")
        if status.exists() and (found := re.search(r"VmRSS:\s+(\d+)", status.read_text())):
            print(f"memory {int(found[1]) / 1024:.0f} MiB")
        for page in _PAGES:
            took = []
            for _ in range(requests):
                at = time.perf_counter()
                size = len(get(base + page))
                took.append(time.perf_counter() - at)
            took.sort()
            slow = took[int(len(took) * 0.95)]
            print(f"{page:<42} {1000 * statistics.median(took):6.1f} ms, 95 % {1000 * slow:6.1f} ms, {size / 1000:6.1f} KB")
        paint(base)
    finally:
        child.terminate()
        child.wait()


def paint(base: str) -> None:
    from tests.browser.chromium import ABSENT, WIDE, chromium

    if ABSENT:
        print(f"first paint not measured: {ABSENT}")
        return
    with chromium(base + "/") as browser:
        browser.look("light", WIDE)
        for page in ("/jobs", "/"):
            took = []
            for number in range(6):
                browser.go(f"{page}?{number}")
                browser.until(lambda: browser.script(_PAINTED) is not None, "something is painted")
                took.append(browser.script(_PAINTED))
            # The first has styles and script to fetch.
            print(f"first contentful paint of {page:<5} {statistics.median(took):6.0f} ms, the first time {took[0]:.0f} ms")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--jobs", type=int, default=10_000)
    arguments.add_argument("--requests", type=int, default=50)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = asyncio.run(stacks.up(folder))
        try:
            with patch.dict("os.environ", running.env):
                asyncio.run(fill(given.jobs))
                measure(folder, running.env, given.jobs, given.requests)
        finally:
            running.stop()


if __name__ == "__main__":
    main()
