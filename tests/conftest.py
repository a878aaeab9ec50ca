"""The stack that broker and end-to-end tests share: one Kafka and one AWS emulator a session.

Kafka is, in this order: the broker that EXPORT_TEST_KAFKA names, a container if a Docker engine answers, else the embedded one.
"""

import asyncio
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from export_service._app_path import make_importable
from export_service.devstack import stack as stacks
from export_service.settings import Settings, load
from tests.chaos.table import load as load_runs
from tests.chaos.table import table

make_importable()
# A busy machine is slow, and that is no failure.
patient = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("patient", patient)
# --hypothesis-profile=search looks for rare histories, for an hour; mutation is quick and always the same.
hypothesis.settings.register_profile("search", patient, max_examples=5000)
phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
hypothesis.settings.register_profile("mutation", patient, max_examples=15, derandomize=True, phases=phases)
hypothesis.settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=1, help="seeds of each scenario in tests/chaos")
    parser.addoption("--first", type=int, default=1, help="the first of them")
    parser.addoption("--scenarios", choices=("ci", "all"), default="ci", help="those of every test run, or all")
    # Not a Path: the processes of a run hand their options on as plain values.
    parser.addoption("--record", help="file that each fault run is noted in, one JSON object a line")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.record is None:
        descriptor, config.option.record = tempfile.mkstemp(prefix="fault-runs-")
        os.close(descriptor)
        config.add_cleanup(Path(config.option.record).unlink)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a stack shares one, whatever process it is in: two of them go side by side."""
    for item in items:
        if "chaos" in item.path.parts:
            item.add_marker(pytest.mark.xdist_group("chaos"))
        elif item.get_closest_marker("broker") or item.get_closest_marker("e2e"):
            item.add_marker(pytest.mark.xdist_group("stack"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if runs := load_runs([Path(config.option.record)]):
        terminalreporter.write_line(table(runs))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stacks.Stack]:
    """Kafka and AWS, with queue, table, bucket and state machine."""
    running = asyncio.run(stacks.up(tmp_path_factory.mktemp("stack")))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[str]:
    """Bootstrap servers of a real broker."""
    given = os.environ.get("EXPORT_TEST_KAFKA")
    if given:
        yield given
    elif _docker_answers():
        from testcontainers.kafka import KafkaContainer

        with KafkaContainer("apache/kafka:4.3.1") as container:
            yield container.get_bootstrap_server()
    else:
        embedded: stacks.Stack = request.getfixturevalue("stack")
        yield embedded.env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"]


@pytest.fixture
def settings(kafka: str, tmp_path: Path) -> Settings:
    """Settings with topics, groups and state of this test's own."""
    unique = uuid.uuid4().hex[:8]
    return load(
        app_id=f"test-{unique}",
        kafka={"bootstrap_servers": kafka},
        topics={"prefix": f"test-{unique}.", "partitions": 2, "task_partitions": 2, "declare": True},
        worker={"state_dir": tmp_path / "state", "drain_seconds": 5},
    )


def _docker_answers() -> bool:
    if not os.environ.get("DOCKER_HOST") and not Path("/var/run/docker.sock").exists():
        return False
    try:
        import docker

        client = docker.from_env(timeout=2)
        client.ping()
        client.close()
    except Exception:  # no engine, no socket, no permission: all mean the embedded broker
        return False
    return True
