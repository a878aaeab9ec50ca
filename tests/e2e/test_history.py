"""Histories of jobs on a real pipeline: explained, exported, folded again."""

import asyncio
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from export_service.cli import main
from tests.e2e.conftest import World
from tests.e2e.test_executions import names
from tests.kafka import records

pytestmark = pytest.mark.e2e


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def command(world: World, *arguments: str) -> Ended:
    """In this process: an interpreter of its own for each would take most of the test's time."""
    stdout, stderr, code = StringIO(), StringIO(), 0
    environment, line = patch.dict(os.environ, world.env), patch("sys.argv", ["export-service", *arguments])
    with environment, line, redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            main.run()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Ended(code, stdout.getvalue(), stderr.getvalue())


def told(world: World, *arguments: str, code: int = 0) -> dict[str, Any]:
    """What a command says with --json."""
    ended = command(world, *arguments, "--json")
    assert ended.returncode == code, ended.stderr + ended.stdout
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_a_job_is_explained_at_any_instant_while_workers_run(world: World) -> None:
    wanted = names(30)
    world.catalog("explained", wanted)
    world.files.missing = {f"/{wanted[7]}"}
    world.worker()
    first, job = world.execute("explained")
    world.finished(first)
    world.files.missing = set()
    second, _ = world.execute("explained", job)
    world.finished(second)
    world.until(lambda: world.snapshot(job).get("status") == "COMPLETED", "the snapshot is the second attempt's")

    found = told(world, "explain", job)
    assert found["state"].items() >= {"status": "COMPLETED", "attempt": 2, "totalTasks": 30, "completedTasks": 30}.items()
    assert found["next"]["command"] == f"export-service verify {job}"
    assert sum(each["succeeded"] for each in found["counts"]) == 30
    assert sum(each["failed"] for each in found["counts"]) == 0, "one failed, and was open again when its next run began"
    what = [each["what"] for each in found["timeline"]]
    assert [text for text in what if "ended: " in text] == [
        "attempt 1 ended: COMPLETED_WITH_FAILURES",
        "attempt 2 ended: COMPLETED",
    ]
    assert [text for text in what if "answered with" in text] == [
        "attempt 1 answered with SendTaskFailure: SENT",
        "attempt 2 answered with SendTaskSuccess: SENT",
    ]

    between = next(each["at"] for each in found["timeline"] if each["what"] == "attempt 1 ended: COMPLETED_WITH_FAILURES")
    then = told(world, "explain", job, "--at", between, "--no-table")
    assert then["state"].items() >= {"status": "COMPLETED_WITH_FAILURES", "completedTasks": 29, "failedTasks": 1}.items()
    assert then["failed"][0].items() >= {"error": "HttpNotFound", "number": 1}.items()
    assert "HttpNotFound" in then["failed"][0]["error"]
    assert "task 7, " in then["failed"][0]["first"]

    shown = command(world, "explain", job).stdout.splitlines()
    assert max(map(len, shown)) <= 80
    unknown = command(world, "explain", "no-such-job")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "job no-such-job is on no topic" in unknown.stderr


async def _empty_changelogs(world: World) -> None:
    """Somebody deleted what the tables are recovered from."""
    admin = AIOKafkaAdminClient(bootstrap_servers=world.env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"])
    await admin.start()
    try:
        names = [f"{world.env['EXPORT_APP_ID']}-tally-{table}-changelog" for table in ("jobs", "shards")]
        for policy in ("compact,delete", "compact"):
            found = [ConfigResource(ConfigResourceType.TOPIC, name, {"cleanup.policy": policy}) for name in names]
            await admin.alter_configs(found)
            if policy == "compact,delete":
                places = [TopicPartition(name, number) for name in names for number in range(2)]
                await admin.delete_records({place: RecordsToDelete(before_offset=-1) for place in places})
    finally:
        await admin.close()


def test_tables_that_were_lost_are_rebuilt_and_the_job_ends(world: World) -> None:
    wanted = names(60)
    world.catalog("lost", wanted)
    world.files.held = {f"/{name}" for name in wanted[40:]}
    world.files.gate.clear()
    first = world.worker()
    arn, job = world.execute("lost")
    world.until(lambda: bool(world.snapshot(job)), "the job is known")
    world.until(lambda: told(world, "explain", job)["state"]["completedTasks"] == 40, "all that is not held is there")
    first.terminate()
    first.wait(30)
    asyncio.run(_empty_changelogs(world))
    world.worker()
    world.files.gate.set()
    world.until(lambda: told(world, "explain", job)["state"]["status"] == "COMPLETED", "its events say that it ended")
    assert world.snapshot(job)["status"] == "PENDING", "the tally has lost 40 of them, and how many there are"

    plan = told(world, "replay", job, "--mode", "rebuild", "--dry-run")
    assert (plan["dryRun"], plan["done"]) == (True, [])
    assert {"status", "completedAt"} <= {each["field"] for each in plan["plan"][0]["differences"]}
    assert world.snapshot(job)["status"] == "PENDING"

    done = told(world, "replay", job, "--mode", "rebuild", "--wait", "60")
    assert done["taken"], done
    assert json.loads(world.finished(arn)["output"])["export"].items() >= {"status": "COMPLETED", "completedTasks": 60}.items()
    world.until(lambda: world.snapshot(job)["status"] == "COMPLETED", "the item is right")
    world.until(lambda: not told(world, "replay", job, "--mode", "rebuild")["plan"][0]["do"], "nothing is left to rebuild")
    found = asyncio.run(records(world.env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"], world.env["EXPORT_TOPICS_PREFIX"] + "replays"))
    said = [json.loads(record.value) for record in found]
    assert [each["type"] for each in said] == ["ReplayBegun", "JobReplayed", "ReplayEnded"]
    assert {each["run"] for each in said} == {done["run"]}
    again = told(world, "replay", "--resume", done["run"])
    assert (again["plan"], again["done"]) == ([], []), "all of it was done"
    told(world, "replay", "--all")
    judged = told(world, "verify", "--all", "--settled", "--wait", "60", "--execution", arn, code=1)["invariants"]
    broken = {each["invariant"]: each["violations"] for each in judged if each["violations"]}
    assert list(broken) == ["I3"], broken
    assert all("(snapshots:" in text for text in broken["I3"]), "what was said while the tables were lost stays said"
