"""The fleet's bandwidth, changed while two workers run: seen from the server that has the files."""

import json
import time
import uuid
from typing import Any

import pytest

from tests.e2e.conftest import World
from tests.e2e.test_ending_early import cli

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
SIZE = 20_000
MB = 1_000_000


def test_two_workers_share_a_bandwidth_that_changes_while_they_run(world: World) -> None:
    content: Any = lambda path: (path + "\n").encode().ljust(SIZE, b".")  # noqa: E731 - in place of a static method
    world.files.content = content  # type: ignore[method-assign]
    wanted = [f"f/{number}" for number in range(3000)]
    world.catalog("many", wanted)
    assert limits(world, "set", "--bandwidth", "1MB", "--host-concurrency", "elsewhere.example:8080=3") == {
        "bandwidth": MB,
        "hostConcurrency": {"elsewhere.example:8080": 3},
    }
    for _ in range(2):
        world.worker(EXPORT_DOWNLOAD_CONCURRENCY="8")
    job = str(uuid.uuid4())
    world.send({"jobId": job, "exportId": "many", "userId": "u"})

    def sent() -> int:
        return sum(world.files.requests.values()) * SIZE

    def rate(seconds: float) -> float:
        before, started = sent(), time.monotonic()
        time.sleep(seconds)  # what is measured
        return (sent() - before) / (time.monotonic() - started)

    world.until(lambda: sent() > 2 * MB, "the job is under way")
    assert rate(6) == pytest.approx(MB, rel=0.1)
    limits(world, "set", "--bandwidth", "3MB", "--host-concurrency", "elsewhere.example:8080=off")
    time.sleep(1.5)  # within that the workers follow
    assert rate(5) == pytest.approx(3 * MB, rel=0.1)
    assert limits(world, "show") == {"bandwidth": 3 * MB, "hostConcurrency": {}}
    limits(world, "set", "--bandwidth", "off")
    world.ended(job)
    assert world.snapshot(job)["completedTasks"] == "3000"
    assert sum(world.files.requests.values()) == 3000
    assert world.output(job)["f/7"] == content("/f/7")

    wrong = cli(world, "limits", "set", "--bandwidth", "50 bananas")
    assert wrong.returncode == 2
    assert "--bandwidth" in wrong.stderr
    assert "'50 bananas' is not a rate" in " ".join(wrong.stderr.replace("│", " ").split())
    assert cli(world, "limits", "set").returncode == 2


def limits(world: World, *arguments: str) -> dict[str, Any]:
    ended = cli(world, "limits", *arguments, "--json")
    assert ended.returncode == 0, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout)
    return told
