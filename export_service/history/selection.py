"""Which jobs a replay is about."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from export_service.jobs import JobState
from export_service.messages import iso_millis

_OFFSETS = re.compile(r"^(\d+):(\d+)-(\d+)$")


@dataclass(frozen=True)
class Selection:
    """All that is given must hold. A job is selected whole: the range says which jobs have an event in it.

    Attributes:
        offsets: partition of `results` -> (first, last), both included.
    """

    jobs: tuple[str, ...] = ()
    user: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    offsets: tuple[tuple[int, int, int], ...] = ()
    status: str | None = None

    @property
    def by_range(self) -> bool:
        return bool(self.since or self.until or self.offsets)

    def takes(self, state: JobState) -> bool:
        """As far as the job's state says."""
        if self.status is not None and state.status != self.status:
            return False
        return self.user is None or (state.job is not None and state.job.user_id == self.user)

    def as_json(self) -> dict[str, Any]:
        given: dict[str, Any] = {
            "jobs": list(self.jobs),
            "user": self.user,
            "since": iso_millis(self.since) if self.since else None,
            "until": iso_millis(self.until) if self.until else None,
            "offsets": [f"{partition}:{first}-{last}" for partition, first, last in self.offsets],
            "status": self.status,
        }
        return {name: value for name, value in given.items() if value}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> "Selection":
        return cls(
            tuple(given.get("jobs", ())),
            given.get("user"),
            datetime.fromisoformat(given["since"]) if "since" in given else None,
            datetime.fromisoformat(given["until"]) if "until" in given else None,
            tuple(map(parse_offsets, given.get("offsets", ()))),
            given.get("status"),
        )


def parse_offsets(text: str) -> tuple[int, int, int]:
    """`0:100-200` is (partition, first, last). Raises ValueError with a sentence."""
    if (found := _OFFSETS.match(text)) is None or int(found[2]) > int(found[3]):
        raise ValueError(f"{text!r} is no range: write PARTITION:FIRST-LAST, such as 0:100-200")
    return int(found[1]), int(found[2]), int(found[3])
