"""A pytest plugin: mutmut 3.7 reads `Item._nodeid`, which pytest 9.2 no longer has. mutmut 3.8 needs a click that Faust does not bear."""

from typing import Any


def pytest_collection_modifyitems(items: list[Any]) -> None:
    for item in items:
        item._nodeid = item.nodeid
