"""A moment as people write it."""

from datetime import UTC, datetime, timedelta

import pytest

from export_service.instants import parse_instant

NOW = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("90m", NOW - timedelta(minutes=90)),
        ("1.5 h ago", NOW - timedelta(minutes=90)),
        ("3d", NOW - timedelta(days=3)),
        ("2025-01-15T11:30:00+01:00", NOW),
        ("2025-01-15T10:30:00Z", NOW),
        ("2025-01-15T10:30:00", NOW),
    ],
)
def test_times(text: str, when: datetime) -> None:
    assert parse_instant(text, NOW) == when


@pytest.mark.parametrize("text", ["yesterday", "", "-2h", "99999999999d", "9" * 400 + "d", "0001-01-01T00:00:00+14:00"])
def test_what_is_no_time_says_so(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no time: write 2025-01-15T10:30:00Z"):
        parse_instant(text, NOW)
