"""The demo: executions of the state machine against the embedded stack, workers as processes, and an independent check at the end."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from export_service.devstack import aws, processes, stack
from export_service.devstack.processes import DevstackError
from export_service.devstack.progress import Progress

_DONE = ("SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED")


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    folder: Path
    manifest: Path | None
    urls: tuple[str, ...]
    dest: str | None
    fail: int
    jobs: int
    workers: int
    keep: bool

    @property
    def library(self) -> bool:
        """Export the standard library, because nothing else was named."""
        return self.manifest is None and not self.urls


@dataclass
class Job:
    job_id: str
    name: str
    arn: str
    started: float
    snapshot: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class Demo:
    """`run`, then `stop` whatever happened."""

    def __init__(self, plan: Plan, show: Progress) -> None:
        self._plan, self._show = plan, show
        self._stack: stack.Stack | None = None
        self._children: list[tuple[str, subprocess.Popen[bytes], Path]] = []

    def run(self) -> list[dict[str, Any]]:
        """One dictionary an execution. Raises DevstackError."""
        plan = self._plan
        if plan.manifest is not None and not plan.manifest.is_file():
            raise DevstackError(f"--manifest {plan.manifest}: there is no such file")
        files = library_files() if plan.library else {}
        running = self._start_stack()
        env = running.env | self._job_settings(running)
        self._show.phase(f"Starting {plan.workers} worker{'s' if plan.workers > 1 else ''}")
        for number in range(plan.workers):
            log = plan.folder / f"worker-{number + 1}.log"
            log.unlink(missing_ok=True)
            own = {"EXPORT_WORKER_STATE_DIR": str(plan.folder / f"worker-{number + 1}"), "EXPORT_LOG_FORMAT": "json"}
            self._child(f"worker {number + 1}", [sys.executable, "-m", "export_service", "worker"], log, env | own)
        manifest = self._manifest(files)
        self._wait_for_workers()
        clients = aws.Aws(env["AWS_ENDPOINT"])
        jobs = [self._start_job(clients, env, manifest) for _ in range(plan.jobs)]
        self._watch(clients, jobs)
        return [self._result(clients, job, files) for job in jobs]

    def stop(self) -> None:
        """Workers drain first, then the stack goes, unless it is kept."""
        for _, child, _ in self._children:
            if child.poll() is None:
                child.terminate()
        for _, child, _ in self._children:
            try:
                child.wait(timeout=30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if self._stack is not None and not self._plan.keep:
            self._stack.stop()

    def _start_stack(self) -> stack.Stack:
        plan = self._plan
        known = stack.Stack.load(plan.folder)
        if known is not None and known.up:
            if not plan.keep:
                raise DevstackError(f"a stack is up in {plan.folder}; use it with --keep, or end it: ./dev dev down")
            self._stack = known
        else:
            self._show.phase("Starting Kafka and AWS")
            self._stack = asyncio.run(stack.up(plan.folder, detached=plan.keep))
        return self._stack

    def _job_settings(self, running: stack.Stack) -> dict[str, str]:
        plan = self._plan
        settings = {}
        if plan.manifest is not None and plan.manifest.suffix == ".csv":
            settings["EXPORT_CATALOG"] = running.env["EXPORT_CATALOG"].replace(".jsonl", ".csv")
        if plan.dest is not None:
            root = plan.dest if "://" in plan.dest else Path(plan.dest).absolute().as_uri()
            settings["EXPORT_DESTINATION"] = root.rstrip("/") + ("/" if plan.jobs == 1 else "/{jobId}/")
        return settings

    def _child(self, name: str, command: list[str], log: Path, env: dict[str, str]) -> None:
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
        self._children.append((name, processes.start(command, log, env | {"PYTHONPATH": path}), log))

    def _check_children(self) -> None:
        for name, child, log in self._children:
            if child.poll() is not None:
                raise DevstackError(f"{name} ended with code {child.returncode}; the end of {log}:\n{processes.tail(log)}")

    def _wait_for_workers(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        logs = [log for name, _, log in self._children if name.startswith("worker")]
        while not all(b'"Worker ready"' in log.read_bytes() for log in logs):
            self._check_children()
            if time.monotonic() > deadline:
                raise DevstackError(f"the workers are not ready after {seconds:g} s; see {self._plan.folder}/worker-*.log")
            time.sleep(0.05)

    def _manifest(self, files: dict[str, Path]) -> bytes:
        plan = self._plan
        if plan.manifest is not None:
            return plan.manifest.read_bytes()
        lines = [{"url": url} for url in plan.urls]
        base = self._serve() if plan.library or plan.fail else ""
        lines += [{"url": f"{base}/{quote(name)}", "name": name} for name in files]
        lines += [{"url": f"{base}/does-not-exist/{n}", "name": f"missing/{n}"} for n in range(1, plan.fail + 1)]
        return "".join(json.dumps(line) + "\n" for line in lines).encode()

    def _serve(self) -> str:
        port, log = processes.free_port(), self._plan.folder / "file-server.log"
        root = sysconfig.get_path("stdlib")
        command = [sys.executable, "-m", "export_service.devstack.file_server", root, str(port)]
        self._child("file server", command, log, {})
        base = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self._check_children()
            try:
                urllib.request.urlopen(base + "/does-not-exist", timeout=1)
            except urllib.error.HTTPError as error:
                error.close()
                return base
            except OSError:
                time.sleep(0.05)
        raise DevstackError(f"the file server does not answer; see {log}")

    def _start_job(self, clients: aws.Aws, env: dict[str, str], manifest: bytes) -> Job:
        job_id, name = str(uuid.uuid4()), f"demo-{uuid.uuid4().hex[:8]}"
        suffix = "csv" if env.get("EXPORT_CATALOG", "").endswith(".csv") else "jsonl"
        if self._plan.manifest is not None:
            suffix = self._plan.manifest.suffix.lstrip(".")
        clients.client("s3").put_object(Bucket=aws.BUCKET, Key=f"{name}/manifest.{suffix}", Body=manifest)
        started = time.monotonic()
        answer = clients.client("stepfunctions").start_execution(
            stateMachineArn=env["EXPORT_STATE_MACHINE_ARN"],
            name=name,
            input=json.dumps({"jobId": job_id, "exportId": name, "userId": "demo"}),
        )
        self._show.phase(f"Started execution {name}, job {job_id}")
        return Job(job_id, name, answer["executionArn"], started)

    def _watch(self, clients: aws.Aws, jobs: list[Job]) -> None:
        table, machine = clients.client("dynamodb"), clients.client("stepfunctions")
        while not all(job.execution for job in jobs):
            self._check_children()
            for job in jobs:
                if job.execution:
                    continue
                execution = machine.describe_execution(executionArn=job.arn)
                job.snapshot = read_snapshot(table, job.job_id)
                total = job.snapshot.get("totalTasks")
                done, failed = (int(job.snapshot.get(name, 0)) for name in ("completedTasks", "failedTasks"))
                self._show.job(job.name, done, failed, int(total) if total is not None else None)
                if execution["status"] in _DONE:
                    job.execution, job.seconds = execution, round(time.monotonic() - job.started, 2)
            time.sleep(0.1)
        # The callback does not wait for the snapshot of the end, so the last one may still be on its way.
        deadline = time.monotonic() + 30
        for job in jobs:
            while "completedAt" not in job.snapshot and time.monotonic() < deadline:
                job.snapshot = read_snapshot(table, job.job_id)
                time.sleep(0.05)

    def _result(self, clients: aws.Aws, job: Job, files: dict[str, Path]) -> dict[str, Any]:
        snapshot, execution = job.snapshot, job.execution
        destination = snapshot.get("destination", "")
        report = read_text(clients, snapshot["reportUri"]) if "reportUri" in snapshot else ""
        identical = count_identical(clients, destination, files)
        lines = report.splitlines()
        failed = [line for line in lines if '"FAILED"' in line or ",FAILED," in line]
        return {
            "name": job.name,
            "jobId": job.job_id,
            "executionArn": job.arn,
            "status": execution["status"],
            "state": last_state(clients, job.arn),
            "seconds": job.seconds,
            "output": json.loads(execution["output"]) if execution.get("output") else None,
            "error": execution.get("error"),
            "cause": execution.get("cause"),
            "totalTasks": int(snapshot.get("totalTasks", 0)),
            "completedTasks": int(snapshot.get("completedTasks", 0)),
            "failedTasks": int(snapshot.get("failedTasks", 0)),
            "bytes": int(snapshot.get("bytes", 0)),
            "durationMs": int(snapshot.get("durationMs", 0)),
            "destination": shown(destination),
            "report": shown(snapshot.get("reportUri", "")),
            "reportLines": [line if len(line) <= 300 else line[:300] + "…" for line in (failed or lines[-1:])[:3]],
            "compared": len(files),
            "identical": identical,
        }


def library_files() -> dict[str, Path]:
    """The sources of this Python's standard library: name below the root -> path."""
    root = Path(sysconfig.get_path("stdlib"))
    found = (path for path in root.rglob("*.py") if "site-packages" not in path.parts and path.is_file())
    return {path.relative_to(root).as_posix(): path for path in sorted(found)}


def read_snapshot(table: Any, job_id: str) -> dict[str, Any]:
    """The job's item as plain values; {} if there is none yet."""
    key = {"pk": {"S": f"JOB#{job_id}"}, "sk": {"S": "SNAPSHOT"}}
    item = table.get_item(TableName=aws.TABLE, Key=key, ConsistentRead=True).get("Item", {})
    return {name: next(iter(value.values())) for name, value in item.items()}


def last_state(clients: aws.Aws, arn: str) -> str:
    """The name of the state in which the execution ended."""
    pages = clients.client("stepfunctions").get_paginator("get_execution_history").paginate(executionArn=arn)
    entered = [e["stateEnteredEventDetails"]["name"] for page in pages for e in page["events"] if "stateEnteredEventDetails" in e]
    return str(entered[-1]) if entered else "?"


def shown(uri: str) -> str:
    """A folder as people type it."""
    return unquote(urlsplit(uri).path) if uri.startswith("file:") else uri


def read_text(clients: aws.Aws, uri: str) -> str:
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        answer = clients.client("s3").get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))
        return str(answer["Body"].read().decode())
    path = Path(unquote(parts.path))
    return path.read_text() if path.exists() else ""


def count_identical(clients: aws.Aws, destination: str, files: dict[str, Path]) -> int:
    """How many exported files have the bytes of their source."""
    parts = urlsplit(destination)
    if parts.scheme == "s3":
        prefix = parts.path.lstrip("/")
        tags = dict(_etags(clients, parts.netloc, prefix)) if files else {}
        sources = ((tags.get(prefix + name), path) for name, path in files.items())
        return sum(tag == hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for tag, path in sources)
    folder = Path(unquote(parts.path))
    copies = ((folder / name, path) for name, path in files.items())
    return sum(copy.is_file() and copy.read_bytes() == path.read_bytes() for copy, path in copies)


def _etags(clients: aws.Aws, bucket: str, prefix: str) -> Iterator[tuple[str, str]]:
    for page in clients.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for found in page.get("Contents", ()):
            yield found["Key"], found["ETag"].strip('"')
