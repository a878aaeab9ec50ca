"""A job that is asked for again with another token, as a Retry of Step Functions does: nothing is downloaded twice, the newest is told."""

import json

import pytest

from tests.chaos.judging import judge
from tests.e2e.conftest import World
from tests.e2e.test_executions import expect_files, names, report

pytestmark = pytest.mark.e2e


def downloads(world: World) -> int:
    return sum(world.files.requests.values())


def test_after_a_failure_only_what_failed_runs_again(world: World) -> None:
    wanted = names(300)
    world.catalog("again", wanted)
    world.files.missing = {f"/{wanted[7]}", f"/{wanted[250]}"}
    world.worker()
    arn, job = world.execute("again")
    first = json.loads(world.finished(arn)["output"])["error"]
    assert json.loads(first["Cause"]).items() >= {"totalTasks": 300, "completedTasks": 298, "failedTasks": 2}.items()
    assert downloads(world) == 300

    world.files.missing = {f"/{wanted[250]}"}
    arns = [arn, *(world.execute("again", job)[:1])]
    second = json.loads(json.loads(world.finished(arns[-1])["output"])["error"]["Cause"])
    assert second.items() >= {"totalTasks": 300, "completedTasks": 299, "failedTasks": 1}.items()
    assert downloads(world) == 302, "the two that had failed, once more"

    world.files.missing = set()
    arns.append(world.execute("again", job)[0])
    third = json.loads(world.finished(arns[-1])["output"])["export"]
    assert third.items() >= {"status": "COMPLETED", "totalTasks": 300, "completedTasks": 300, "failedTasks": 0}.items()
    assert downloads(world) == 303
    expect_files(world, job, wanted)
    lines = report(world, job)
    assert [line["index"] for line in lines] == list(range(300))
    assert {line["outcome"] for line in lines} == {"SUCCEEDED"}
    world.until(lambda: world.snapshot(job).get("attempt") == "3", "the snapshot is the third attempt's")
    assert world.ended(job)["status"] == "COMPLETED"

    arns.append(world.execute("again", job)[0])
    assert json.loads(world.finished(arns[-1])["output"])["export"] == third, "answered at once, with the job's own times"
    assert downloads(world) == 303
    world.until(world.queue_is_empty, "the queue is empty")
    judge(world, wanted, [job], arns)


def test_while_it_runs_the_newest_token_gets_the_answer(world: World) -> None:
    wanted = names(20)
    world.catalog("running", wanted)
    world.files.gate.clear()
    world.worker()
    first, job = world.execute("running")
    world.until(lambda: downloads(world) > 0, "downloads have begun")
    second, _ = world.execute("running", job)
    world.until(lambda: any(line.get("attempt") == 2 for line in world.logs()), "the second request was taken")
    world.files.gate.set()
    output = json.loads(world.finished(second)["output"])["export"]
    assert output.items() >= {"jobId": job, "status": "COMPLETED", "completedTasks": 20}.items()
    assert downloads(world) == 20
    assert world.machine.describe_execution(executionArn=first)["status"] == "RUNNING", "its token was replaced by a newer one"
    expect_files(world, job, wanted)
    judge(world, wanted, [job], [second])


def test_a_list_of_files_that_has_changed_is_not_mixed_with_the_old_one(world: World) -> None:
    wanted = names(5)
    world.catalog("changed", wanted)
    world.files.missing = {f"/{wanted[1]}"}
    world.worker()
    arn, job = world.execute("changed")
    assert "JobCompletedWithFailures" in world.finished(arn)["output"]
    world.catalog("changed", list(reversed(wanted)))
    world.files.missing = set()
    answer = world.finished(world.execute("changed", job)[0])
    assert answer["status"] == "FAILED"
    assert downloads(world) == 5
    # The next one starts from nothing: the first plan of the job was given up.
    output = json.loads(world.finished(world.execute("changed", job)[0])["output"])["export"]
    assert output.items() >= {"status": "COMPLETED", "totalTasks": 5, "completedTasks": 5}.items()
    judge(world, wanted, [job], [arn])
    expect_files(world, job, wanted)
