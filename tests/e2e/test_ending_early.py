"""Jobs that end before their tasks have: nobody waits, an operator, a deadline, too many failures. And those that take long,
or stand still.
"""

import json
import subprocess
import sys
import uuid
from typing import Any

import pytest

from tests.chaos.judging import judge
from tests.e2e.conftest import World
from tests.e2e.test_executions import expect_files, names

pytestmark = pytest.mark.e2e
SLOW = {"EXPORT_DOWNLOAD_CONCURRENCY": "2", "EXPORT_TALLY_SNAPSHOT_SECONDS": "0.2"}


def cli(world: World, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "export_service", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=world.env | {"PATH": ""} | env, check=False, timeout=60)


def downloads(world: World) -> int:
    return sum(world.files.requests.values())


def test_a_job_that_moves_is_kept_alive_by_heartbeats(world: World) -> None:
    wanted = names(24)
    world.catalog("slow", wanted)
    world.files.delay = 0.7
    world.worker(**SLOW)
    machine = world.machine_with(HeartbeatSeconds=4, heartbeatSeconds=3)
    arn, job = world.execute("slow", machine=machine)
    answer = world.finished(arn)
    assert (answer["stopDate"] - answer["startDate"]).total_seconds() > 4, "without beats the state would have timed out"
    assert json.loads(answer["output"])["export"]["completedTasks"] == 24
    expect_files(world, job, wanted)


def test_a_job_that_nobody_waits_for_any_more_is_cancelled_on_every_worker(world: World) -> None:
    world.catalog("left", names(200))
    world.files.delay = 0.3
    world.worker(**SLOW)
    world.worker(**SLOW)
    machine = world.machine_with(HeartbeatSeconds=60, heartbeatSeconds=1)
    arn, job = world.execute("left", machine=machine)
    world.until(lambda: int(world.snapshot(job).get("completedTasks", 0)) > 3, "some files are there")
    world.machine.stop_execution(executionArn=arn)
    world.until(lambda: world.snapshot(job).get("status") == "CANCELLED", "the job is cancelled", seconds=20)
    snapshot = world.snapshot(job)
    assert snapshot["error"] == "ExportCancelled"
    assert "TaskTimedOut" in snapshot["cause"]
    counts = [int(snapshot[f"{kind}Tasks"]) for kind in ("completed", "failed", "cancelled", "total")]
    assert sum(counts[:3]) == counts[3] == 200
    # The workers hear of it a moment later; then nothing more is asked for.
    seen = [-1]

    def quiet() -> bool:
        seen.append(downloads(world))
        return seen[-1] == seen[-2]

    world.until(lambda: all(quiet() for _ in range(3)), "downloads have ended", seconds=5)
    assert downloads(world) < 150
    judge(world, names(200), [job], [arn])


def test_an_operator_cancels_a_job_and_the_state_is_told(world: World) -> None:
    world.catalog("wrong", names(30))
    world.files.gate.clear()
    world.worker(**SLOW)
    arn, job = world.execute("wrong")
    world.until(lambda: downloads(world) > 0 and bool(world.snapshot(job)), "downloads have begun")
    said = cli(world, "cancel", job, "--cause", "wrong customer")
    assert (said.returncode, said.stdout.startswith(f"Asked for the end of {job}")) == (0, True), said.stderr
    assert world.finished(arn)["status"] == "FAILED"
    history = world.machine.get_execution_history(executionArn=arn)["events"]
    (failed,) = [event["taskFailedEventDetails"] for event in history if event["type"] == "TaskFailed"]
    assert failed["error"] == "ExportCancelled"
    assert json.loads(failed["cause"])["cause"] == "wrong customer"
    assert downloads(world) == 2
    assert "had ended already: CANCELLED" in cli(world, "cancel", job).stdout
    unknown = cli(world, "cancel", str(uuid.uuid4()))
    assert (unknown.returncode, "is not known" in unknown.stderr) == (1, True)
    # The pipeline is healthy: the next job has the slots.
    world.files.gate.set()
    good, other = world.execute("wrong")
    assert world.finished(good)["status"] == "SUCCEEDED"
    expect_files(world, other, names(30))
    judge(world, names(30), [job, other], [arn, good])


def test_a_deadline_and_a_tolerance_end_a_job_with_what_they_say(world: World) -> None:
    world.catalog("late", names(10))
    world.catalog("bad", [f"missing/{n}" for n in range(300)])
    world.files.missing = {f"/missing/{n}" for n in range(300)}
    world.worker(**SLOW)
    bad = str(uuid.uuid4())
    world.send({"jobId": bad, "exportId": "bad", "userId": "u", "toleratedFailures": 5})
    snapshot = world.ended(bad)
    assert (snapshot["status"], snapshot["failedTasks"]) == ("COMPLETED_WITH_FAILURES", "6")
    assert (snapshot["cancelledTasks"], snapshot["totalTasks"]) == ("294", "300")
    assert snapshot["cause"] == "Job stopped after 6 failed tasks, more than it tolerates; 294 of 300 total were cancelled"
    world.files.gate.clear()
    late = str(uuid.uuid4())
    world.send({"jobId": late, "exportId": "late", "userId": "u", "deadlineSeconds": 2})
    snapshot = world.ended(late)
    assert (snapshot["status"], snapshot["error"], snapshot["cancelledTasks"]) == ("FAILED", "ExportDeadlineExceeded", "10")
    assert "0 of 10 tasks had ended" in snapshot["cause"]
    world.files.gate.set()
    judge(world, names(10), [bad, late], [])


def stuck(world: World, job: str) -> list[dict[str, Any]]:
    return [line for line in world.logs() if line["msg"] == "Export job does not move" and line["jobId"] == job]


def test_a_job_that_does_not_move_is_named_with_the_tasks_it_misses_in_this_run(world: World) -> None:
    """Task 3 fails in the first run; in the second, it and the others that failed are held back."""
    wanted = names(20)
    world.catalog("held", wanted)
    failing = {f"/{wanted[n]}" for n in (3, 4, 5, 17)}
    world.files.missing = set(failing)
    world.worker(EXPORT_WATCH_STUCK_SECONDS="2")
    job = str(uuid.uuid4())
    world.send({"jobId": job, "exportId": "held", "userId": "user-1"})
    assert world.ended(job)["failedTasks"] == "4"

    world.files.missing, world.files.held = set(), {f"/{wanted[n]}" for n in (3, 4, 17)}
    world.files.gate.clear()
    arn, _ = world.execute("held", job)
    world.until(lambda: any(line.get("tasksLeft") == 3 for line in stuck(world, job)), "the log says what is missing")
    line = stuck(world, job)[-1]
    assert (line["status"], line["missingTasks"], line["lag"]["tally"]) == ("RUNNING", "3-4, 17", 0)
    assert line["lag"]["download"] >= 1, "this is where it waits"
    assert json.loads(cli(world, "status", job, "--missing", "--json").stdout)["missingTasks"] == "3-4, 17"
    world.files.gate.set()
    assert world.finished(arn)["status"] == "SUCCEEDED"


def test_a_job_that_stands_still_shows_all_that_has_ended(world: World) -> None:
    wanted = names(12)
    world.catalog("still", wanted)
    world.files.held = {f"/{wanted[11]}"}
    world.files.gate.clear()
    world.worker(EXPORT_TALLY_SNAPSHOT_SECONDS="60")
    arn, job = world.execute("still")
    world.until(lambda: world.snapshot(job).get("completedTasks") == "11", "though no event comes, and no snapshot is due")
    world.files.gate.set()
    assert world.finished(arn)["status"] == "SUCCEEDED"
