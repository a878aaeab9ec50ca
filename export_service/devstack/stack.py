"""The whole embedded stack: Kafka and AWS started together, and what a client needs to know of them as environment variables."""

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from export_service.devstack import aws, kafka, processes
from export_service.devstack.processes import DevstackError, claim_port


@dataclass(frozen=True)
class Service:
    """One running part of the stack."""

    name: str
    pid: int
    port: int
    log: str
    marker: str

    @property
    def up(self) -> bool:
        return processes.alive(self.pid, self.marker)


CONSOLE = "console"
_CONSOLE_SECONDS = 30


@dataclass
class Stack:
    """A stack and its state folder. `env` points any client at it."""

    folder: Path
    services: list[Service] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    children: list["subprocess.Popen[bytes]"] = field(default_factory=list, repr=False)
    """Those that this process started, so that they can be waited for."""

    @property
    def file(self) -> Path:
        return self.folder / "stack.json"

    @property
    def up(self) -> bool:
        """What jobs need; the console only looks."""
        return all(service.up for service in self.services if service.name != CONSOLE)

    def save(self) -> None:
        self.file.write_text(json.dumps({"services": [asdict(s) for s in self.services], "env": self.env}, indent=2))

    @classmethod
    def load(cls, folder: Path) -> "Stack | None":
        """What `save` wrote; None if there is no stack. Its processes may be gone: see `Service.up`."""
        try:
            saved = json.loads((folder / "stack.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return cls(folder, [Service(**service) for service in saved["services"]], saved["env"])

    def stop(self) -> list[str]:
        """Stop what runs; the names of what was stopped."""
        stopped = [service.name for service in self.services if processes.stop(service.pid, service.marker)]
        for child in self.children:
            child.wait()
        self.file.unlink(missing_ok=True)
        return stopped


async def up(folder: Path, kafka_port: int | None = None, aws_port: int | None = None, *, detached: bool = False) -> Stack:
    """Start Kafka and AWS side by side, and create queue, table, bucket and state machine.

    Args:
        folder: state and logs; made if missing.
        detached: the processes live on when we end; otherwise they end with us, even if we are killed.

    Raises:
        DevstackError: a port is taken, a download is broken, a process does not come up. Nothing is left running.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    kafka_port, aws_port = claim_port(kafka_port, "--kafka-port"), claim_port(aws_port, "--aws-port")
    stack = Stack(folder)
    started = stack.children
    try:
        emulator = aws.launch(folder, aws_port, detached=detached)
        started.append(emulator)
        broker = kafka.launch(folder / "kafka", kafka_port, detached=detached)
        started.append(broker)
        await asyncio.gather(aws.ready(emulator, aws_port, folder), kafka.ready(broker, kafka_port, folder / "kafka"))
        endpoint = f"http://127.0.0.1:{aws_port}"
        provisioned = await asyncio.to_thread(aws.Aws(endpoint).provision)
    except BaseException:
        for process in started:
            process.send_signal(signal.SIGKILL)
            process.wait()
        raise
    stack.services = [
        Service("kafka", broker.pid, kafka_port, str(folder / "kafka" / "kafka.log"), kafka.MARKER),
        Service("aws", emulator.pid, aws_port, str(folder / "aws.log"), aws.MARKER),
    ]
    stack.env = environment(folder, kafka_port, endpoint, provisioned)
    stack.save()
    return stack


def show(stack: Stack, port: int | None = None) -> Service:
    """Start the console beside a stack, which lives on when we end. Raises DevstackError; the stack stays up then."""
    port = claim_port(port, "--console-port")
    log = stack.folder / "console.log"
    command = [sys.executable, "-m", "export_service", "console", "--host", "127.0.0.1", "--port", str(port)]
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    child = processes.start(command, log, stack.env | {"PYTHONPATH": path}, detached=True)
    stack.children.append(child)
    deadline = time.monotonic() + _CONSOLE_SECONDS
    try:
        while not processes.listens(port):
            if child.poll() is not None or time.monotonic() > deadline:
                raise DevstackError(f"the console does not come up; the end of {log}:\n{processes.tail(log)}")
            time.sleep(0.05)
    except BaseException:
        child.kill()
        child.wait()
        raise
    service = Service(CONSOLE, child.pid, port, str(log), "export_service console")
    stack.services = [*(each for each in stack.services if each.name != CONSOLE), service]
    stack.save()
    return service


def environment(folder: Path, kafka_port: int, endpoint: str, provisioned: aws.Provisioned) -> dict[str, str]:
    """Everything that worker, CLI and any other client need."""
    return {
        "EXPORT_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{kafka_port}",
        "EXPORT_TOPICS_DECLARE": "true",
        "EXPORT_QUEUE_URL": provisioned.queue_url,
        # moto waits for messages in a loop that takes a tenth of a core; shorter polls of one receiver are kinder to two cores.
        "EXPORT_QUEUE_RECEIVERS": "1",
        "EXPORT_TABLE_NAME": aws.TABLE,
        "EXPORT_CATALOG": f"s3://{aws.BUCKET}/{{exportId}}/manifest.jsonl",
        "EXPORT_DESTINATION": f"{(folder / 'files').as_uri()}/{{jobId}}/",
        # The demo's files are served on this machine.
        "EXPORT_DOWNLOAD_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128",
        "EXPORT_WORKER_STATE_DIR": str(folder / "worker"),
        "EXPORT_STATE_MACHINE_ARN": provisioned.state_machine_arn,
        "AWS_ENDPOINT": endpoint,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": aws.REGION,
        "AWS_DEFAULT_REGION": aws.REGION,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }


def exports(env: Mapping[str, str]) -> str:
    """`export KEY=value` lines for a shell."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())


def require(folder: Path) -> Stack:
    """The running stack of a folder. Raises DevstackError."""
    stack = Stack.load(folder)
    if stack is None or not stack.up:
        raise DevstackError(f"no stack is up in {folder}; start one with: export-service dev up --state-dir {folder}")
    return stack
