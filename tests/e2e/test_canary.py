"""Secrets of every kind go through every path, good and bad; then everything that people can read is searched for them."""

import asyncio
import base64
import json
import os
import signal
import sys
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from export_service.devstack import processes
from tests.chaos.aws_faults import AwsFaults
from tests.e2e.canaries import Canaries, everywhere
from tests.e2e.conftest import World
from tests.e2e.test_ending_early import cli
from tests.e2e.test_executions import read_topic

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(570)]
IDS = {"exportId": "e", "userId": "u"}


class Sender:
    """Jobs whose every secret is a canary."""

    def __init__(self, world: World, canaries: Canaries) -> None:
        self.world, self.canaries = world, canaries
        self.jobs: dict[str, str] = {}
        self.folder = f"out-{uuid.uuid4().hex[:8]}/"

    def query(self, name: str) -> str:
        signature, credential = (self.canaries.new(f"{which} of {name}") for which in ("signature", "sig"))
        return f"X-Amz-Credential=AKIA%2F1&X-Amz-Signature={signature}%2B&sig={credential}"

    def url(self, path: str) -> str:
        return f"{self.world.files.base}/{path}?{self.query(path)}"

    def job(self, name: str, **fields: Any) -> None:
        """Send it, with a token that Step Functions will refuse."""
        self.jobs[name] = str(uuid.uuid4())
        token = self.canaries.token(f"token of {name}")
        self.world.send({"jobId": self.jobs[name], "taskToken": token, "metadata": {"callback": self.url("meta")}, **IDS, **fields})


def send_good_and_failing_jobs(send: Sender) -> None:
    files, closed = send.world.files, processes.free_port()
    files.missing = {"/none"}
    files.held = {"/silent"}
    files.gate.clear()
    files.answers = {
        "/forbidden": (403, {}, b""),
        "/broken": (503, {}, b""),
        "/moved": (302, {"Location": send.url("target")}, b""),
        "/lost": (302, {"Location": "ftp://me:" + send.canaries.new("password of a redirect") + "@h/?" + send.query("ftp")}, b""),
        "/inside": (302, {"Location": "http://169.254.169.254/x?" + send.query("metadata")}, b""),
        "/short": (200, {"Content-Length": "999999"}, b"x"),
    }
    urls = [send.url(path) for path in ("a.txt", "none", "silent", *(path[1:] for path in files.answers))]
    urls += [
        f"{base}?{send.query(base)}"
        for base in ("http://no-such-host.invalid/f", f"http://127.0.0.1:{closed}/c", "http://10.0.0.1/p")
    ]
    urls += [f"{files.base.replace('http:', 'https:')}/tls?{send.query('tls')}", f"s3://exports/no-such-key?{send.query('s3')}"]
    named = [{"url": url, "name": f"f{number}"} for number, url in enumerate(urls)]
    send.job("files", files=named, heartbeatSeconds=1)
    send.job("to S3", files=named[:2], destination=f"s3://exports/{send.folder}")
    send.job("prefix", prefix="s3://no-such-bucket/p/")
    send.job("late", files=[{"url": send.url("silent")}], deadlineSeconds=2)
    manifests = {
        "good": json.dumps({"url": send.url("b.txt"), "name": "b", "extra": send.url("c")}),
        "not JSON": '{"url": "' + send.url("d"),
        "wrong field": json.dumps({"url": send.url("e"), "size": send.url("f")}),
        "bad name": json.dumps({"url": send.url("g"), "name": "/x"}),
        "password": json.dumps({"url": "https://me:" + send.canaries.new("password of a manifest") + "@h/?" + send.query("h")}),
        "CSV without header": f"{send.url('i')},i\r\n{send.url('j')},j\r\n",
        "twice": "\n".join([json.dumps({"url": send.url("k"), "name": "k"})] * 2),
    }
    for name, text in manifests.items():
        files.answers[f"/{quoted(name)}"] = (200, {}, text.encode())
    for name in (*manifests, "none", "forbidden", "moved"):
        form = "csv" if "CSV" in name else "jsonl"
        send.job(f"manifest {name}", manifest={"url": send.url(quoted(name)), "format": form})


def quoted(name: str) -> str:
    return name.replace(" ", "-")


def send_bad_messages(send: Sender) -> list[str]:
    """What is wrong with each."""
    world, token, url = send.world, send.canaries.token, send.url

    def wrapped(inner: str) -> str:
        return json.dumps({"Type": "Notification", "MessageId": "m", "TopicArn": "arn:aws:sns:x", "Message": inner})

    def body(name: str, **fields: Any) -> str:
        return json.dumps({"jobId": str(uuid.uuid4()), **IDS, "taskToken": token(f"token of {name}")} | fields)

    bad = {
        "not JSON": '{"jobId": 1, "taskToken": "' + token("token of not JSON") + '", "url": "' + url("l"),
        "plain text": f"task_token={token('token of text')} and {token('a token without a name')} for {url('m')}",
        "SNS, not JSON": wrapped('{"taskToken": "' + token("token in SNS") + '", "files": [{"url": "' + url("n") + '"'),
        "SNS, wrong": wrapped(body("SNS, wrong", files=[{"url": url("o"), "size": "many"}])),
        "scheme": body("scheme", files=[{"url": "ftp://h/?" + send.query("p")}]),
        "password": body("password", files=[{"url": "https://me:" + send.canaries.new("a password") + "@h/?" + send.query("q")}]),
        "space": body("space", files=[{"url": url("r") + " x"}]),
        "jobId": body("jobId", jobId=url("s")),
        "type": body("type", exportId={"url": url("t")}, metadata=url("u")),
        "destination": body("destination", files=[], destination="s3:/" + url("v")),
        "long token": body("long", taskToken=token("a long token") + "A" * 3000),
        "token in a list": body("list", taskToken=[token("token in a list")]),
        "another request": json.dumps({"jobId": send.jobs["files"], **IDS, "taskToken": token("another's token"), "files": []}),
    }
    for text in bad.values():
        world.sqs.send_message(
            QueueUrl=world.queue,
            MessageBody=text,
            MessageAttributes={
                "taskToken": {"DataType": "String", "StringValue": token("token in an attribute")},
                "link": {"DataType": "String", "StringValue": url("w")},
            },
        )
    return list(bad)


async def poison(world: World, send: Sender) -> list[bytes]:
    """Records that no step can read, on each topic that has one; those records."""
    token, url = send.canaries.token, send.url
    text = json.dumps({"v": 1, "type": "Nothing", "jobId": 17, "taskToken": token("poison token"), "tasks": [{"url": url("x")}]})
    raw = b"\xff\xfe" + f'{{"taskToken": "{token("binary poison token")}", "url": "{url("y")}"'.encode()
    bare = f"{token('bare poison token')} {url('z')}"
    values = [text.encode(), raw, bare.encode()]
    async with AIOKafkaProducer(bootstrap_servers=world.env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"]) as producer:
        for topic in ("requests", "tasks", "results", "snapshots", "completions", "cancellations"):
            for value in values:
                await producer.send_and_wait(world.env["EXPORT_TOPICS_PREFIX"] + topic, value, key=b"poison")
    return values


def test_no_secret_is_anywhere_after_every_path(world: World) -> None:
    canaries = Canaries()
    send = Sender(world, canaries)
    faults = AwsFaults(world.env["AWS_ENDPOINT"], seed=4, throttle=0.05, error=0.05, lost=0.03)
    endpoint, port, temporary = faults.start(), processes.free_port(), world.folder / "tmp"
    temporary.mkdir()
    own = {
        "AWS_ENDPOINT": endpoint,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_SECRET_ACCESS_KEY": canaries.new("the secret access key"),
        "AWS_SESSION_TOKEN": canaries.new("the session token"),
        "EXPORT_KAFKA_SASL_PASSWORD": canaries.new("the SASL password"),
        "EXPORT_LOG_LEVEL": "debug",
        "EXPORT_METRICS_PORT": str(port),
        "EXPORT_DOWNLOAD_ATTEMPTS": "2",
        "EXPORT_DOWNLOAD_STALL_SECONDS": "1",
        "EXPORT_DOWNLOAD_TIMEOUT_SECONDS": "3",
        "EXPORT_WATCH_STUCK_SECONDS": "1",
        "TMPDIR": str(temporary),
        "PYTHONASYNCIODEBUG": "1",
    }
    # A message whose reply is lost comes again after this time.
    world.sqs.set_queue_attributes(QueueUrl=world.queue, Attributes={"VisibilityTimeout": "20"})
    worker = world.worker(**own)
    send_good_and_failing_jobs(send)
    bad = send_bad_messages(send)
    planted = asyncio.run(poison(world, send))
    world.catalog("good", ["a.txt"])
    _, real = world.execute("good", machine=world.machine_with(HeartbeatSeconds=60, heartbeatSeconds=1))
    # How it ends is up to the faults.
    world.until(lambda: "callbackOutcome" in world.attempt(real, 1), "the execution is answered", seconds=240)
    for name, job in send.jobs.items():
        world.until(lambda job=job: "callbackOutcome" in world.attempt(job, 1), f"{name} is answered", seconds=240)  # type: ignore[misc]
    letters = world.env["EXPORT_TOPICS_PREFIX"] + "dead-letters"
    world.until(
        lambda: len(read_topic(world, letters)) >= len(bad) + 5 * len(planted), "every poison is a dead letter", seconds=240
    )
    world.until(world.queue_is_empty, "the queue is empty", seconds=240)
    assert {kind.split()[0] for kind in faults.done} == {"throttle", "error", "lost"}
    canaries.know("the token of the execution", world.attempt(real, 1)["taskToken"])

    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read()
    for number, arguments in enumerate(
        [
            *(["config"], ["config", "--json"], ["verify", "--all"], ["verify", "--all", "--json"], ["verify", real]),
            *(["status", job, *form] for job in (real, send.jobs["late"]) for form in ([], ["--json"])),
        ]
    ):
        credentials = {name: own[name] for name in own if name.startswith(("AWS_SE", "EXPORT_KAFKA"))}
        said = cli(world, *arguments, **credentials)
        (world.folder / f"cli-{number}.txt").write_text(said.stdout + said.stderr)
    command = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
    s3 = world.aws.client("s3")
    objects = [each["Key"] for each in s3.list_objects_v2(Bucket="exports", Prefix=send.folder)["Contents"]]
    assert send.folder + "_report.jsonl" in objects
    bodies = [(f"the object {key}", key.encode() + s3.get_object(Bucket="exports", Key=key)["Body"].read()) for key in objects]
    places = [("the metrics", page), ("the command line", command), *bodies]
    assert page.count(b"export_callbacks_total{") == 3
    assert sorted(canaries.found([*everywhere(world, planted), *places])) == []

    # The search finds what is there, whichever way it is written down.
    secret = canaries.token("a planted token")
    (world.folder / "state-0" / "note").write_bytes(base64.b64encode(b"xy" + secret.encode()))
    asyncio.run(plant(world, json.dumps({"x": "".join(f"\\u{ord(each):04x}" for each in secret)}).replace("\\\\", "\\").encode()))
    found = canaries.found(everywhere(world, planted))
    assert found == {
        "a planted token in the file state-0/note",
        f"a planted token in a record of {world.env['EXPORT_TOPICS_PREFIX']}callbacks",
    }
    faults.close()


async def plant(world: World, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=world.env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"]) as producer:
        await producer.send_and_wait(world.env["EXPORT_TOPICS_PREFIX"] + "callbacks", value)


CRASHING = """
from connectors.step_functions import StepFunctionsCallback
from export_service.cli import main

async def success(self, token, output):
    local = {"taskToken": token, "held": output}
    try:
        raise KeyError(token)
    except KeyError as error:
        raise RuntimeError(f"taskToken={token} of https://h/a?sig={token} is a defect") from error

StepFunctionsCallback.success = success
main.run()
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_defect_that_ends_the_worker_says_where_and_not_with_what(world: World, form: str) -> None:
    canaries = Canaries()
    worker = world.launch(sys.executable, "-c", CRASHING, "worker", EXPORT_LOG_FORMAT=form)
    job = str(uuid.uuid4())
    world.send({"jobId": job, **IDS, "files": [], "taskToken": canaries.token("the token")})
    world.until(lambda: worker.poll() is not None, "the worker has ended")
    log = (world.folder / "worker-0.log").read_text()
    assert worker.returncode == 1
    assert "in success" in log, "the traceback names the place"
    assert "RuntimeError" in log
    assert canaries.found(everywhere(world)) == set()


def test_a_worker_that_is_aborted_leaves_no_core_file(world: World) -> None:
    """The shell allows core files, of any size, where the worker works."""
    folder = world.folder / "cwd"
    folder.mkdir()
    script = f"cd {folder} && ulimit -c unlimited && exec {sys.executable} -m export_service worker"
    paths = os.pathsep.join(path for path in sys.path if path)
    worker = world.worker("bash", "-c", script, PYTHONPATH=paths, PYTHONFAULTHANDLER="1")
    canaries = Canaries()
    world.files.gate.clear()
    message = {"jobId": str(uuid.uuid4()), **IDS, "taskToken": canaries.token("the token")}
    world.send(message | {"files": [{"url": f"{world.files.base}/a.txt?sig={canaries.new('the query')}"}]})
    world.until(lambda: bool(world.files.requests), "the download has begun")
    limits = Path(f"/proc/{worker.pid}/limits").read_text()
    assert [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core")] == [["0", "0"]]
    worker.send_signal(signal.SIGABRT)
    ended = os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert ended.si_code == os.CLD_KILLED, "not CLD_DUMPED"
    assert "Fatal Python error: Aborted" in (world.folder / "worker-0.log").read_text()
    assert list(folder.glob("core*")) == []
    assert canaries.found(everywhere(world)) == set()
