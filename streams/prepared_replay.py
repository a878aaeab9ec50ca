"""A replay that is planned and can be sent: what the command line and the console show before they ask."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from connectors.dynamodb import DynamoTable, opened
from export_service.failures import ExportError
from export_service.history.actions import Action
from export_service.history.selection import Selection
from export_service.messages import JobSnapshot
from export_service.settings import Settings
from streams.history_scan import Scan, scan
from streams.operations import ready
from streams.publisher import KafkaPublisher
from streams.replaying import Mode, Replay, Replayed, done_before, plan_re_emit, plan_rebuild
from streams.retention import kept_for
from streams.topic_ranges import Progress, TopicRanges, silent
from streams.topics import topics

_AT_A_TIME = 16


@dataclass
class Prepared:
    """Attributes:
    done: jobs that this run has done before it broke off.
    oldest: of their events, and how long `results` keeps one; None: for ever, or there is none.
    taken: whether the tally has put back what was sent; known after `send`.
    """

    settings: Settings
    selection: Selection
    mode: Mode
    run: str
    found: Scan
    planned: list[Action]
    oldest: datetime | None
    kept: timedelta | None
    done: set[str]
    ranges: TopicRanges = field(repr=False)
    table: DynamoTable = field(repr=False)
    taken: bool = True

    @property
    def todo(self) -> list[Action]:
        return [action for action in self.planned if action.do]

    async def send(self, rate: float, wait: float) -> AsyncIterator[Replayed]:
        """`rate`: jobs a second; `wait`: seconds until the tally has put back what was sent. Raises as Replay.run."""
        async with KafkaPublisher(self.settings) as publisher:
            names = topics(self.settings)
            replay = Replay(self.settings, self.mode, self.run, self.found, self.ranges, publisher, names, self.table, rate)
            async for each in replay.run(self.todo, self.selection):
                yield each
            self.taken = await replay.taken(wait)


@asynccontextmanager
async def prepared(
    settings: Settings, selection: Selection, mode: Mode, resume: str | None = None, progress: Progress = silent
) -> AsyncIterator[Prepared]:
    """Raises ExportError: a job that is named is not known, or cannot be folded; SettingsError, Unavailable. Nothing is changed by it."""
    async with TopicRanges(settings) as ranges, opened(settings) as table:
        done: set[str] = set()
        if resume is not None:
            mode, selection, done = await done_before(settings, resume)
        await ready(settings)  # or say now that what is done could not be noted
        found = await scan(settings, ranges, selection, await _items(table, selection.jobs), progress)
        for job_id in selection.jobs:
            if job_id in found.cut:
                raise ExportError(f"job {job_id} cannot be folded, and nothing was changed: {found.cut[job_id]}")
        chosen = [job_id for job_id in chosen_of(found, selection) if job_id not in done]
        if mode == "rebuild":
            planned = await plan_rebuild(settings, found, ranges, chosen, await _items(table, chosen))
        else:
            planned = await plan_re_emit(found, chosen, table)
        oldest, kept = found.oldest(chosen), await kept_for(settings, "results")
        run = resume or uuid.uuid4().hex[:12]
        yield Prepared(settings, selection, mode, run, found, planned, oldest, kept, done, ranges, table)


def chosen_of(found: Scan, selection: Selection) -> list[str]:
    states = ((job_id, found.refold.state(job_id)) for job_id in found.first)
    return [job_id for job_id, state in states if state is not None and selection.takes(state)]


async def _items(table: DynamoTable, jobs: Iterable[str]) -> dict[str, JobSnapshot]:
    slots = asyncio.Semaphore(_AT_A_TIME)

    async def get(job_id: str) -> JobSnapshot | None:
        async with slots:
            return await table.get(job_id)

    found = await asyncio.gather(*(get(job_id) for job_id in jobs))
    return {each.job_id: each for each in found if each is not None}
