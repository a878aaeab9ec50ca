"""snapshots -> heartbeats, deadlines, and a word about jobs that do not move.

A beat tells Step Functions that the job moves: it is sent only if the job has moved since the last one, at most once per interval. A beat
that is refused because nobody waits any more ends the job, and so does its deadline; both by an event on `results`, where the fold decides.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from export_service import metric_names as names
from export_service.failures import CallbackError, CallbackRefused, Unavailable
from export_service.messages import JobCancelled, JobSnapshot, JobStatus, iso_millis
from export_service.metrics import Metrics
from export_service.ports import Clock, Ledger, Publisher, TaskCallback
from export_service.samples import Sample
from export_service.settings import Watch as WatchSettings

_AGAIN = timedelta(seconds=60)
"""After which the end of a job is asked for once more, if it has not come."""

Explain = Callable[[Collection[str]], Awaitable[Mapping[str, Mapping[str, Any]]]]
"""What else can be told of jobs that do not move, as fields of the log, by job id. May take a while. Raises Unavailable."""


@dataclass(frozen=True)
class _Open:
    """A job that has not ended. `beat_at`: not before; `told_at`: when its being stuck was last said, `ended_at` its end asked for."""

    snapshot: JobSnapshot
    beat_at: datetime
    beaten_at: datetime
    told_at: datetime
    ended_at: datetime | None = None


class Watch:
    """`see` every snapshot, `forget` what went to another worker, `tick` about once a second."""

    def __init__(
        self,
        callback: TaskCallback,
        ledger: Ledger,
        publisher: Publisher,
        clock: Clock,
        settings: WatchSettings,
        metrics: Metrics,
        explain: Explain,
        *,
        results_topic: str,
        log: Any,
    ) -> None:
        self._callback, self._ledger, self._publisher, self._clock = callback, ledger, publisher, clock
        self._settings, self._results, self._metrics, self._log = settings, results_topic, metrics, log
        self._explain = explain
        self._telling: asyncio.Task[None] | None = None
        self._open: dict[str, _Open] = {}
        self._beats = asyncio.Semaphore(settings.concurrency)

    def __len__(self) -> int:
        """Open jobs."""
        return len(self._open)

    def samples(self) -> Iterator[Sample]:
        now, jobs = self._clock.now(), [job.snapshot for job in self._open.values()]
        still = [(now - job.updated_at).total_seconds() for job in jobs]
        for status in (JobStatus.PENDING, JobStatus.RUNNING):
            yield Sample(names.JOBS_OPEN, sum(job.status is status for job in jobs), (status.value,))
        yield Sample(names.JOBS_STUCK, sum(seconds >= self._settings.stuck_seconds for seconds in still))
        yield Sample(names.JOB_STILL_SECONDS, max(0.0, *still) if still else 0.0)

    def see(self, snapshot: JobSnapshot) -> None:
        known = self._open.get(snapshot.job_id)
        if snapshot.status.terminal:
            self._open.pop(snapshot.job_id, None)
        elif known is None or known.snapshot.attempt < snapshot.attempt:
            now, every = self._clock.now(), self._every(snapshot)
            # Not all at once after a start, and the first one well within the interval.
            self._open[snapshot.job_id] = _Open(snapshot, now + every * random.uniform(0.2, 1), now - every, now)
        else:
            self._open[snapshot.job_id] = replace(known, snapshot=snapshot)

    def forget(self) -> None:
        """All: what is still ours will be seen again."""
        self._open.clear()
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None

    async def tick(self) -> None:
        now = self._clock.now()
        await asyncio.gather(*(self._look(job_id, job, now) for job_id, job in list(self._open.items())))
        if self._telling is not None and self._telling.done():
            self._telling.result()  # raises what is a defect
            self._telling = None
        if self._telling is None and (stuck := [job_id for job_id, job in self._open.items() if self._stuck(job, now)]):
            # Beside the beats, which must not wait for it; and of all at once, as an outage may have stopped many.
            self._telling = asyncio.create_task(self._tell(stuck, now))

    async def _look(self, job_id: str, job: _Open, now: datetime) -> None:
        snapshot = job.snapshot
        if snapshot.deadline_at is not None and now >= snapshot.deadline_at:
            if job.ended_at is None or now - job.ended_at >= _AGAIN:
                self._open[job_id] = replace(job, ended_at=now)
                done = snapshot.completed_tasks + snapshot.failed_tasks
                text = (
                    f"not done at {iso_millis(snapshot.deadline_at)}: {done} of {snapshot.total_tasks or 'unknown'} tasks had ended"
                )
                # Of this attempt only: a tally that reads its topic again shows what was, and a later run has a deadline of its own.
                await self._end(JobCancelled(job_id=job_id, attempt=snapshot.attempt, error="ExportDeadlineExceeded", cause=text))
        elif snapshot.has_task_token and now >= job.beat_at and snapshot.updated_at > job.beaten_at:
            self._open[job_id] = job = replace(job, beat_at=now + self._every(snapshot), beaten_at=now)
            await self._beat(job_id, job)

    def _stuck(self, job: _Open, now: datetime) -> bool:
        return now - max(job.snapshot.updated_at, job.told_at) >= timedelta(seconds=self._settings.stuck_seconds)

    async def _tell(self, stuck: list[str], now: datetime) -> None:
        try:
            more = await self._explain(stuck)
        except Unavailable as error:
            more = {job_id: {"missingTasks": f"not known: {error}"} for job_id in stuck}
        for job_id in stuck:
            if (job := self._open.get(job_id)) is None or not self._stuck(job, now):
                continue  # it has ended or moved meanwhile
            self._open[job_id] = replace(job, told_at=now)
            moved = iso_millis(job.snapshot.updated_at)
            self._log.warning(
                "Export job does not move", jobId=job_id, status=job.snapshot.status.value, lastMoved=moved, **more[job_id]
            )

    async def _beat(self, job_id: str, job: _Open) -> None:
        attempt = job.snapshot.attempt
        try:
            async with self._beats:
                known = await self._ledger.attempt(job_id, attempt)
                if known is None or known.token is None or known.answer is not None:
                    return
                await self._callback.heartbeat(known.token)
                self._metrics.heartbeats.labels("sent").inc()
        except CallbackRefused as error:
            self._metrics.heartbeats.labels("refused").inc()
            self._log.warning("Nobody waits for this job any more", jobId=job_id, attempt=attempt, error=error.code)
            if error.code != "InvalidToken":
                cause = f"Step Functions does not wait for it any more: {error.code}"
                await self._end(JobCancelled(job_id=job_id, attempt=attempt, cause=cause))
        except (CallbackError, Unavailable) as error:
            self._metrics.heartbeats.labels("failed").inc()
            # The next one may get through; a missed one is what HeartbeatSeconds leaves room for.
            self._log.warning("Heartbeat not sent", jobId=job_id, error=str(error))
            if (current := self._open.get(job_id)) is not None:
                soon = self._clock.now() + self._every(job.snapshot) / 4
                self._open[job_id] = replace(current, beat_at=soon, beaten_at=job.snapshot.updated_at - timedelta(milliseconds=1))

    async def _end(self, event: JobCancelled) -> None:
        await (await self._publisher.send(self._results, event.job_id.encode(), event.to_bytes()))

    def _every(self, snapshot: JobSnapshot) -> timedelta:
        """A third of what the state waits: two beats may be lost."""
        return timedelta(seconds=snapshot.heartbeat_seconds / 3 if snapshot.heartbeat_seconds else self._settings.heartbeat_seconds)
