"""How fast a job moves, as somebody sees who looks at it now and then."""

from collections import deque
from collections.abc import Callable

from export_service.messages import JobSnapshot

_SECONDS = 15.0


class Pace:
    """Of the last 15 seconds. All times are those of one clock, in seconds.

    Attributes: `moved`, when it was first seen as it is now.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, JobSnapshot]] = deque()
        self.moved = 0.0

    def see(self, job: JobSnapshot, now: float) -> None:
        """Call it at each look, also if nothing has changed."""
        known = self._last
        if known is None or (known.attempt, known.version) != (job.attempt, job.version):
            self.moved = now
        if known is not None and ended(job) < ended(known):
            self._seen.clear()  # a later run begins with less than the one before had
        self._seen.append((now, job))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _SECONDS:
            self._seen.popleft()

    @property
    def _last(self) -> JobSnapshot | None:
        return self._seen[-1][1] if self._seen else None

    @property
    def files(self) -> float | None:
        """A second; None: seen only once. Of a job that has ended: over all its time, unless some was done in an earlier attempt."""
        return self._rate(ended)

    @property
    def bytes(self) -> float | None:
        """A second, likewise."""
        return self._rate(lambda job: job.bytes)

    @property
    def left(self) -> float | None:
        """Seconds to its end, if it goes on like that. None: not known."""
        job, files = self._last, self.files
        if job is None or job.status.terminal or job.total_tasks is None or not files:
            return None
        return (job.total_tasks - ended(job)) / files

    def _rate(self, of: Callable[[JobSnapshot], int]) -> float | None:
        job = self._last
        if job is not None and job.status.terminal:
            return of(job) * 1000 / job.duration_ms if job.duration_ms and job.attempt == 1 else None
        if job is None:
            return None
        (begun, first), (now, _) = self._seen[0], self._seen[-1]
        return (of(job) - of(first)) / (now - begun) if now > begun else None


def ended(job: JobSnapshot) -> int:
    """Tasks with an outcome."""
    return job.completed_tasks + job.failed_tasks + job.cancelled_tasks
