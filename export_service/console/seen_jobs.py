"""Jobs as their newest snapshots say, kept in memory, so that a page of them costs no request to anybody."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from export_service.messages import JobSnapshot
from export_service.status_groups import GROUPS

PAGE = 50


class Wanted(NamedTuple):
    """`text`: the beginning of a job's id, or a part of its export's. Empty: any. `status` is of GROUPS."""

    text: str = ""
    user: str = ""
    status: str = ""

    def takes(self, job: JobSnapshot) -> bool:
        return (
            (not self.user or job.user_id == self.user)
            and (not self.status or job.status in GROUPS.get(self.status, ()))
            and (not self.text or job.job_id.startswith(self.text) or self.text in (job.export_id or ""))
        )


class Page(NamedTuple):
    """`number` begins at 1; `total` jobs are on all pages together."""

    rows: Sequence[JobSnapshot]
    number: int
    total: int

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // PAGE))


class SeenJobs:
    """The newest snapshot of each job. Of those that have ended only `most`, those that moved last.

    Attributes:
        files, bytes: that ended since `live` was set: what moved before anybody looked has no rate.
        changes: goes up with each snapshot that said something new.
    """

    def __init__(self, most: int) -> None:
        self._most, self._jobs = most, dict[str, JobSnapshot]()
        self._newest: list[JobSnapshot] | None = None
        self._moved: dict[str, float] = {}
        self.live = False
        self.files = self.bytes = self.changes = self.dropped = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, job_id: str) -> JobSnapshot | None:
        return self._jobs.get(job_id)

    def moved_at(self, job_id: str) -> float:
        """When it was seen to, as time.monotonic() says; 0: it never was."""
        return self._moved.get(job_id, 0.0)

    def see(self, new: JobSnapshot, *, moved: bool = True) -> None:
        """`moved` False: it was looked up, and is of any time."""
        known = self._jobs.get(new.job_id)
        if known is not None and (known.attempt, known.version) >= (new.attempt, new.version):
            return
        if self.live and moved:
            # A later run begins with less than the one before had: that is no work undone.
            self.files += max(0, _ended(new) - (_ended(known) if known else 0))
            self.bytes += max(0, new.bytes - (known.bytes if known else 0))
        self._jobs[new.job_id] = new
        self._moved[new.job_id] = time.monotonic()
        self.changes += 1
        self._newest = None
        if len(self._jobs) > self._most * 1.1:
            self._drop()

    def _drop(self) -> None:
        ended = sorted((job for job in self._jobs.values() if job.status.terminal), key=lambda job: job.updated_at)
        for job in ended[: max(0, len(self._jobs) - self._most)]:
            del self._jobs[job.job_id], self._moved[job.job_id]
            self.dropped += 1

    def newest(self) -> list[JobSnapshot]:
        """Those that moved last come first."""
        if self._newest is None:
            self._newest = sorted(self._jobs.values(), key=lambda job: job.updated_at, reverse=True)
        return self._newest

    def page(self, wanted: Wanted, number: int) -> Page:
        found = self.newest() if wanted == Wanted() else [job for job in self.newest() if wanted.takes(job)]
        number = min(max(1, number), max(1, -(-len(found) // PAGE)))
        return Page(found[(number - 1) * PAGE : number * PAGE], number, len(found))

    def open(self) -> Iterator[JobSnapshot]:
        return (job for job in self._jobs.values() if not job.status.terminal)

    def by_status(self) -> Counter[str]:
        return Counter(job.status.value for job in self._jobs.values())


def _ended(job: JobSnapshot) -> int:
    return job.completed_tasks + job.failed_tasks + job.cancelled_tasks
