"""A progress bar on a terminal's stderr, gone when it is done; nowhere else."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Progress(Protocol):
    """What is done, how much of it, of how much."""

    def __call__(self, what: str, done: int, total: int, /) -> None: ...


@contextmanager
def bar(*, quiet: bool = False) -> Iterator[Progress]:
    """`quiet`: somebody reads stdout as JSON."""
    if quiet or not sys.stderr.isatty():
        yield _silent
        return
    shown = _Bar()
    try:
        yield shown
    finally:
        shown.close()


def _silent(_what: str, _done: int, _total: int, /) -> None:
    return


class _Bar:
    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress as Bars

        self._bars = Bars(console=Console(stderr=True), transient=True)
        self._tasks: dict[str, Any] = {}
        self._bars.start()

    def __call__(self, what: str, done: int, total: int, /) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what)
        self._bars.update(self._tasks[what], completed=done, total=total)

    def close(self) -> None:
        self._bars.stop()
