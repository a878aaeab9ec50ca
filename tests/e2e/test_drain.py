"""SIGTERM ends a worker within one deadline, whatever its roles wait for."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.brokers import Brokers
from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e
DRAIN_SECONDS = 3


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Brokers]:
    made = Brokers(tmp_path / "kafka")
    made.start()
    yield made
    made.close()


def seconds_to_end(world: World, number: int) -> float:
    since = time.monotonic()
    worker = world.workers[number]
    worker.send_signal(signal.SIGTERM)
    world.until(lambda: worker.poll() is not None, "the worker has ended")
    return time.monotonic() - since


def test_one_deadline_for_all_roles(world: World) -> None:
    world.catalog("held", ["a.txt"])
    world.worker(EXPORT_WORKER_DRAIN_SECONDS=str(DRAIN_SECONDS))
    world.files.gate.clear()
    arn, _ = world.execute("held")
    world.until(lambda: bool(world.files.requests), "a download is under way")
    took = seconds_to_end(world, 0)
    assert world.workers[0].returncode == 0
    assert took < DRAIN_SECONDS + 10
    world.files.gate.set()
    world.worker()
    assert world.finished(arn)["status"] == "SUCCEEDED"


def test_a_broker_that_does_not_answer_does_not_keep_a_worker(world: World, broker: Brokers) -> None:
    world.env |= {"EXPORT_KAFKA_BOOTSTRAP_SERVERS": broker.direct, "EXPORT_TOPICS_DECLARE": "true"}
    world.worker(EXPORT_WORKER_DRAIN_SECONDS=str(DRAIN_SECONDS))
    broker.freeze(1)
    took = seconds_to_end(world, 0)
    assert world.workers[0].returncode == 1
    assert took < DRAIN_SECONDS + 15


def test_a_worker_that_waits_for_its_broker_ends_when_it_is_told_to(world: World, broker: Brokers) -> None:
    broker.kill()
    world.env |= {"EXPORT_KAFKA_BOOTSTRAP_SERVERS": broker.direct}
    world.launch()
    world.until(lambda: any("EXPORT_KAFKA_BOOTSTRAP_SERVERS" in line["msg"] for line in world.logs()), "it says what it waits for")
    seconds_to_end(world, 0)
    assert world.workers[0].returncode == 130
    assert world.logs()[-1]["msg"] == "Worker stopped before it was ready"
