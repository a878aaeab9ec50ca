"""Numbers, sizes and times as people read them: the filters of the templates."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any


def number(value: float | None) -> str:
    """`1,234`; of a rate below ten also one digit after the point."""
    if value is None:
        return "–"
    return f"{value:,.1f}" if isinstance(value, float) and 0 < value < 10 else f"{value:,.0f}"


def size(value: float | None) -> str:
    if value is None:
        return "–"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1000
    raise AssertionError("the last unit returns")


def span(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    for unit, length in (("min", 3600), ("h", 86_400), ("d", float("inf"))):
        if seconds < length:
            return f"{seconds / {'min': 60, 'h': 3600, 'd': 86_400}[unit]:.1f} {unit}"
    raise AssertionError("the last unit returns")


def clock(when: datetime | None) -> str:
    return "–" if when is None else f"{when:%H:%M:%S}"


def day(when: datetime | None) -> str:
    return "–" if when is None else f"{when:%Y-%m-%d %H:%M:%S}"


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
