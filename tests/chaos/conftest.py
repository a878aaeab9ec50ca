"""Chaos tests live in the world of the end-to-end tests, with brokers of their own; at the end, a table of what was done and what held."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from export_service.devstack.stack import Stack
from tests.chaos.aws_faults import AwsFaults
from tests.chaos.brokers import Brokers
from tests.chaos.table import Run, load, table
from tests.e2e.conftest import world

__all__ = ["world"]


@pytest.fixture(scope="session")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Brokers]]:
    """By their number; started when they are first asked for."""
    made = {nodes: Brokers(tmp_path_factory.mktemp(f"kafka-{nodes}"), nodes) for nodes in (1, 3)}
    yield made
    for each in made.values():
        each.close()


@pytest.fixture(scope="session")
def aws_faults(stack: Stack) -> Iterator[AwsFaults]:
    made = AwsFaults(stack.env["AWS_ENDPOINT"], 0)
    made.start()
    with closing(made):
        yield made


@pytest.fixture(scope="session")
def runs(pytestconfig: pytest.Config) -> Iterator[list[Run]]:
    """Those of this session. Each is noted in the file that --record names as soon as it is over."""
    made: list[Run] = []
    yield made
    pytestconfig.stash[_RUNS] = made


_RUNS = pytest.StashKey[list[Run]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    record = config.getoption("--record")
    runs = load([record]) if record and record.exists() else config.stash.get(_RUNS, [])
    if runs:
        terminalreporter.write_line(table(runs))
