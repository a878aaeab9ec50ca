"""`export-service replay --file`: a recorded history, folded without a broker."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import typer

from export_service.cli.replay_text import differences_text
from export_service.failures import ExportError
from export_service.history.compare import ends_differ, recorded_ends, state_differs
from export_service.history.file import Recorded, read
from export_service.history.records import body
from export_service.settings import Settings, load
from export_service.verify.finding import Difference


def replay_file(path: Path, *, as_json: bool) -> None:
    """Exit code 1 if this version's fold gives another outcome. Raises ExportError."""
    recorded = read(path)
    if recorded.cut is not None:
        raise ExportError(f"{path} is not the whole history, so its outcome cannot be compared: {recorded.cut}")
    ends, differences = asyncio.run(folded(load(), recorded))
    if as_json:
        said = {"jobId": recorded.job_id, "recordedBy": recorded.service, "ends": ends}
        sys.stdout.write(json.dumps(said | {"differences": [each._asdict() for each in differences]}, indent=2) + "\n")
    else:
        sys.stdout.write(f"{recorded.job_id}, recorded by version {recorded.service}\n")
        for end in ends:
            counts = ", ".join(f"{end.get(name, 0):,} {name.removesuffix('Tasks')}" for name in _COUNTS)
            sys.stdout.write(f"  attempt {end['attempt']}: {end['status']}; {counts} of {end.get('totalTasks', '?')}\n")
        sys.stdout.write(differences_text(differences) or "  as it was recorded\n")
    if differences:
        raise typer.Exit(1)


_COUNTS = ("completedTasks", "failedTasks", "cancelledTasks")


async def folded(settings: Settings, recorded: Recorded) -> tuple[list[dict[str, Any]], list[Difference]]:
    """The ends of all attempts as this version sees them, and what of them, and of the table's entry, was recorded otherwise."""
    from agents.refold import Refold
    from streams.topics import topics

    refold = Refold(topics(settings))
    results = recorded.records.get("results", ())
    await refold.all(results)
    rebuilt = frozenset({recorded.job_id} if any((body(raw) or {}).get("type") == "JobRebuilt" for raw in results) else ())
    differences = ends_differ(recorded_ends(recorded.records.get("completions", ())), refold.completions, rebuilt)
    state = refold.state(recorded.job_id)
    # Of a job that ran on, the table was a moment behind.
    if state is not None and state.status.terminal:
        for raw in recorded.records.get("jobs-changelog", ()):
            differences += state_differs(recorded.job_id, raw, state, rebuilt=bool(rebuilt))
    ends = [json.loads(each.snapshot.to_bytes()) for _, each in sorted(refold.completions.items())]
    return ends, differences
