"""A small job does not wait for a large one, and users share the slots: seen from the server that has the files."""

import json
import threading
import uuid
from collections import Counter
from typing import Any

import pytest

from tests.chaos.judging import judge
from tests.e2e.conftest import World
from tests.e2e.test_ending_early import cli
from tests.e2e.test_executions import expect_files, read_topic

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
MANY = 20_000


class Order(Counter[str]):
    """Of requests, in the order in which the server took them: stands in for FileServer.requests, which counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[str] = []
        self._lock = threading.Lock()

    def __setitem__(self, path: str, count: int) -> None:
        with self._lock:
            self.paths.append(path)
            super().__setitem__(path, count)


def ask(world: World, export_id: str, user: str) -> str:
    job = str(uuid.uuid4())
    world.send({"jobId": job, "exportId": export_id, "userId": user})
    return job


def test_a_small_job_passes_a_large_one_and_a_middling_one_gets_half_of_the_slots(world: World) -> None:
    order: Any = Order()
    world.files.requests, world.files.delay = order, 0.5
    large, small, middling = ([f"{name}/{n}" for n in range(count)] for name, count in (("a", MANY), ("b", 1), ("c", 500)))
    for name, wanted in (("large", large), ("small", small), ("middling", middling)):
        world.catalog(name, wanted)
    world.worker(EXPORT_DOWNLOAD_CONCURRENCY="16")
    first = ask(world, "large", "user-a")
    world.until(lambda: world.snapshot(first).get("totalTasks") == str(MANY), "the large job is planned")
    world.until(lambda: int(world.snapshot(first).get("completedTasks", 0)) > 100, "the large job is well under way")

    for user in ("user-b", "user-a"):
        before = int(world.snapshot(first)["completedTasks"])
        job = ask(world, "small", user)
        world.ended(job)
        expect_files(world, job, small)
        # A download takes half a second, in which 16 of the large job's end; several times that for a machine that is busy.
        passed = int(world.snapshot(first)["completedTasks"]) - before
        assert passed < 400, f"{user} does not wait for the large job"

    begun = len(order.paths)
    third = ask(world, "middling", "user-c")
    world.ended(third)
    meanwhile = order.paths[begun:]
    theirs = [number for number, path in enumerate(meanwhile) if path.startswith("/c/")]
    between = meanwhile[theirs[0] : theirs[-1] + 1]
    share = len(theirs) / len(between)
    assert 0.4 < share < 0.6, Counter(path[:3] for path in between)

    assert cli(world, "cancel", first).returncode == 0
    assert world.ended(first)["status"] == "CANCELLED"
    assert world.ended(ask(world, "small", "user-b"))["status"] == "COMPLETED"
    assert len(order.paths) < MANY / 4
    judge(world, [*large, *small, *middling], [first, third], [])


def test_a_plan_whose_worker_is_killed_goes_on_where_it_was(world: World) -> None:
    wanted = [f"d/{n}" for n in range(4000)]
    world.catalog("long", wanted)
    world.files.delay = 0.1
    settings = {"EXPORT_DOWNLOAD_CONCURRENCY": "16", "EXPORT_KAFKA_SESSION_TIMEOUT_SECONDS": "6"}
    worker = world.worker(**settings)
    job = ask(world, "long", "user-d")
    world.until(lambda: int(world.attempt(job, 1).get("plannedThrough", 0)) > 0, "how far the plan is has been kept")
    assert not world.attempt(job, 1)["planEnded"]
    worker.kill()
    world.launch(**settings)
    world.until(lambda: "completedAt" in world.snapshot(job), "the job ends", seconds=240)
    snapshot = world.snapshot(job)
    assert (snapshot["status"], snapshot["completedTasks"]) == ("COMPLETED", "4000")
    expect_files(world, job, wanted)
    batches = [json.loads(value) for value in read_topic(world, world.env["EXPORT_TOPICS_PREFIX"] + "tasks")]
    assert sum(task["index"] == 0 for batch in batches for task in batch["tasks"]) == 1, (
        "what was handed out is not handed out again"
    )
    judge(world, wanted, [job], [])
