"""A worker process whose Kafka, SQS or DynamoDB cannot be reached, at its start and later: a sentence with the setting, then it goes on."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from export_service.devstack import processes
from tests.chaos.brokers import Brokers
from tests.e2e.conftest import FileServer, World

pytestmark = pytest.mark.e2e
SETTINGS = {"sqs": "AWS_ENDPOINT_URL_SQS", "dynamodb": "AWS_ENDPOINT_URL_DYNAMODB"}


class Door:
    """A port in front of another one: nobody listens on it while it is shut."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self.port = processes.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        for one in [self._listener, *self._open]:
            if one is not None:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
        self._listener, self._open = None, []

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def said(world: World, setting: str, since: int = 0) -> bool:
    return any(setting in line.get("setting", "") and setting in line["msg"] for line in world.logs()[since:])


def job_succeeds(world: World, export_id: str) -> None:
    world.catalog(export_id, ["a.txt", "b.txt"])
    arn, job_id = world.execute(export_id)
    assert world.finished(arn)["status"] == "SUCCEEDED"
    assert world.output(job_id)["a.txt"] == FileServer.content("/a.txt")


@pytest.mark.parametrize("service", ["sqs", "dynamodb"])
def test_aws_that_cannot_be_reached_at_start_and_later(world: World, service: str) -> None:
    door = Door(world.env["AWS_ENDPOINT"])
    # A message that was on its way when the door fell shut comes again after this time, as SQS does it.
    world.sqs.set_queue_attributes(QueueUrl=world.queue, Attributes={"VisibilityTimeout": "5"})
    try:
        world.worker(**{SETTINGS[service]: door.url})
        world.catalog("first", ["a.txt"])
        arn, _ = world.execute("first")
        world.until(lambda: said(world, SETTINGS[service]), f"the log names {SETTINGS[service]}")
        door.open()
        assert world.finished(arn)["status"] == "SUCCEEDED"
        job_succeeds(world, "second")

        door.shut()
        so_far = len(world.logs())
        world.catalog("third", ["a.txt"])
        arn, _ = world.execute("third")
        world.until(lambda: said(world, SETTINGS[service], so_far), f"the log names {SETTINGS[service]} again")
        door.open()
        assert world.finished(arn)["status"] == "SUCCEEDED"
        world.until(world.queue_is_empty, "the queue is empty")
    finally:
        door.shut()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Brokers]:
    made = Brokers(tmp_path / "kafka")
    yield made
    made.close()


@pytest.mark.timeout(300)
def test_kafka_that_cannot_be_reached_at_start_and_later(world: World, broker: Brokers) -> None:
    setting = "EXPORT_KAFKA_BOOTSTRAP_SERVERS"
    world.env |= {setting: broker.direct, "EXPORT_KAFKA_REQUEST_TIMEOUT_SECONDS": "5", "EXPORT_TOPICS_DECLARE": "true"}
    worker = world.launch()
    world.until(lambda: said(world, setting), f"the log names {setting}")
    assert worker.poll() is None
    broker.start()
    world.until(lambda: any(line["msg"] == "Worker ready" for line in world.logs()), "the worker is ready")
    job_succeeds(world, "first")

    broker.kill()
    so_far = len(world.logs())
    world.catalog("second", ["a.txt"])
    arn, _ = world.execute("second")
    world.until(lambda: said(world, setting, so_far) or worker.poll() is not None, f"the log names {setting} again")
    since = world.logs()[so_far:]
    assert any(setting in str(line) for line in since), since[-20:]
    broker.start()
    if worker.poll() is not None:
        # It says that it cannot be sure of what it sent; whoever runs it starts it again.
        world.launch()
    assert world.finished(arn)["status"] == "SUCCEEDED"
