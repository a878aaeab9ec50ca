"""Chaos tests live in the world of the end-to-end tests, with brokers of their own."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from export_service.devstack.stack import Stack
from tests.chaos.aws_faults import AwsFaults
from tests.chaos.brokers import Brokers
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
