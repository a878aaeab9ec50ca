"""What a check of the surroundings found, in one form for people and programs."""

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """OK; UNKNOWN: could not be tried; WARNING: it works, but not as it should; FAILED: it does not work."""

    OK = "ok"
    UNKNOWN = "unknown"
    WARNING = "warning"
    FAILED = "failed"


class Finding(NamedTuple):
    """`about`: what was checked, in a word or two. `way_out`: what to do; empty if nothing."""

    level: Level
    about: str
    text: str
    way_out: str = ""
