"""What a waiting person sees: bars on a terminal, a line now and then elsewhere, nothing for `--json`. On stderr."""

import sys
import time
from typing import Any


class Progress:
    """`phase` names what is going on; `job` shows how far a job is."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._said = 0.0

    def phase(self, text: str) -> None:
        if not self._quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def job(self, name: str, done: int, failed: int, total: int | None) -> None:
        if self._quiet:
            return
        if not sys.stderr.isatty():
            now = time.monotonic()
            if now - self._said >= 1 or done + failed == total:
                self._said = now
                self.phase(
                    f"  {name}: {done + failed:,} of {'?' if total is None else format(total, ',')} files, {failed:,} failed"
                )
            return
        if self._bars is None:
            self._bars = _bars()
            self._bars.start()
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, failed=0)
        self._bars.update(self._tasks[name], completed=done + failed, total=total, failed=failed)

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("  {task.description:<16.16}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeElapsedColumn(),
    )
    return Bars(*columns, console=Console(stderr=True))
