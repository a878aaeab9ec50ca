"""`export-service topics lag`: what waits on each topic, by the broker's own offsets."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import RenderableType
from rich.text import Text

from export_service.cli.asking import Every, Json, Watch
from export_service.cli.terminal import Column, Rows, show
from export_service.failures import Unavailable
from export_service.messages import iso_millis
from export_service.settings import Settings, load
from export_service.words import MISSING, number, span

if TYPE_CHECKING:
    from aiokafka import TopicPartition

    from streams.lag import Lag

_FIRST_SECONDS = 20.0
"""A broker that nobody has used yet makes its topic of commits when it is first asked for them."""
_COLUMNS = (
    Column("topic"),
    Column("for", 3),
    Column("partition", 0, right=True),
    Column("end", 2, right=True),
    Column("committed", 1, right=True),
    Column("lag", 0, right=True),
    Column("age", 0, right=True),
)


class Row(NamedTuple):
    """A partition, or with None for it a topic. `age` in seconds, of the next record that is not committed; None: not known."""

    topic: str
    role: str
    partition: int | None
    end: int
    committed: int | None
    records: int
    age: float | None


def lag(
    behind: Annotated[bool, typer.Option("--behind", help="Only partitions where something waits.")] = False,
    watch: Watch = False,
    every: Every = 2.0,
    as_json: Json = False,
) -> None:
    """Show what waits before each step: end of each partition, what its group has committed, the lag, and the age of the oldest of it.

    Example: export-service topics lag --behind
    """

    looks = _looks(load(), every, behind=behind)
    asyncio.run(show(looks, view, lambda found: [as_object(found)], watch=watch, as_json=as_json))


async def _looks(settings: Settings, every: float, *, behind: bool) -> AsyncGenerator[list[Row], None]:
    import structlog

    from streams.lag import Lags, groups
    from streams.topics import declare, topics

    names = topics(settings)
    await declare(settings, list(groups(names, ["watch"]).values()), create=False)
    lags = Lags(settings, names, ["watch"], lambda _: None, structlog.get_logger())
    async with aclosing(lags.looks(every)) as looks:
        try:
            async with asyncio.timeout(_FIRST_SECONDS):
                await anext(looks)
        except TimeoutError:
            raise Unavailable("Kafka", "EXPORT_KAFKA_BOOTSTRAP_SERVERS", "no offsets of groups yet") from None
        while True:
            yield [row for row in rows(lags.found, settings.topics.prefix, time.time()) if row.records or not behind]
            await anext(looks)


def rows(found: "Mapping[tuple[str, TopicPartition], Lag]", prefix: str, now: float) -> list[Row]:
    """In flow order, partition by partition."""
    return [
        Row(at.topic.removeprefix(prefix), role, at.partition, each.end, each.committed, each.records, each.seconds(now))
        for (role, at), each in found.items()
    ]


def by_topic(found: Sequence[Row]) -> list[tuple[Row, list[Row]]]:
    """Its sum, with the age of what is oldest, and its partitions."""
    return [(_sum(mine), mine) for _, group in groupby(found, key=lambda row: row.topic) if (mine := list(group))]


def _sum(mine: Sequence[Row]) -> Row:
    age = max((row.age for row in mine if row.age is not None), default=None)
    end, records = sum(row.end for row in mine), sum(row.records for row in mine)
    return mine[0]._replace(partition=None, end=end, committed=None, records=records, age=age)


def as_object(found: Sequence[Row]) -> dict[str, Any]:
    """`committed` is null if nothing is; an age is null if it is not known."""
    listed = [
        {"topic": total.topic, "role": total.role, "records": total.records, "ageSeconds": _rounded(total.age)}
        | {"partitions": [_partition(row) for row in mine]}
        for total, mine in by_topic(found)
    ]
    return {"at": iso_millis(datetime.now(UTC)), "topics": listed}


def _partition(row: Row) -> dict[str, Any]:
    offsets = {"partition": row.partition, "end": row.end, "committed": row.committed}
    return offsets | {"records": row.records, "ageSeconds": _rounded(row.age)}


def _rounded(age: float | None) -> float | None:
    return None if age is None else round(age, 3)


def view(found: Sequence[Row]) -> RenderableType:
    if not found:
        return "Nothing waits."
    return Rows(_COLUMNS, [tuple(_cells(row)) for total, mine in by_topic(found) for row in (total, *mine)])


def _cells(row: Row) -> Iterator[Text]:
    style = "bold" if row.partition is None else "yellow" if row.records else ""
    waits = row.records > 0
    for text in (
        row.topic,
        row.role,
        "all" if row.partition is None else str(row.partition),
        number(row.end),
        MISSING if row.committed is None else number(row.committed),
        number(row.records),
        span(row.age) if waits else "",
    ):
        yield Text(text, style)
