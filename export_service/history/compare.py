"""What was recorded of a job's ends, against what folding its events again gives."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from export_service.history.records import body, subject
from export_service.jobs import JobState
from export_service.messages import JobCompleted
from export_service.verify.evidence import Raw
from export_service.verify.finding import Difference

_OF_REBUILDING = ("version", "offset")
"""Of a job whose tables were rebuilt these are of the record that did it."""
_ADDED = ("firstOffset", "origin")
"""Fields that records of earlier versions do not have."""
_NOT_OF_EVENTS = ("snapshotAt",)
"""How often somebody wanted a snapshot."""


def recorded_ends(completions: Iterable[Raw]) -> dict[tuple[str, int], tuple[Mapping[str, Any], str]]:
    """(job, attempt) -> the first completion of it, and where that is. Repeats say the same."""
    found: dict[tuple[str, int], tuple[Mapping[str, Any], str]] = {}
    for raw in completions:
        if (completed := body(raw)) is not None:
            said = subject(completed)
            if isinstance(attempt := said.get("attempt", 1), int):
                found.setdefault((str(said.get("jobId")), attempt), (completed, raw.place))
    return found


def ends_differ(
    recorded: Mapping[tuple[str, int], tuple[Mapping[str, Any], str]],
    folded: Mapping[tuple[str, int], JobCompleted],
    rebuilt: frozenset[str] = frozenset(),
) -> list[Difference]:
    """`rebuilt`: jobs whose tables were."""
    found: list[Difference] = []
    for key in sorted({*recorded, *folded}):
        job, attempt = key
        if key not in folded:
            completed, place = recorded[key]
            found.append(Difference(job, place, f"end of attempt {attempt}", subject(completed).get("status"), None))
        elif key not in recorded:
            status = folded[key].snapshot.status.value
            found.append(Difference(job, "completions", f"end of attempt {attempt}", None, status))
        else:
            completed, place = recorded[key]
            fold = json.loads(folded[key].to_bytes())
            ignore = _OF_REBUILDING if job in rebuilt else ()
            found += differing(job, place, _flat(completed), _flat(fold), ignore)
    return found


def state_differs(job: str, raw: Raw, state: JobState | None, *, rebuilt: bool) -> list[Difference]:
    """The last value of the table's changelog, against the state that was folded."""
    if raw.value is None:
        return []  # removed
    fold = json.loads(state.to_bytes()) if state else {}
    return differing(job, raw.place, body(raw) or {}, fold, (*_NOT_OF_EVENTS, *(_OF_REBUILDING if rebuilt else ())))


def differing(
    job: str, where: str, recorded: Mapping[str, Any], fold: Mapping[str, Any], ignore: Iterable[str] = ()
) -> list[Difference]:
    names = {**recorded, **{name: None for name in fold if name not in _ADDED}}.keys() - set(ignore)
    return [
        Difference(job, where, name, recorded.get(name), fold.get(name))
        for name in sorted(names)
        if recorded.get(name) != fold.get(name)
    ]


def _flat(completed: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in completed.items() if name != "snapshot"}, **completed.get("snapshot", {})}
