"""What was read of one job, and how much had to be read for it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from export_service.failures import ExportError
from export_service.verify.evidence import Bounds, Raw

VERSION = 1
"""Of the records that this service reads."""


@dataclass(frozen=True)
class Reading:
    """Of one topic: `records` and `bytes` (keys and values, uncompressed) that were read, of `total` records; and why these."""

    topic: str
    records: int
    bytes: int
    total: int
    why: str


@dataclass(frozen=True)
class JobRecords:
    """Records of one job, by topic, of each partition in order.

    Attributes:
        bounds: of each partition that was read, before it was.
        cut: why the beginning of its history is not there; None if it is whole.
    """

    job_id: str
    records: Mapping[str, tuple[Raw, ...]]
    bounds: Mapping[tuple[str, int], Bounds] = field(default_factory=dict)
    readings: tuple[Reading, ...] = ()
    cut: str | None = None

    def of(self, topic: str) -> tuple[Raw, ...]:
        return self.records.get(topic, ())

    def committed(self, raw: Raw) -> bool:
        """Whether the topic's reader says that it is done with the record."""
        found = self.bounds.get((raw.topic, raw.partition))
        return found is not None and found.committed is not None and raw.offset < found.committed


def body(raw: Raw) -> dict[str, Any] | None:
    """The record's JSON; None if it is none, as the step that read it found too. Raises ExportError for a version from the future."""
    try:
        found = json.loads(raw.value or b"")
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    if isinstance(version := found.get("v", VERSION), int) and version > VERSION:
        raise ExportError(
            f"{raw.place} has schema version {version}, and this version of export-service reads {VERSION}: use a newer one"
        )
    return found


SLACK_MS = 60_000
"""Clocks of hosts differ: what one says of a time may be on a topic this much earlier."""


def begun(first: Raw) -> int | None:
    """When a job was asked for, ms, if this record of it may be its first; None: there must have been one before it."""
    attempt, asked = subject(body(first) or {}).get("attempt"), asked_at(first)
    return None if attempt not in (None, 1) or asked is None else min(first.timestamp, asked)


def asked_at(raw: Raw) -> int | None:
    """When the job of a record was asked for, ms, if it says so. It may be one that its step could not read."""
    try:
        return round(datetime.fromisoformat(subject(body(raw) or {})["requestedAt"]).timestamp() * 1000)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def surely_first(first: Raw) -> bool:
    """A tally that has lost its tables takes any event of a job for its first, and its snapshots say so."""
    return (asked := begun(first)) is not None and first.timestamp - asked <= SLACK_MS


def subject(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a record of any kind says which job and attempt it is of."""
    for name in ("request", "job", "snapshot"):
        if isinstance(inner := found.get(name), dict):
            found = inner
    return found
