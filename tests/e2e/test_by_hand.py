"""What a person does by hand, with workers running: dead letters, SQS's own dead-letter queue, jobs that failed, a rewind."""

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from export_service.cli import main
from export_service.messages import ExportRequested, FileSpec, JobInfo
from tests.chaos.judging import judge
from tests.e2e.conftest import World
from tests.e2e.test_executions import expect_files, names
from tests.kafka import records

pytestmark = pytest.mark.e2e


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str


def cli(world: World, *arguments: str, **env: str) -> Ended:
    return run_cli(world.env | {"EXPORT_WORKER_STATE_DIR": str(world.folder / "state-0")} | env, *arguments, folder=Path())


def run_cli(env: Mapping[str, str], *arguments: str, folder: Path) -> Ended:
    """A command in this folder, in this process: a start of Python for each takes a second."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err), Path(os.devnull).open() as nothing:
        patch.chdir(folder)
        for name, value in env.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["export-service", *arguments])
        patch.setattr(sys, "stdin", nothing)
        try:
            main.run()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return Ended(code, out.getvalue(), err.getvalue())


def did(world: World, *arguments: str, **env: str) -> Any:
    """The JSON of a command that goes well."""
    ended = cli(world, *arguments, "--json", **env)
    assert ended.code == 0, ended.stderr
    return json.loads(ended.stdout)


def refused(world: World, *arguments: str) -> str:
    """The sentence of a command that does not."""
    ended = cli(world, *arguments)
    assert (ended.code, "Traceback" in ended.stderr) == (1, False), ended.stderr
    return ended.stderr


def put(world: World, topic: str, key: str, value: bytes, headers: list[tuple[str, bytes]], *, prefix: str | None = None) -> None:
    name = (world.env["EXPORT_TOPICS_PREFIX"] if prefix is None else prefix) + topic

    async def send() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=world.env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"])
        await producer.start()
        await producer.send_and_wait(name, value, key=key.encode(), headers=headers)
        await producer.stop()

    asyncio.run(send())


def on(world: World, topic: str) -> list[Any]:
    prefix, servers = world.env["EXPORT_TOPICS_PREFIX"], world.env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"]
    return asyncio.run(records(servers, prefix + topic))


def request(world: World, job: str) -> ExportRequested:
    where = f"{(world.folder / 'out').as_uri()}/{job}/"
    info = JobInfo(job_id=job, export_id="e", user_id="u", requested_at=datetime.now(UTC), destination=where)
    return ExportRequested(job=info, files=(FileSpec(url=f"{world.files.base}/a", name="a"),))


def test_dead_letters_are_mended_and_sent_once_or_put_away(world: World) -> None:
    world.worker()
    job = str(uuid.uuid4())
    broken = json.loads(request(world, job).to_bytes())
    del broken["job"]["userId"]
    put(world, "requests", job, json.dumps(broken).encode(), [("trace", b"1")])
    put(world, "results", job, b"garbage", [])
    body = {"jobId": str(uuid.uuid4()), "userId": "u", "taskToken": "canary-" * 9, "files": [{"url": f"{world.files.base}/b"}]}
    world.send(body)
    world.until(lambda: len(did(world, "dead-letters", "list")) == 3, "all are dead letters", every=0.5)
    by_topic = {each["source"].partition(":")[0].rpartition(".")[2]: each for each in did(world, "dead-letters", "list")}
    letter = by_topic["requests"]["id"]
    assert "userId" in by_topic["requests"]["reason"]
    assert "canary" not in cli(world, "dead-letters", "show", *(each["id"] for each in by_topic.values())).stdout

    assert "still cannot take it" in refused(world, "dead-letters", "redrive", letter, "--yes")
    mended = ("dead-letters", "redrive", letter, "--set", "job.userId=user-2")
    assert "nobody is there to be asked" in refused(world, *mended)
    assert did(world, *mended, "--dry-run")["sent"] == []
    assert len(on(world, "requests")) == 1
    assert len(did(world, *mended, "--yes", "--why", "a slip")["sent"]) == 1
    assert world.ended(job)["status"] == "COMPLETED"
    (_, again) = on(world, "requests")
    assert (again.key.decode(), again.headers) == (job, (("trace", b"1"),))
    assert json.loads(again.value) == broken | {"job": broken["job"] | {"userId": "user-2"}}
    assert "was redriven" in refused(world, *mended, "--yes")

    editor = """sed -i s/userId/exportId\\":\\"e\\",\\"userId/"""
    edited = did(world, "dead-letters", "redrive", "--edit", "--yes", by_topic["sqs"]["id"], EDITOR=editor)
    assert edited["planned"][0]["notes"] == ["without its task token, which no topic keeps: nobody is told", "edited"]
    assert world.ended(str(body["jobId"]))["status"] == "COMPLETED"

    noise = by_topic["results"]["id"]
    assert did(world, "dead-letters", "discard", "--topic", "results", "--yes", "--why", "noise")["discarded"] == [noise]
    assert "is discarded already" in refused(world, "dead-letters", "discard", noise, "--yes")
    assert "is not on" in refused(world, "dead-letters", "show", "0:999")
    assert cli(world, "dead-letters", "list").stdout == "No dead letter is open.\n"
    states = {each["id"]: each["state"] for each in did(world, "dead-letters", "list", "--state", "all")}
    assert sorted(states.values()) == ["discarded", "redriven", "redriven"]
    actions = [json.loads(record.value) for record in on(world, "operations")]
    assert [(each["action"], each["stage"]) for each in actions] == [
        *[("redrive", "begun"), ("redrive", "done")] * 2,
        ("discard", "done"),
    ]
    assert actions[1]["why"] == "a slip"
    assert "@" in actions[1]["who"]


def test_sqs_own_dead_letter_queue_goes_back(world: World) -> None:
    dead = world.sqs.create_queue(QueueName=f"{world.queue.rpartition('/')[2]}-dlq")["QueueUrl"]
    assert "has no redrive policy" in refused(world, "dead-letters", "redrive", "--sqs", "--yes")
    arn = world.sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 20})
    world.sqs.set_queue_attributes(QueueUrl=world.queue, Attributes={"RedrivePolicy": policy})
    assert "has nothing to move" in refused(world, "dead-letters", "redrive", "--sqs", "--yes")
    jobs = [str(uuid.uuid4()) for _ in range(12)]
    for job in jobs:
        body = {"jobId": job, "exportId": "e", "userId": "u", "files": [{"url": f"{world.files.base}/a"}]}
        world.sqs.send_message(QueueUrl=dead, MessageBody=json.dumps(body))
    assert did(world, "dead-letters", "redrive", "--sqs", "--dry-run") == {"waiting": 12, "moved": 0, "bySqs": False}
    # moto has no StartMessageMoveTask: this is receive, send, delete.
    assert did(world, "dead-letters", "redrive", "--sqs", "--yes") == {"waiting": 12, "moved": 12, "bySqs": False}
    received: dict[str, str] = {}
    while messages := world.sqs.receive_message(QueueUrl=world.queue, MaxNumberOfMessages=10).get("Messages"):
        received |= {json.loads(message["Body"])["jobId"]: message["MessageId"] for message in messages}
    assert received.keys() == set(jobs)
    assert "Messages" not in world.sqs.receive_message(QueueUrl=dead)
    assert [json.loads(record.value)["stage"] for record in on(world, "operations")] == ["begun", "done"]


def downloads(world: World) -> int:
    return sum(world.files.requests.values())


def test_what_failed_runs_again_and_a_new_token_is_answered(world: World) -> None:
    wanted = names(40)
    world.catalog("by-hand", wanted)
    world.files.missing = {f"/{wanted[7]}", f"/{wanted[20]}"}
    world.worker()
    first, job = world.execute("by-hand")
    signed = str(uuid.uuid4())
    old = [{"url": f"{world.files.base}/{name}?sig=canary-old", "name": name} for name in wanted[7:9]]
    world.send({"jobId": signed, "exportId": "e", "userId": "user-2", "files": old})
    assert "JobCompletedWithFailures" in world.finished(first)["output"]
    assert world.ended(signed)["failedTasks"] == "1"
    assert downloads(world) == 42
    assert "is not known" in refused(world, "redrive", str(uuid.uuid4()), "--yes")
    assert "no job has failed like that" in refused(world, "redrive", "--error", "Timeout", "--yes")

    host = world.files.base.removeprefix("http://")
    by_user = did(world, "redrive", "--user", "user-2", "--error", "HttpNotFound", "--host", host, "--dry-run")
    failures = [{"error": "HttpNotFound", "host": host, "tasks": 1}]
    assert [(each["jobId"], each["run"], each["failed"]) for each in by_user["planned"]] == [(signed, 1, failures)]
    text = cli(world, "redrive", "--failed-since", "1h", "--dry-run").stdout
    for said in (
        f"job {job}  COMPLETED_WITH_FAILURES  2 of 40 run\n           2  HttpNotFound  {host}\n",
        f"job {signed}",
        "--dry-run",
    ):
        assert said in text
    assert downloads(world) == 42

    # Its URLs again, with another signature; of another list nothing is changed.
    renewed = world.folder / "renewed.jsonl"
    renewed.write_text(json.dumps({"url": f"{world.files.base}/other?sig=canary-new", "name": wanted[7]}))
    assert "is another list of files" in refused(world, "redrive", signed, "--manifest", str(renewed), "--yes")
    renewed.write_text(json.dumps({"url": f"{world.files.base}/{wanted[7]}?sig=canary-new", "name": wanted[7]}))
    world.files.missing = {f"/{wanted[20]}"}
    assert did(world, "redrive", signed, "--manifest", str(renewed), "--yes")["redriven"] == [{"jobId": signed, "attempt": 2}]
    world.until(lambda: world.snapshot(signed).get("status") == "COMPLETED", "the new signature is used")
    assert world.files.requests[f"/{wanted[7]}?sig=canary-new"] == 1

    # By hand with nobody who waits; then, while that runs, Step Functions asks again: its token is the one that is answered.
    world.files.missing, world.files.held = set(), {f"/{wanted[20]}"}
    world.files.gate.clear()
    assert did(world, "redrive", job, "--yes", "--why", "the source is back")["redriven"] == [{"jobId": job, "attempt": 2}]
    world.until(lambda: world.files.requests[f"/{wanted[20]}"] == 2, "it runs")
    assert re.search("still runs|was asked for again", refused(world, "redrive", job, "--yes"))
    second, _ = world.execute("by-hand", job)
    world.until(lambda: str(world.attempt(job, 3).get("published")) == "True", "its request was taken")
    world.files.gate.set()
    output = json.loads(world.finished(second)["output"])["export"]
    assert output.items() >= {"status": "COMPLETED", "completedTasks": 40, "failedTasks": 0}.items()
    assert downloads(world) == 42 + 1 + 2, "successes are kept"
    third, _ = world.execute("by-hand", job)
    assert json.loads(world.finished(third)["output"])["export"] == output, "after its end it is answered at once"
    world.until(lambda: world.snapshot(job).get("status") == "COMPLETED", "its snapshot, which nobody who is answered waits for")
    assert "has succeeded" in refused(world, "redrive", job, "--yes")
    expect_files(world, job, wanted)
    judge(world, wanted, [job, signed], [first, second, third])


def stop(worker: "subprocess.Popen[bytes]") -> None:
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0


def cut(world: World, topic: str, keep: int) -> None:
    """As retention does: of each partition all records but the last `keep` go."""

    async def delete() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=world.env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"])
        await admin.start()
        ends: dict[int, int] = {}
        for record in await records(world.env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"], topic):
            ends[record.partition] = record.offset + 1
        places = {TopicPartition(topic, number): RecordsToDelete(before_offset=end - keep) for number, end in ends.items()}
        await admin.delete_records(places)
        await admin.close()

    asyncio.run(delete())


def test_tables_and_offsets_go_back_together(world: World) -> None:
    """A table on disk that is wrong is made right for one job; then all goes back to before the first, downloads too."""
    wanted = names(6)
    world.catalog("back", wanted)
    world.files.missing = {f"/{wanted[2]}"}
    env = {"EXPORT_TALLY_STORE": "rocksdb://", "EXPORT_WORKER_STATE_DIR": str(world.folder / "state")}
    worker = world.worker(**env)
    first, job = world.execute("back")
    assert "JobCompletedWithFailures" in world.finished(first)["output"]
    world.files.missing = set()
    second, _ = world.execute("back", job)
    assert world.finished(second)["status"] == "SUCCEEDED"
    other = str(uuid.uuid4())
    world.send({"jobId": other, "exportId": "back", "userId": "u"})
    assert world.ended(other)["status"] == "COMPLETED"
    assert re.search("group .*-tally has 1 members", refused(world, "rewind", job, "--yes"))
    stop(worker)

    changelog = f"{world.env['EXPORT_APP_ID']}-tally-jobs-changelog"
    servers = world.env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"]
    entry = [each for each in asyncio.run(records(servers, changelog)) if each.key == job.encode()][-1]
    wrong = json.loads(entry.value) | {"status": "RUNNING", "tallies": [[3, 0, 0, 1]], "offset": 9_999}
    put(world, changelog, job, json.dumps(wrong).encode(), [], prefix="")
    assert cli(world, "verify", job, "--json").code == 1
    assert "is not known to the tally" in refused(world, "rewind", str(uuid.uuid4()), "--yes")
    text = cli(world, "rewind", job, "--dry-run").stdout
    assert "1 jobs are counted again from their first event, 3 entries go" in text
    assert "Mind that\n  tally: until it has caught up" in text
    done = did(world, "rewind", job, "--yes", "--why", "a damaged table")
    assert (done["jobs"], done["kept"], len(done["offsets"])) == ([job], [], 1)
    worker = world.worker(**env)
    assert did(world, "verify", "--all", "--settled", "--wait", "30")["ok"]
    assert downloads(world) == 6 + 1 + 6
    stop(worker)

    everything = did(world, "rewind", "--to", "1h", "--role", "all", "--yes")
    assert (sorted(everything["jobs"]), everything["kept"]) == (sorted([job, other]), [])
    worker = world.worker(**env)
    world.until(lambda: downloads(world) >= 13 + 13, "all that was handed out is downloaded again")
    verdicts = judge(world, wanted, [job, other], [first, second])
    assert verdicts["I2"] == "OK", "no token was answered twice"
    stop(worker)
    rewinds = [json.loads(record.value) for record in on(world, "operations")]
    assert [each["stage"] for each in rewinds if each["action"] == "rewind"] == ["begun", "done"] * 2

    cut(world, f"{world.env['EXPORT_TOPICS_PREFIX']}results", keep=1)
    assert "is before what" in refused(world, "rewind", "--to", "1h", "--yes")
    assert "retention has removed its first events" in refused(world, "rewind", job, "--yes")
    assert did(world, "reset", "--dry-run")["jobs"] == [], "what they were is all that there is of them"
