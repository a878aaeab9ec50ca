"""What the failed tasks of a job that moves have failed with: its events on results, folded up to what a snapshot counts."""

from contextlib import AsyncExitStack, aclosing

from agents.refold import Refold
from export_service.failures import ExportError
from export_service.history.explanation import Failed, Failures
from export_service.messages import JobSnapshot
from export_service.settings import Settings
from streams.reading import partition_of
from streams.topic_ranges import SMALL_FETCH, Span, TopicRanges
from streams.topics import topics


class JobFailures:
    """Asks Kafka for nothing until a task has failed. `close` it at the end."""

    def __init__(self, settings: Settings, job_id: str) -> None:
        self._settings, self._job = settings, job_id.encode()
        self._partition = partition_of(settings, job_id)
        self._open = AsyncExitStack()
        self._ranges: TopicRanges | None = None
        self._refold, self._failures = Refold(topics(settings)), Failures()
        self._next = 0

    async def of(self, job: JobSnapshot) -> list[Failed]:
        """Most frequent first. Together fewer than the snapshot says where retention has removed some.

        Raises Unavailable; SettingsError, ExportError: these are not the topics of this job."""
        if not job.failed_tasks:
            return []
        if self._ranges is None:
            self._ranges = await self._open.enter_async_context(TopicRanges(self._settings, SMALL_FETCH))
            here = (await self._ranges.bounds(["results"]))["results", self._partition]
            if job.version > here.end:
                raise ExportError(f"results:{self._partition} ends at {here.end}, before the job does; check EXPORT_TOPICS_PREFIX")
            self._next = max(job.first_offset or 0, here.begin)
        span = Span("results", self._partition, self._next, max(self._next, job.version))
        async with aclosing(self._ranges.read([span], lambda key: key == self._job)) as records:
            async for raw in records:
                if (moved := await self._refold.apply(raw)) is not None:
                    self._failures.add(moved)
        self._next = span.end
        return self._failures.by_error()

    async def close(self) -> None:
        await self._open.aclose()
