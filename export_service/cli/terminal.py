"""What people look at: tables that fit the terminal, and views that are drawn again and again.

On a terminal that can, a view has the screen to itself, as in `top`: what a resize leaves is painted over, and however it ends, the cursor
and what was there before come back. Elsewhere nothing but plain text is written.
"""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from io import TextIOWrapper
from typing import IO, Any, NamedTuple, TypeVar, cast

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from export_service.messages import JobStatus
from export_service.words import printable

_WIDE = 1000
"""Columns where nobody looks: what a program reads is not cut."""
STYLES = {
    JobStatus.PENDING: "dim",
    JobStatus.RUNNING: "cyan",
    JobStatus.COMPLETED: "green",
    JobStatus.COMPLETED_WITH_FAILURES: "yellow",
    JobStatus.FAILED: "red",
    JobStatus.CANCELLED: "magenta",
}
T = TypeVar("T")


class Column(NamedTuple):
    """`rank`: where there is no room for all, the column with the highest goes first; of rank 0 none goes."""

    title: str
    rank: int = 0
    right: bool = False


def console(file: IO[str] | None = None, **options: Any) -> Console:
    """Texts are printed as they are. Nothing but text, and all of it, where nobody looks."""
    if file is None and isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal need not have every sign
    made = Console(file=file, markup=False, emoji=False, highlight=False, **options)
    if not made.is_terminal:
        made.width = max(made.width, _WIDE)
    return made


def is_live(shown: Console) -> bool:
    return shown.is_interactive and shown.file.isatty()


class Rows:
    """A table of as many of the columns as there is room for."""

    def __init__(self, columns: Sequence[Column], rows: Iterable[Sequence[str | Text]]) -> None:
        self._columns = columns
        self._cells = [[each if isinstance(each, Text) else Text(printable(each)) for each in row] for row in rows]

    def __rich_console__(self, shown: Console, options: ConsoleOptions) -> RenderResult:
        kept = list(range(len(self._columns)))
        while True:
            last = max(kept, key=lambda number: self._columns[number].rank)
            for gap in (2, 1):
                made = self._table(kept, gap)
                if shown.measure(made, options=options.update(width=_WIDE)).maximum <= options.max_width:
                    yield made
                    return
            if not self._columns[last].rank:
                yield made
                return
            kept.remove(last)

    def _table(self, kept: Sequence[int], gap: int) -> Table:
        made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
        for number in kept:
            column = self._columns[number]
            # The first one says which line it is: of it nothing is cut.
            least = max((row[number].cell_len for row in self._cells), default=0) if number == 0 else None
            made.add_column(column.title, justify="right" if column.right else "left", no_wrap=True, min_width=least)
        for row in self._cells:
            made.add_row(*(row[number] for number in kept))
        return made


class _Cut:
    """So much of a view as the screen is high."""

    def __init__(self, view: RenderableType) -> None:
        self._view = view

    def __rich_console__(self, shown: Console, options: ConsoleOptions) -> RenderResult:
        lines = shown.render_lines(self._view, options.update(height=None), pad=False)
        if (height := shown.height) < len(lines):
            lines[height - 1 :] = [[Segment(f"… {len(lines) - height + 1} more lines")]]
        for line in lines:
            yield from (*line, Segment.line())


def put(shown: Console, view: RenderableType) -> None:
    """Without the blanks that fill lines up, where they are nobody's background."""
    with shown.capture() as captured:
        shown.print(view)
    text = captured.get()
    shown.file.write(text if shown.is_terminal else "".join(f"{line.rstrip()}\n" for line in text.splitlines()))
    shown.file.flush()


async def show(
    values: AsyncGenerator[T, None],
    view: Callable[[T], RenderableType],
    fields: Callable[[T], Iterable[Any]],
    *,
    watch: bool = False,
    as_json: bool = False,
    lines: Callable[[T], Iterable[str]] | None = None,
) -> T:
    """On stdout the first value, or with `watch` each; the last one.

    Args:
        values: at least one.
        view: what a terminal shows; without a terminal it is shown once.
        fields: objects, one a line, for `as_json`.
        lines: what is written in place of a view with `watch` where no terminal is.
    """
    shown = console()
    async with aclosing(values):
        last = await anext(values)  # before the screen is taken: a sentence may be all that there is to say
        if watch and not as_json and is_live(shown):
            return await follow(last, values, view, shown)
        while True:
            if as_json:
                _put(json.dumps(each) for each in fields(last))
            elif watch and lines is not None:
                _put(lines(last))
            else:
                put(shown, view(last))
                if watch:
                    sys.stderr.write("stdout is no terminal: this was one look; with --json it goes on\n")
                return last
            if not watch or (value := await anext(values, None)) is None:
                return last
            last = value


def _put(lines: Iterable[str]) -> None:
    """Whoever reads along has it at once."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


async def follow(last: T, values: AsyncIterator[T], view: Callable[[T], RenderableType], shown: Console) -> T:
    """Draws each value on the whole screen until there is no other; the last one. What was seen last stays in the terminal, whatever ends
    it: no more values, Ctrl-C, SIGTERM or an error."""
    try:
        with _screen(shown) as draw:
            draw(view(last))
            async for value in values:
                draw(view(last := value))
    finally:
        shown.print(view(last))
    return last


@contextmanager
def _screen(shown: Console) -> Iterator[Callable[[RenderableType], None]]:
    live = Live(console=shown, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    ended: list[int] = []

    def end() -> None:
        ended.append(signal.SIGTERM)
        me.cancel()

    loop, me = asyncio.get_running_loop(), cast("asyncio.Task[Any]", asyncio.current_task())
    loop.add_signal_handler(signal.SIGTERM, end)
    loop.add_signal_handler(signal.SIGWINCH, live.refresh)
    try:
        with live:
            yield lambda view: live.update(_Cut(view), refresh=True)
    except asyncio.CancelledError:
        if ended:
            raise SystemExit(128 + ended[0]) from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGWINCH)
