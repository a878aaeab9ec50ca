"""Histories of jobs on a real pipeline: explained, exported, folded again."""

import json
import os
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from export_service.cli import main
from tests.e2e.conftest import World
from tests.e2e.test_executions import names

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
