"""Histories of jobs on a real pipeline: explained, exported, folded again."""

import asyncio
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from export_service import jobs as folding
from export_service.cli import main
from export_service.failures import Unavailable
from export_service.history.actions import Action
from streams.replaying import Replay, Replayed
from tests.chaos.judging import judge
from tests.e2e.conftest import WORKER, World
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
    world.until(lambda: told(world, "explain", job)["state"]["completedTasks"] == 40, "all that is not held is there", every=0.3)
    first.terminate()
    first.wait(30)
    asyncio.run(_empty_changelogs(world))
    world.worker()
    world.files.gate.set()
    world.until(lambda: told(world, "explain", job)["state"]["status"] == "COMPLETED", "its events say that it ended", every=0.3)
    assert world.snapshot(job)["status"] == "PENDING", "the tally has lost 40 of them, and how many there are"

    dry = ("replay", job, "--mode", "rebuild", "--dry-run")
    world.until(lambda: bool(told(world, *dry)["plan"][0]["do"]), "the tally has committed what it makes of them", every=0.3)
    plan = told(world, *dry)
    assert (plan["dryRun"], plan["done"]) == (True, [])
    assert {"status", "completedAt"} <= {each["field"] for each in plan["plan"][0]["differences"]}
    assert world.snapshot(job)["status"] == "PENDING"

    done = told(world, "replay", job, "--mode", "rebuild", "--wait", "60")
    assert done["taken"], done
    assert json.loads(world.finished(arn)["output"])["export"].items() >= {"status": "COMPLETED", "completedTasks": 60}.items()
    world.until(lambda: world.snapshot(job)["status"] == "COMPLETED", "the item is right")
    world.until(
        lambda: not told(world, "replay", job, "--mode", "rebuild")["plan"][0]["do"], "nothing is left to rebuild", every=0.3
    )
    found = asyncio.run(records(world.env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"], world.env["EXPORT_TOPICS_PREFIX"] + "operations"))
    said = [json.loads(record.value) for record in found]
    assert [(each["action"], each["stage"]) for each in said] == [("replay", "begun"), ("rebuild", "done"), ("replay", "done")]
    assert {each["id"] for each in said} == {done["run"]}
    again = told(world, "replay", "--resume", done["run"])
    assert (again["plan"], again["done"]) == ([], []), "all of it was done"
    told(world, "replay", "--all")
    judged = told(world, "verify", "--all", "--settled", "--wait", "60", "--execution", arn, code=1)["invariants"]
    broken = {each["invariant"]: each["violations"] for each in judged if each["violations"]}
    assert list(broken) == ["I3"], broken
    assert all("(snapshots:" in text for text in broken["I3"]), "what was said while the tables were lost stays said"


async def _commit_past_completions(world: World) -> None:
    """Somebody reset the callback role's offsets to the end, as people do to get over a record."""
    group, topic = f"{world.env['EXPORT_APP_ID']}-callback", world.env["EXPORT_TOPICS_PREFIX"] + "completions"
    bootstrap = world.env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"]
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        places = [TopicPartition(topic, number) for number in range(2)]
        consumer.assign(places)
        await consumer.commit(await consumer.end_offsets(places))
    finally:
        await consumer.stop()


def test_an_answer_that_was_lost_is_given_once_and_a_replay_that_broke_off_goes_on(world: World, tmp_path: Path) -> None:
    wanted, canary = names(4), "canary-of-a-signature"
    lines = [json.dumps({"url": f"{world.files.base}/{name}?signature={canary}", "name": name}) for name in wanted]
    world.put_catalog("answer", "\n".join(lines))
    world.files.missing = {f"/{wanted[1]}"}
    roles = "connector,plan,download,tally,snapshot,watch"
    world.worker(*WORKER, "--role", roles)
    arns, jobs = zip(*(world.execute("answer") for _ in range(2)), strict=True)
    for job in jobs:
        world.ended(job)
    plan = told(world, "replay", *jobs, "--mode", "re-emit")
    assert (plan["done"], [each["do"] for each in plan["plan"]]) == ([], [False, False])
    assert all("waits at completions:" in each["why"] for each in plan["plan"]), plan
    asyncio.run(_commit_past_completions(world))
    world.worker(*WORKER, "--role", "callback")
    assert told(world, "explain", jobs[0])["next"]["command"] == f"export-service replay {jobs[0]} --mode re-emit --dry-run"

    # The first is sent, then the broker is gone, as it seems.
    sent = Replay._re_emit

    async def one(self: Replay, action: Action) -> Replayed:
        if self.sent:
            raise Unavailable("Kafka", "EXPORT_KAFKA_BOOTSTRAP_SERVERS", "a test")
        return await sent(self, action)

    with patch.object(Replay, "_re_emit", one):
        broke = command(world, "replay", "--user", "user-1", "--mode", "re-emit")
    assert broke.returncode == 1
    assert "Plan: re-emit 2 of 2 jobs" in broke.stdout
    assert "Broke off after 1 of 2 jobs; go on: export-service replay --resume " in broke.stderr
    run = broke.stderr.partition("--resume ")[2].split()[0]
    rest = told(world, "replay", "--resume", run)
    assert (rest["run"], len(rest["done"]), rest["mode"]) == (run, 1, "re-emit")
    for arn in arns:
        assert "JobCompletedWithFailures" in world.finished(arn)["output"]
    for job in jobs:
        world.until(lambda job=job: "callbackOutcome" in world.attempt(job, 1), "the answer is in the ledger")  # type: ignore[misc]
    again = told(world, "replay", *jobs, "--mode", "re-emit")
    assert [each["why"] for each in again["plan"]] == 2 * ["answered before: SENT"]

    # Before a deploy: what would this code make of what was?
    assert told(world, "replay", "--since", "10m")["differences"] == []
    with patch.object(folding, "_tolerated", lambda _: True):
        differ = told(world, "replay", jobs[0], code=1)["differences"]
    assert {(each["field"], each["found"], each["fold"]) for each in differ} >= {("status", "COMPLETED_WITH_FAILURES", "COMPLETED")}

    out = tmp_path / "history.jsonl"
    assert told(world, "export", jobs[0], "--out", str(out))["records"] > 10
    token = world.attempt(jobs[0], 1)["taskToken"]
    assert not any(secret in out.read_text() for secret in (canary, token, '"query"'))
    assert told(world, "replay", "--file", str(out))["ends"][0].items() >= {"failedTasks": 1, "completedTasks": 3}.items()
    assert "exists already" in command(world, "export", jobs[0], "--out", str(out)).stderr
    judge(world, wanted, list(jobs), list(arns))


def test_wrong_usage_is_a_sentence(world: World) -> None:
    for arguments, sentence in (
        (("replay",), "say which jobs"),
        (("replay", "a", "--all"), "say which jobs"),
        (("replay", "--offsets", "0:9-3"), "'0:9-3' is no range"),
        (("replay", "--since", "yesterday"), "'yesterday' is no time"),
        (("explain", "a", "--at", "noon"), "'noon' is no time"),
        (("verify", "a", "--since", "1h"), "give a JOB, --all, or --since"),
    ):
        ended = command(world, *arguments)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert sentence in " ".join(ended.stderr.replace("│", " ").split())
    missing = command(world, "explain", "a", "--no-table")
    assert missing.returncode == 78
    assert "topics are missing" in missing.stderr
