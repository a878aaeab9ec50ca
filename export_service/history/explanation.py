"""A job at any instant, from its records alone: where it stands, how it came there, what is missing and why, and what to do next."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from export_service import snapshots
from export_service.failures import ExportError
from export_service.history.missing_tasks import LOST, NOT_HANDED_OUT, Gap, gaps
from export_service.history.moves import Counted, Moved, counted, ignored
from export_service.history.records import JobRecords, body
from export_service.history.timeline import Happened, Stage, stages, timeline
from export_service.jobs import JobState
from export_service.messages import CallbackOutcome, JobStatus, Outcome, TaskResults, from_millis, iso_millis
from export_service.shards import ReadShard


@dataclass(frozen=True)
class Failed:
    """Tasks that count as failed, by error; `first` is an example, with the record that says so."""

    error: str
    number: int
    first: str
    place: str


@dataclass(frozen=True)
class Explanation:
    job: JobRecords
    at: datetime
    state: JobState | None
    """None: accepted, and no event yet."""
    timeline: list[Happened]
    counts: list[Counted]
    ignored: Mapping[str, int]
    stages: list[Stage]
    gaps: list[Gap]
    failed: list[Failed]
    next: tuple[str, str]
    """A command, and why."""
    kept: timedelta | None = None
    """How long `results` keeps a record; None: for ever, or not known."""

    @property
    def kept_until(self) -> datetime | None:
        """When retention may remove the first of its events."""
        first = next(iter(self.job.of("results")), None)
        return from_millis(first.timestamp) + self.kept if first is not None and self.kept is not None else None

    def as_json(self) -> dict[str, Any]:
        state = snapshots.of(self.job.job_id, self.state) if self.state else None
        return {
            "jobId": self.job.job_id,
            "at": iso_millis(self.at),
            "state": state.model_dump(mode="json", exclude={"v", "type"}, exclude_none=True) if state else None,
            "runs": [run._asdict() for run in self.state.runs] if self.state else [],
            "timeline": [each.as_json() for each in self.timeline],
            "counts": [each.as_json() for each in self.counts],
            "ignored": dict(self.ignored),
            "stages": [each.as_json(self.at) for each in self.stages],
            "missing": [{"kind": each.kind, "number": each.number, "tasks": each.tasks, "why": each.why} for each in self.gaps],
            "failed": [
                {"error": each.error, "number": each.number, "first": each.first, "place": each.place} for each in self.failed
            ],
            "next": {"command": self.next[0], "why": self.next[1]},
            "cut": self.job.cut,
            "keptUntil": iso_millis(self.kept_until) if self.kept_until else None,
            "read": [vars(each) for each in self.job.readings],
        }


def until(job: JobRecords, at: datetime) -> JobRecords:
    """The records that were there at that time."""
    millis = at.timestamp() * 1000
    kept = {topic: tuple(raw for raw in records if raw.timestamp <= millis) for topic, records in job.records.items()}
    return JobRecords(job.job_id, kept, job.bounds, job.readings, job.cut)


def explain(job: JobRecords, moves: list[Moved], shard: ReadShard, at: datetime, *, now: bool) -> Explanation:
    """`job` and `moves` are as they were at `at`; `now`: that is this moment. Raises ExportError: no record is of the job."""
    if not (job.of("requests") or job.of("results")):
        raise ExportError(_unknown(job, at, now=now))
    state = moves[-1].after if moves else None
    found = gaps(job, state, shard, now=now) if state else []
    return Explanation(
        job,
        at,
        state,
        timeline(job, moves),
        counted(moves),
        ignored(moves),
        stages(job, moves),
        found,
        failures(moves),
        _next(job, state, found, now=now),
    )


def _unknown(job: JobRecords, at: datetime, *, now: bool) -> str:
    if not now:
        return f"job {job.job_id} has no record of {iso_millis(at)} or before"
    more = f"; {job.cut}" if job.cut else ""
    return f"job {job.job_id} is on no topic (EXPORT_TOPICS_PREFIX): it was not accepted, or retention has removed it{more}"


class Failures:
    """Of a job's newest run, told one record after the other. A task that failed and succeeded later is none."""

    def __init__(self) -> None:
        self._run: int | None = None
        self._last: dict[int, tuple[str, str, str]] = {}

    def add(self, moved: Moved) -> None:
        if moved.after.run != self._run:
            self._run, self._last = moved.after.run, {}
        if not isinstance(moved.event, TaskResults) or moved.after.offset != moved.raw.offset:
            return
        for result in moved.event.results:
            if result.outcome is Outcome.SUCCEEDED:
                self._last[result.index] = ("", "", "")
            elif result.outcome is Outcome.FAILED and self._last.get(result.index, ("?",))[0]:
                said = f"task {result.index}, {result.name}: {result.message or 'no message'}"
                self._last.setdefault(result.index, (result.error or "Failed", said, moved.raw.place))

    def by_error(self) -> list[Failed]:
        """Most frequent first."""
        found: dict[str, Failed] = {}
        for error, said, place in self._last.values():
            if error:
                known = found.get(error, Failed(error, 0, said, place))
                found[error] = Failed(error, known.number + 1, known.first, known.place)
        return sorted(found.values(), key=lambda each: -each.number)


def failures(moves: Iterable[Moved]) -> list[Failed]:
    found = Failures()
    for moved in moves:
        found.add(moved)
    return found.by_error()


def _next(job: JobRecords, state: JobState | None, found: list[Gap], *, now: bool) -> tuple[str, str]:
    mine = shlex.quote(job.job_id)
    if not now:
        return f"export-service explain {mine}", "this was then; without --at it is now"
    if state is None or (state.total is None and not state.status.terminal):
        request = job.of("requests")[-1:]
        if state is None and request and not job.committed(request[0]):
            return "export-service worker --role plan", f"no plan worker has taken {request[0].place} yet: see that one runs"
        return f"export-service explain {mine}", "its list of files is being read; look again, and at the log of the plan workers"
    if not state.status.terminal:
        if any(gap.kind == LOST for gap in found):
            return f"export-service verify {mine}", "tasks are committed without an outcome: this says which promise was broken"
        if all(gap.kind == NOT_HANDED_OUT for gap in found):
            return "export-service worker --role download", "tasks wait to be handed out: see that download workers run"
        return f"export-service explain {mine}", "it is under way; look again"
    if (unanswered := _unanswered(job, state)) is not None:
        return unanswered
    if state.status is JobStatus.COMPLETED:
        return f"export-service verify {mine}", "nothing to do; this compares it with tables, files and answer"
    return f"export-service redrive {mine}", "runs again what has not succeeded"


def _unanswered(job: JobRecords, state: JobState) -> tuple[str, str] | None:
    if state.job is None or not state.job.has_task_token:
        return None
    answers = [found for raw in job.of("callbacks") if (found := body(raw)) and found.get("attempt") == state.attempt]
    if any(answer.get("outcome") != CallbackOutcome.ORPHANED for answer in answers):
        return None
    if answers:
        return f"export-service redrive {job.job_id}", f"nobody waited any more when it was answered ({answers[-1].get('error')})"
    waiting = [raw for raw in job.of("completions") if not job.committed(raw)]
    if waiting:
        return "export-service worker --role callback", f"its answer waits at {waiting[-1].place}: see that a callback worker runs"
    return (
        f"export-service replay {job.job_id} --mode re-emit --dry-run",
        "it has ended, and no answer to its token is on callbacks",
    )
