"""Records histories of this version, which `test_histories.py` folds for ever: `python -m tests.replay.record tests/replay/0.1.0`.

Before each release, into a folder of its name.
Each is a job on the real pipeline: the embedded stack, a worker, a file server that fails as it is told.
"""

import asyncio
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from aiokafka import AIOKafkaProducer

from export_service._app_path import make_importable
from export_service.devstack import stack as stacks
from tests.e2e.conftest import FileServer, World
from tests.e2e.test_executions import names
from tests.e2e.test_history import told
from tests.kafka import records

WORKER = {"EXPORT_DESTINATION": "s3://exports/{jobId}/", "EXPORT_WORKER_DRAIN_SECONDS": "1"}


def success(world: World) -> str:
    world.catalog("success", names(12))
    return _finished(world, "success")


def failures(world: World) -> str:
    wanted = names(8)
    world.catalog("failures", wanted)
    world.files.missing = {f"/{wanted[2]}", f"/{wanted[7]}"}
    return _finished(world, "failures")


def attempts(world: World) -> str:
    """A run after a failure, one more that makes it good, and an answer to a token that came after the end."""
    wanted = names(8)
    world.catalog("attempts", wanted)
    world.files.missing = {f"/{wanted[2]}", f"/{wanted[7]}"}
    job = _finished(world, "attempts")
    world.files.missing = {f"/{wanted[7]}"}
    _finished(world, "attempts", job)
    world.files.missing = set()
    _finished(world, "attempts", job)
    return _finished(world, "attempts", job)


def taken_over(world: World) -> str:
    """The second token while the job runs."""
    world.catalog("taken-over", names(6))
    world.files.gate.clear()
    _, job = world.execute("taken-over")
    world.until(lambda: bool(world.files.requests), "downloads have begun")
    arn, _ = world.execute("taken-over", job)
    world.until(lambda: _state(world, job).get("attempt") == 2, "the second attempt is known")
    world.files.gate.set()
    world.finished(arn)
    return job


def cancelled(world: World) -> str:
    wanted = names(20)
    world.catalog("cancelled", wanted)
    world.files.held = {f"/{name}" for name in wanted[10:]}
    world.files.gate.clear()
    arn, job = world.execute("cancelled")
    world.until(lambda: _state(world, job).get("completedTasks") == 10, "half of it is there")
    told(world, "cancel", job, "--cause", "wrong customer")
    world.finished(arn)
    world.files.gate.set()
    return job


def tolerance(world: World) -> str:
    """More failures than tolerated: it stops. What is left is cancelled."""
    wanted = names(40)
    world.catalog("tolerance", wanted)
    world.files.missing = {f"/{name}" for name in wanted[:4]}
    world.files.held = {f"/{name}" for name in wanted[20:]}
    world.files.gate.clear()
    arn, job = world.execute("tolerance", machine=world.machine_with(toleratedFailures=2))
    world.finished(arn)
    world.files.gate.set()
    return job


def tolerated(world: World) -> str:
    wanted = names(10)
    world.catalog("tolerated", wanted)
    world.files.missing = {f"/{wanted[0]}"}
    return _finished(world, "tolerated", machine=world.machine_with(toleratedFailurePercentage=20))


def deadline(world: World) -> str:
    wanted = names(6)
    world.catalog("deadline", wanted)
    world.files.held = {f"/{name}" for name in wanted[3:]}
    world.files.gate.clear()
    arn, job = world.execute("deadline", machine=world.machine_with(deadlineSeconds=3))
    world.finished(arn)
    world.files.gate.set()
    return job


def duplicates(world: World) -> str:
    """All that is on results once more, in the middle of the job, and again."""
    wanted = names(20)
    world.catalog("duplicates", wanted)
    world.files.missing = {f"/{wanted[3]}"}
    world.files.held = {f"/{name}" for name in wanted[10:]}
    world.files.gate.clear()
    arn, job = world.execute("duplicates")
    world.until(lambda: _state(world, job).get("completedTasks") == 9, "half of it is there")
    for _ in range(2):
        asyncio.run(_repeat(world, job))
    world.files.gate.set()
    world.finished(arn)
    return job


def plan_failed(world: World) -> str:
    """A list that is not there, and then is."""
    job = _finished(world, "plan-failed")
    world.catalog("plan-failed", names(5))
    return _finished(world, "plan-failed", job)


def list_changed(world: World) -> str:
    """The list of the second attempt is another one, which fails it; the third starts from nothing."""
    wanted = names(5)
    world.catalog("list-changed", wanted)
    world.files.missing = {f"/{wanted[1]}"}
    job = _finished(world, "list-changed")
    world.catalog("list-changed", list(reversed(wanted)))
    world.files.missing = set()
    _finished(world, "list-changed", job)
    return _finished(world, "list-changed", job)


def no_token(world: World) -> str:
    world.catalog("no-token", names(3))
    job = str(uuid.uuid4())
    world.send({"jobId": job, "exportId": "no-token", "userId": "user-1"})
    world.ended(job)
    return job


def rebuilt(world: World) -> str:
    """Its item was lost, and put back by a replay."""
    world.catalog("rebuilt", names(4))
    job = _finished(world, "rebuilt")
    world.ended(job)
    world.table.delete_item(TableName=world.table_name, Key={"pk": {"S": f"JOB#{job}"}, "sk": {"S": "SNAPSHOT"}})
    told(world, "replay", job, "--mode", "rebuild", "--wait", "60")
    world.ended(job)
    return job


SCENARIOS: tuple[Callable[[World], str], ...] = (
    success,
    failures,
    attempts,
    taken_over,
    cancelled,
    tolerance,
    tolerated,
    deadline,
    duplicates,
    plan_failed,
    list_changed,
    no_token,
    rebuilt,
)


def _finished(world: World, export_id: str, job_id: str | None = None, machine: str | None = None) -> str:
    arn, job = world.execute(export_id, job_id, machine)
    world.finished(arn)
    return job


def _state(world: World, job: str) -> dict[str, object]:
    found: dict[str, object] = told(world, "explain", job)["state"] if world.snapshot(job) else {}
    return found or {}


async def _repeat(world: World, job: str) -> None:
    name = world.env["EXPORT_TOPICS_PREFIX"] + "results"
    found = [record for record in await records(world.env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"], name) if record.key == job.encode()]
    async with AIOKafkaProducer(bootstrap_servers=world.env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"]) as producer:
        for record in found:
            await producer.send_and_wait(name, record.value, record.key, record.partition)


def _settled(world: World, job: str) -> None:
    """The item, the tables and the answer are there."""
    attempt = told(world, "explain", job)["state"]["attempt"]
    world.until(lambda: world.snapshot(job).get("attempt") == str(attempt) and "completedAt" in world.snapshot(job), "the item")
    time.sleep(1.5)  # the tally's next flush; nothing outside shows it


def main(folder: Path) -> None:
    make_importable()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        stack = asyncio.run(stacks.up(Path(place) / "stack"))
        try:
            for scenario in SCENARIOS:
                out = folder / f"{scenario.__name__}.jsonl"
                if not out.exists():
                    _record(stack, Path(place) / scenario.__name__, scenario, out)
        finally:
            stack.stop()


def _record(stack: stacks.Stack, place: Path, scenario: Callable[[World], str], out: Path) -> None:
    place.mkdir()
    files = FileServer()
    world = World(stack, place, files)
    try:
        world.worker(**WORKER)
        job = scenario(world)
        _settled(world, job)
        sys.stdout.write(f"{told(world, 'export', job, '--out', str(out))}\n")
    finally:
        files.gate.set()
        world.close()
        files.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
