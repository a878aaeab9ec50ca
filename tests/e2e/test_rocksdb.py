"""A worker with its tables on disk is killed in the middle of a job, and once its folder is lost: the oracle finds nothing wrong."""

import shutil

import pytest

from tests.chaos.judging import judge
from tests.e2e.conftest import World
from tests.e2e.test_executions import names

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def test_tables_on_disk_survive_a_kill_and_the_loss_of_their_folder(world: World) -> None:
    folder = world.folder / "state"
    env = {"EXPORT_TALLY_STORE": "rocksdb://", "EXPORT_WORKER_STATE_DIR": str(folder), "EXPORT_KAFKA_SESSION_TIMEOUT_SECONDS": "6"}
    wanted = names(300)
    world.catalog("disk", wanted)
    world.files.delay = 0.02
    worker, arns, jobs = world.worker(**env), [], []
    for lost in (False, True):
        arn, job = world.execute("disk")
        arns.append(arn)
        jobs.append(job)
        world.until(lambda job=job: int(world.snapshot(job).get("completedTasks", "0")) > 20, "the job is under way")  # type: ignore[misc]
        worker.kill()
        worker.wait()
        if lost:
            shutil.rmtree(folder)
        worker = world.worker(**env)
        assert world.finished(arn)["status"] == "SUCCEEDED"
    world.until(world.queue_is_empty, "the queue is empty")
    judge(world, wanted, jobs, arns)
