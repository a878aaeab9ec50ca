"""A job that has failed, run again by hand: what would run, why it failed, and the request of the new attempt.

The fold does the rest, as for a Retry of Step Functions (jobs.py): what has succeeded is kept, all else is planned again.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from export_service import names
from export_service.failures import ExportError
from export_service.jobs import JobState, all_numbers
from export_service.manifests import Entry
from export_service.messages import ExportRequested, FileSpec, JobStatus, ManifestRef, Outcome, TaskResults, iso_millis
from export_service.sealing import seal, without_query
from export_service.shards import SHARD_TASKS, ReadShard


class Failure(NamedTuple):
    """Of some tasks: error class, and `host` or `host:port` of their source."""

    error: str
    host: str


@dataclass
class FailedJob:
    """A job as the tally has it; None: it has none of this id. `request` is its last one, None if retention has removed it.

    Attributes:
        failed: index -> why, of the tasks that count as failed; less than there are where retention has removed their outcomes.
        tasks: that have failed; `cancelled` were never tried, or were broken off.
    """

    job_id: str
    state: JobState | None
    request: ExportRequested | None = None
    failed: dict[int, Failure] = field(default_factory=dict)
    bits: Mapping[int, int] = field(default_factory=dict)
    """Shard number -> bitmap of the tasks that count as failed."""
    asked: Sequence[tuple[int, datetime]] = ()
    """Attempts that the ledger has, and when each was received."""

    @property
    def tasks(self) -> int:
        return self.state.failed if self.state else 0

    @property
    def cancelled(self) -> int:
        return self.state.cancelled if self.state else 0

    @property
    def from_nothing(self) -> bool:
        """There is no list of files that outcomes could be matched with."""
        return self.state is not None and (self.state.total is None or self.state.error == "ExportPlanFailed")

    def see(self, event: TaskResults) -> None:
        """An event of the job on `results`, in order."""
        assert self.state is not None
        if event.attempt < self.state.run:
            return  # those were tried again
        for result in event.results:
            if result.outcome is Outcome.FAILED and self.bits.get(result.index // SHARD_TASKS, 0) >> result.index % SHARD_TASKS & 1:
                self.failed[result.index] = Failure(result.error or "unknown", urlsplit(result.url).netloc)

    def why(self) -> Counter[Failure]:
        counted = Counter(self.failed.values())
        if rest := self.tasks - len(self.failed):
            counted[Failure("unknown", "retention has removed their outcomes")] += rest
        return counted

    def refusal(self) -> str | None:
        """Why it cannot be run again now."""
        state = self.state
        if state is None or state.job is None:
            return f"job {self.job_id} is not known to the tally; it may not have started yet"
        if not state.status.terminal:
            return f"job {self.job_id} still runs ({state.status.value}); wait for its end, or cancel it first"
        if state.status is JobStatus.COMPLETED:
            tolerated = f"; the {state.failed} failures were tolerated" if state.failed else ""
            return f"job {self.job_id} has succeeded, so nothing has to run again{tolerated}"
        if self.request is None:
            return f"job {self.job_id}: retention has removed its request; send its files as a new job, with a jobId of its own"
        if not self.asked:
            return f"job {self.job_id} is not in the ledger any more (EXPORT_TABLE_NAME); send its files as a new job"
        number, at = self.asked[-1]
        # Not one of before its end: that asked while the job ran, without a token, and changed nothing.
        if number > state.attempt and at > state.updated_at:
            return f"job {self.job_id} was asked for again at {iso_millis(at)}, as attempt {number}, which is about to begin"
        return None

    def has(self, error: str | None, host: str | None) -> bool:
        """Whether one of its failures is of this class and host; its own error counts as a class."""
        if host is None and error is not None and self.state is not None and self.state.error == error:
            return True
        return (error is None and host is None) or any(
            error in (None, each.error) and host in (None, each.host, each.host.partition(":")[0]) for each in self.failed.values()
        )

    def as_object(self) -> dict[str, Any]:
        assert self.state is not None
        return {
            "jobId": self.job_id,
            "status": self.state.status.value,
            "error": self.state.error,
            "totalTasks": self.state.total,
            "run": None if self.from_nothing else self.tasks + self.cancelled,
            "failed": [{"error": why.error, "host": why.host, "tasks": count} for why, count in self.why().most_common()],
            "cancelled": self.cancelled,
        }

    def as_text(self) -> str:
        assert self.state is not None
        run = (
            "all of it runs, as its list was not read"
            if self.from_nothing
            else f"{self.tasks + self.cancelled} of {self.state.total} run"
        )
        lines = [f"job {self.job_id}  {self.state.status.value}  {run}"]
        lines += [f"    {count:>8}  {why.error}  {why.host}" for why, count in self.why().most_common()]
        lines += [f"    {self.cancelled:>8}  cancelled"] if self.cancelled else []
        return "\n".join(lines) + "\n"


def failed_job(
    job_id: str,
    state: JobState | None,
    request: ExportRequested | None,
    shard: ReadShard,
    asked: Sequence[tuple[int, datetime]],
) -> FailedJob:
    bits = {number: shard(state.run, number).failed for number in all_numbers(state)} if state else {}
    return FailedJob(job_id, state, request, bits=bits, asked=asked)


@dataclass(frozen=True)
class Changes:
    """What the new attempt has of its own; None: as before. `manifest` is a URL, `files` a whole list, or some of a job's own."""

    manifest: str | None = field(default=None, repr=False)
    files: Sequence[Entry] | None = field(default=None, repr=False)
    tolerated_failures: int | None = None
    deadline_seconds: int | None = None


def again(request: ExportRequested, attempt: int, now: datetime, key: bytes | None, changes: Changes) -> ExportRequested:
    """The request of an attempt that nobody waits for. Raises ExportError: the files that are given cannot be its own.

    Args:
        key: seals URL queries.
    """
    limits = {"tolerated_failures": changes.tolerated_failures, "deadline_seconds": changes.deadline_seconds}
    fields = {"attempt": attempt, "requested_at": now, "has_task_token": False}
    job = request.job.model_copy(update=fields | {name: value for name, value in limits.items() if value is not None})
    # `done` and `plan_digest` are the tally's to say.
    new = request.model_copy(update={"job": job, "done": None, "plan_digest": None, "message_id": None})
    if changes.manifest is not None:
        url, query = _sealed(names.check_url(changes.manifest), key)
        form = "csv" if url.endswith(".csv") else "jsonl"
        manifest = ManifestRef(url=url, query=query, format=form)
        return new.model_copy(update={"manifest": manifest, "files": None, "prefix": None})
    if changes.files is not None:
        return new.model_copy(update={"files": _files(request, changes.files, key), "manifest": None, "prefix": None})
    return new


def _files(request: ExportRequested, given: Sequence[Entry], key: bytes | None) -> tuple[FileSpec, ...]:
    found: dict[str, FileSpec] = {}
    for number, entry in enumerate(given):
        try:
            name = names.check_name(entry.name if entry.name is not None else names.derive_name(entry.url))
            url, query = _sealed(names.check_url(entry.url), key)
        except ValueError as error:
            raise ExportError(f"--manifest, entry {number}: {without_query(entry.url)}: {error}") from None
        found[name] = FileSpec(url=url, query=query, name=name, size=entry.size, sha256=entry.sha256)
    if request.files is None:
        return tuple(found.values())
    if strangers := found.keys() - {file.name for file in request.files}:
        raise ExportError(f"--manifest: {min(strangers)!r} is no file of job {request.job.job_id}; files keep their names and URLs")
    return tuple(found.get(file.name, file) for file in request.files)


def _sealed(url: str, key: bytes | None) -> tuple[str, str | None]:
    if key is None and without_query(url) != url:
        raise ExportError("--manifest: has a URL with a query, and the job has no key in the ledger to keep it secret")
    return seal(url, key) if key else (url, None)
