"""Moments as people write them on a command line."""

import re
from datetime import UTC, datetime, timedelta

_AGO = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_time(text: str, now: datetime) -> datetime:
    """`90m`, `2h`, `3d` (so long ago), or ISO-8601 with a time zone. Raises ValueError, a sentence."""
    if found := _AGO.fullmatch(text.strip()):
        try:
            return now - timedelta(**{_UNITS[found[2]]: int(found[1])})
        except OverflowError:
            raise ValueError(f"{text!r} is longer ago than time goes; give a date") from None
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is no time; give 90m, 2h or 3d for so long ago, or 2025-01-15T10:30:00Z") from None
    if when.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; add Z for UTC, or an offset such as +02:00")
    return when.astimezone(UTC)
