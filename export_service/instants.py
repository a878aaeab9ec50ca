"""A moment as people write it."""

import re
from datetime import UTC, datetime, timedelta

EVER = datetime(1970, 1, 1, tzinfo=UTC)
_AGO = re.compile(r"^(\d+(?:\.\d+)?)\s*(s|min|m|h|d)(?: ago)?$")
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


def parse_instant(text: str, now: datetime) -> datetime:
    """`2025-01-15T10:30:00Z` (UTC, if it does not say), or `90m`, `2 h ago`. Raises ValueError with a sentence."""
    try:
        if found := _AGO.match(text.strip()):
            return now - timedelta(seconds=float(found[1]) * _UNITS[found[2]])
        when = datetime.fromisoformat(text.strip())
        return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time: write 2025-01-15T10:30:00Z, or 90s, 15m, 2h, 3d for so long ago") from None
