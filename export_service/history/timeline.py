"""When what happened to a job, and how long each stage of its newest run took.

Times are those of the records, which the clocks of different hosts have given.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from export_service.history.moves import Moved, opened
from export_service.history.records import JobRecords, body, subject
from export_service.messages import (
    AttemptOpened,
    JobAccepted,
    JobCancelled,
    JobPlanned,
    Outcome,
    PlanFailed,
    TaskResults,
    from_millis,
    iso_millis,
)
from export_service.verify.evidence import Raw

_ERRORS = 5
"""Kinds of failure whose first is named."""


class Happened(NamedTuple):
    at: datetime
    what: str
    place: str

    def as_json(self) -> dict[str, str]:
        return {"at": iso_millis(self.at), "what": self.what, "place": self.place}


class Stage(NamedTuple):
    """`end` None: under way."""

    name: str
    begin: datetime
    end: datetime | None

    def as_json(self, now: datetime) -> dict[str, Any]:
        ended = {"to": iso_millis(self.end)} if self.end else {}
        return {"stage": self.name, "from": iso_millis(self.begin), **ended, "ms": self.millis(now)}

    def millis(self, now: datetime) -> int:
        return round(((self.end or now) - self.begin).total_seconds() * 1000)


def timeline(job: JobRecords, moves: Sequence[Moved]) -> list[Happened]:
    found = [*_requests(job.of("requests")), *_events(moves), *_rebuilt(job.of("results")), *_outputs(job)]
    return sorted(found, key=lambda each: each.at)


def _requests(records: Iterable[Raw]) -> Iterator[Happened]:
    for raw, found in _bodies(records):
        source = next((name for name in ("manifest", "prefix", "files") if found.get(name)), "no list")
        yield _at(raw, f"request of attempt {_attempt(found)} is on Kafka ({source})")


def _events(moves: Sequence[Moved]) -> Iterator[Happened]:
    begun: set[int] = set()
    results: set[int] = set()
    errors: set[str] = set()
    for moved in moves:
        raw, event, before, after = moved
        match event:
            case JobAccepted():
                again = "again, on another worker" if event.job.attempt in begun else ""
                begun.add(event.job.attempt)
                yield _at(raw, f"plan of attempt {event.job.attempt} began {again}".rstrip())
            case JobPlanned():
                known = "" if before is None or before.total is None else ", and the plan before it stands"
                yield _at(raw, f"list is read: {event.total_tasks:,} files{known}")
            case PlanFailed():
                yield _at(raw, f"plan failed: {event.cause}")
            case AttemptOpened():
                yield _at(raw, f"attempt {event.job.attempt} {opened(moved)}")
            case JobCancelled():
                ignored = "" if moved.ended else " (changes nothing)"
                yield _at(raw, f"asked to end as {event.error}{ignored}: {event.cause}")
            case _ if isinstance(event, TaskResults) and after.offset == raw.offset:
                if event.attempt not in results:
                    results.add(event.attempt)
                    yield _at(raw, f"first file of attempt {event.attempt} ended")
                for result in event.results:
                    error = result.error or "Failed"
                    if result.outcome is Outcome.FAILED and error not in errors and len(errors) < _ERRORS:
                        errors.add(error)
                        yield _at(raw, f"first {error}: task {result.index}, {result.name}")
        if moved.ended:
            yield _at(raw, f"attempt {after.attempt} ended: {after.status}")


def _rebuilt(records: Iterable[Raw]) -> Iterator[Happened]:
    for raw, found in _bodies(records):
        if found.get("type") == "JobRebuilt":
            yield _at(raw, f"table entries rebuilt from this topic, by replay {found.get('run')}")


def _outputs(job: JobRecords) -> Iterator[Happened]:
    for raw, found in _bodies(job.of("completions")):
        yield _at(raw, f"completion of attempt {_attempt(found)} is on Kafka")
    for raw, found in _bodies(job.of("cancellations")):
        yield _at(raw, f"downloads of attempt {_attempt(found)} are told to stop")
    for raw, found in _bodies(job.of("callbacks")):
        error = f" ({found['error']})" if found.get("error") else ""
        tries = f", {found['tries']} tries" if found.get("tries", 0) > 1 else ""
        yield _at(raw, f"attempt {_attempt(found)} answered with {found.get('call')}: {found.get('outcome')}{error}{tries}")


def stages(job: JobRecords, moves: Sequence[Moved]) -> list[Stage]:
    """Of the newest run."""
    if not moves or (run := moves[-1].after.run) is None:
        return []
    mine = [moved for moved in moves if moved.after.run == run]
    info = moves[-1].after.job
    asked = info.requested_at if info else None
    request = _first(_time(raw) for raw, found in _bodies(job.of("requests")) if _attempt(found) == run)
    accepted = _first(_when(moved) for moved in mine if isinstance(moved.event, JobAccepted))
    planned = _first(_when(moved) for moved in mine if isinstance(moved.event, JobPlanned | PlanFailed))
    results = [_when(moved) for moved in mine if isinstance(moved.event, TaskResults) and moved.after.offset == moved.raw.offset]
    ended = next((_when(moved) for moved in mine if moved.ended), None)
    attempt = moves[-1].after.attempt
    completed = _first(_time(raw) for raw, found in _bodies(job.of("completions")) if _attempt(found) == attempt)
    answered = _first(_time(raw) for raw, found in _bodies(job.of("callbacks")) if _attempt(found) == attempt)
    waits = info is not None and info.has_task_token
    steps = [
        ("connector takes the message", asked, request, True),
        ("waits for a plan worker", request, accepted, True),
        ("list of files is read", accepted, planned, True),
        ("until the first file ends", accepted, results[0] if results else None, ended is None),
        ("files, first to last", results[0] if results else None, results[-1] if ended and results else None, ended is None),
        ("tally says that it ended", ended, completed, True),
        ("report and answer", completed, answered, waits),
    ]
    return [Stage(name, begin, end) for name, begin, end, open_ in steps if begin is not None and (end is not None or open_)]


def _first(times: Iterable[datetime]) -> datetime | None:
    return min(times, default=None)


def _bodies(records: Iterable[Raw]) -> Iterator[tuple[Raw, Mapping[str, Any]]]:
    return ((raw, found) for raw in records if (found := body(raw)) is not None)


def _attempt(found: Mapping[str, Any]) -> int:
    return int(subject(found).get("attempt") or 1)


def _time(raw: Raw) -> datetime:
    return from_millis(raw.timestamp)


def _when(moved: Moved) -> datetime:
    return _time(moved.raw)


def _at(raw: Raw, what: str) -> Happened:
    return Happened(_time(raw), what, raw.place)
