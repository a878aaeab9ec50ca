"""The filters of the templates."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from export_service.words import MISSING, number, size, span


def clock(when: datetime | None) -> str:
    return MISSING if when is None else f"{when:%H:%M:%S}"


def day(when: datetime | None) -> str:
    return MISSING if when is None else f"{when:%Y-%m-%d %H:%M:%S}"


def status(value: str | None) -> str:
    """`Completed with failures`."""
    return (value or "accepted").replace("_", " ").capitalize()


FILTERS: Mapping[str, Callable[[Any], str]] = {
    "number": number,
    "size": size,
    "span": span,
    "clock": clock,
    "day": day,
    "status": status,
}
