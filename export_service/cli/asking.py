"""What commands that change something have in common: times, a plan that is shown first, and a yes."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import typer

from export_service.failures import ExportError
from export_service.instants import parse_instant

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Why = Annotated[str | None, typer.Option(help="Why; kept on the topic `operations`.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C.")]
Every = Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two looks.")]
T = TypeVar("T")


def moment(option: str, text: str | None) -> datetime | None:
    """Raises BadParameter."""
    try:
        return None if text is None else parse_instant(text, datetime.now(UTC))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def confirm(question: str, *, yes: bool) -> None:
    """Raises ExportError if nobody can say yes, or says no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ExportError("nothing was changed: nobody is there to be asked; look at the plan with --dry-run, then give --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ExportError("nothing was changed")


def show(fields: Any, text: Callable[[], str], *, as_json: bool) -> None:
    """On stdout."""
    sys.stdout.write(json.dumps(fields, ensure_ascii=False) + "\n" if as_json else text())


def plan(text: str, *, as_json: bool) -> None:
    """What is about to be done. On stderr where stdout is for one JSON object."""
    (sys.stderr if as_json else sys.stdout).write(text)
