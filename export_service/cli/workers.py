"""`export-service workers`: who takes part in each step, and in which partitions, by the broker's word."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from export_service.cli.asking import Every, Json, Watch
from export_service.cli.terminal import Column, Rows, show
from export_service.messages import iso_millis
from export_service.settings import Settings, load
from export_service.words import MISSING

if TYPE_CHECKING:
    from streams.group_members import Group, Place

_COLUMNS = (Column("role"), Column("group"), Column("partitions"), Column("host", 1), Column("member", 2))


def workers(watch: Watch = False, every: Every = 2.0, as_json: Json = False) -> None:
    """Show who is in the consumer group of each role and which partitions each has. The connector has no group: SQS knows nobody.

    Example: export-service workers --watch
    """
    asyncio.run(show(_looks(load(), every), view, lambda found: [as_object(found)], watch=watch, as_json=as_json))


def _looks(settings: Settings, every: float) -> "AsyncGenerator[list[Group], None]":
    from streams.group_members import looks

    return looks(settings, every)


def as_object(found: "Sequence[Group]") -> dict[str, Any]:
    return {"at": iso_millis(datetime.now(UTC)), "roles": [_group(group) for group in found]}


def _group(group: "Group") -> dict[str, Any]:
    members = [{"member": each.name, "host": each.host, "topics": dict(_by_topic(each.places))} for each in group.members]
    return {"role": group.role, "state": group.state, "members": members}


def _by_topic(places: "Sequence[Place]") -> Iterator[tuple[str, list[int]]]:
    for topic, mine in groupby(places, key=lambda place: place.topic):
        yield topic, [place.partition for place in mine]


def view(found: "Sequence[Group]") -> RenderableType:
    return Rows(_COLUMNS, [row for group in found for row in _rows(group)])


def _rows(group: "Group") -> Iterator[tuple[str | Text, ...]]:
    # Nobody works, or for a moment not all do.
    state = Text(group.state, "" if group.state == "Stable" else "yellow")
    if not group.members:
        yield group.role, state, Text("nobody", "yellow"), MISSING, MISSING
    for each in group.members:
        yield group.role, state, _places(each.places), each.host, each.name


def _places(places: "Sequence[Place]") -> str:
    """`tasks 0-3,5`."""
    found = []
    for topic, numbers in _by_topic(places):
        runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), key=lambda each: each[1] - each[0])]
        found.append(f"{topic} " + ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs))
    return "; ".join(found) or "none"
