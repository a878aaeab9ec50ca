"""A world for end-to-end tests: the embedded stack, worker processes, a file server whose answers a test decides."""

import json
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from export_service.devstack import aws, processes
from export_service.devstack.stack import Stack

WORKER = (sys.executable, "-m", "export_service", "worker")


class FileServer:
    """Serves `content(path)` after `delay` seconds for every path but those in `missing`.

    `gate` holds answers back while cleared: all of them, or those in `held`. `answers` says status, headers and body of some paths.
    `misbehave`, if set, is given the handler, the path and how often it was asked for; True if it has answered.
    """

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.missing: set[str] = set()
        self.held: set[str] = set()
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.delay = 0.0
        self.misbehave: Callable[[BaseHTTPRequestHandler, str, int], bool] | None = None
        self.gate = threading.Event()
        self.gate.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.requests[self.path] += 1
                name = self.path.partition("?")[0]
                if name in outer.missing:
                    self.send_error(404)
                    return
                if not outer.held or name in outer.held:
                    outer.gate.wait(60)
                time.sleep(outer.delay)  # a slow source, not a wait for luck
                if outer.misbehave and outer.misbehave(self, name, outer.requests[self.path]):
                    return
                status, headers, body = outer.answers.get(name, (200, {}, outer.content(name)))
                self.send_response(status)
                for header, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(header, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        class Server(ThreadingHTTPServer):
            request_queue_size = 256  # of 5, as it was, connections are dropped, and tried again after 1, 3, 7, 15 s

            def handle_error(self, *_: Any) -> None:
                return  # a worker that is killed cuts its connections

        self._server = Server(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @staticmethod
    def content(path: str) -> bytes:
        return (f"content of {path}\n" * 50).encode()

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()


class World:
    """One test's queue, table, topics, state machine and workers."""

    def __init__(self, stack: Stack, folder: Path, files: FileServer) -> None:
        unique = uuid.uuid4().hex[:8]
        self.folder, self.files, self.stack = folder, files, stack
        self.aws = aws.Aws(stack.env["AWS_ENDPOINT"])
        self.sqs, self.machine, self.table = (self.aws.client(name) for name in ("sqs", "stepfunctions", "dynamodb"))
        self.queue = self.sqs.create_queue(QueueName=f"q-{unique}", Attributes={"VisibilityTimeout": "60"})["QueueUrl"]
        self.table_name = f"t-{unique}"
        aws.create_table(self.table, self.table_name)
        self.arn = aws.create_state_machine(self.machine, f"m-{unique}", self.queue)
        self.env = stack.env | {
            "EXPORT_APP_ID": f"e2e-{unique}",
            "EXPORT_TOPICS_PREFIX": f"e2e-{unique}.",
            "EXPORT_TOPICS_PARTITIONS": "2",
            "EXPORT_TOPICS_TASK_PARTITIONS": "2",
            "EXPORT_QUEUE_URL": self.queue,
            "EXPORT_QUEUE_WAIT_SECONDS": "2",
            "EXPORT_TABLE_NAME": self.table_name,
            "EXPORT_CATALOG": f"s3://exports/{unique}/{{exportId}}.jsonl",
            "EXPORT_DESTINATION": f"{(folder / 'out').as_uri()}/{{jobId}}/",
            "EXPORT_LOG_FORMAT": "json",
            "EXPORT_WORKER_DRAIN_SECONDS": "1",
        }
        self._prefix = unique
        self.sent: list[dict[str, Any]] = []
        self.workers: list[subprocess.Popen[bytes]] = []

    def worker(self, *command: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it is ready."""
        child = self.launch(*command, **env)
        log = self.folder / f"worker-{len(self.workers) - 1}.log"
        self.until(lambda: child.poll() is not None or "Worker ready" in log.read_text(), "the worker is ready")
        assert child.poll() is None, log.read_text()
        return child

    def launch(self, *command: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a worker, or another command in its place."""
        number = len(self.workers)
        log = self.folder / f"worker-{number}.log"
        own = {"EXPORT_WORKER_STATE_DIR": str(self.folder / f"state-{number}")} | env
        child = processes.start(command or WORKER, log, self.env | own)
        self.workers.append(child)
        return child

    def logs(self) -> list[dict[str, Any]]:
        text = "".join(path.read_text() for path in sorted(self.folder.glob("worker-*.log")))
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def catalog(self, export_id: str, names: list[str]) -> None:
        lines = [json.dumps({"url": f"{self.files.base}/{name}", "name": name}) for name in names]
        self.put_catalog(export_id, "\n".join(lines))

    def put_catalog(self, export_id: str, lines: str) -> None:
        self.aws.client("s3").put_object(Bucket="exports", Key=f"{self._prefix}/{export_id}.jsonl", Body=lines.encode())

    def execute(self, export_id: str, job_id: str | None = None, machine: str | None = None) -> tuple[str, str]:
        """(execution ARN, job id)."""
        job_id = job_id or str(uuid.uuid4())
        text = json.dumps({"jobId": job_id, "exportId": export_id, "userId": "user-1"})
        answer = self.machine.start_execution(stateMachineArn=machine or self.arn, name=f"x-{uuid.uuid4().hex[:8]}", input=text)
        return answer["executionArn"], job_id

    def machine_with(self, **fields: Any) -> str:
        """ARN of another state machine, whose waiting state and message have these fields too (those of the message in camelCase)."""
        definition = json.loads(aws.state_machine_definition().replace("${QueueUrl}", self.queue))
        waiting = definition["States"]["StartExportJob"]
        for name, value in fields.items():
            (waiting if name[0].isupper() else waiting["Parameters"]["MessageBody"])[name] = value
        name, role = f"m-{uuid.uuid4().hex[:8]}", "arn:aws:iam::123456789012:role/export-state-machine"
        answer = self.machine.create_state_machine(name=name, definition=json.dumps(definition), roleArn=role)
        return str(answer["stateMachineArn"])

    def send(self, body: str | dict[str, Any]) -> str:
        """The message's id."""
        if isinstance(body, dict):
            self.sent.append(body)
        text = body if isinstance(body, str) else json.dumps(body)
        return str(self.sqs.send_message(QueueUrl=self.queue, MessageBody=text)["MessageId"])

    def finished(self, arn: str) -> dict[str, Any]:
        self.until(lambda: self.machine.describe_execution(executionArn=arn)["status"] != "RUNNING", f"{arn} ends")
        answer: dict[str, Any] = self.machine.describe_execution(executionArn=arn)
        return answer

    def snapshot(self, job_id: str) -> dict[str, str]:
        key = {"pk": {"S": f"JOB#{job_id}"}, "sk": {"S": "SNAPSHOT"}}
        item = self.table.get_item(TableName=self.table_name, Key=key).get("Item", {})
        return {name: next(iter(value.values())) for name, value in item.items()}

    def attempt(self, job_id: str, number: int) -> dict[str, str]:
        """Of the ledger."""
        key = {"pk": {"S": f"JOB#{job_id}"}, "sk": {"S": f"ATTEMPT#{number:04d}"}}
        item = self.table.get_item(TableName=self.table_name, Key=key).get("Item", {})
        return {name: next(iter(value.values())) for name, value in item.items()}

    def ended(self, job_id: str) -> dict[str, str]:
        self.until(lambda: "completedAt" in self.snapshot(job_id), f"job {job_id} ends")
        return self.snapshot(job_id)

    def output(self, job_id: str) -> dict[str, bytes]:
        root = self.folder / "out" / job_id
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def queue_is_empty(self) -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        counts = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=names)["Attributes"]
        return all(counts[name] == "0" for name in names)

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 60, every: float = 0.05) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                tails = "\n".join(processes.tail(path, 30) for path in sorted(self.folder.glob("worker-*.log")))
                raise AssertionError(f"waited {seconds:g} s and still not: {what}\n{tails}")
            time.sleep(every)

    def close(self) -> None:
        for child in self.workers:
            if child.poll() is None:
                child.kill()
            child.wait()


@pytest.fixture
def world(stack: Stack, tmp_path: Path) -> Iterator[World]:
    files = FileServer()
    made = World(stack, tmp_path, files)
    yield made
    made.close()
    files.close()
