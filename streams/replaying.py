"""Replays that send something: plan first, then one record a job, each noted on `operations`.

Two fences are not here but where the records go, so no mistake here passes them: the callback role claims each answer in the ledger and
gives none that is there; DynamoDB takes a snapshot only if it is newer. Nothing here is planned or downloaded again: no record goes to
`requests` or `tasks`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, NamedTuple

from aiolimiter import AsyncLimiter

from export_service.failures import ExportError
from export_service.history import actions
from export_service.history.actions import Action
from export_service.history.records import body
from export_service.history.selection import Selection
from export_service.messages import JobSnapshot, OperatorAction
from export_service.ports import Ledger, Publisher
from export_service.rebuilt import JobRebuilt
from export_service.settings import Settings
from export_service.verify.evidence import Raw
from streams.history_scan import Scan
from streams.kafka_client import MAX_RECORD_BYTES
from streams.operations import begun, dropped, publish, read_actions
from streams.operations import done as ended
from streams.reading import partition_of
from streams.topic_ranges import Span, TopicRanges
from streams.topics import Topics

Mode = Literal["rebuild", "re-emit"]
_REPLAY = "replay"
_TABLES = ("jobs-changelog", "shards-changelog")
_AGAIN = 5
"""Times that a job is put back again because an event of it came between."""


async def plan_rebuild(
    settings: Settings, scan: Scan, ranges: TopicRanges, jobs: Sequence[str], items: Mapping[str, JobSnapshot]
) -> list[Action]:
    partitions = {partition_of(settings, job_id) for job_id in jobs}
    bounds = await ranges.bounds(_TABLES)
    spans = [Span(topic, n, each.begin, each.end) for (topic, n), each in bounds.items() if n in partitions]
    mine, changelog = {job_id.encode() for job_id in jobs}, dict[bytes, Raw]()
    async with aclosing(ranges.read(spans, lambda key: key.partition(b"/")[0] in mine)) as records:
        async for raw in records:
            changelog[raw.key or b""] = raw
    planned = []
    for job_id in jobs:
        state = scan.refold.state(job_id)
        assert state is not None
        shards = scan.refold.shards(job_id, state)
        rebuilt = job_id in scan.rebuilt
        if job_id in scan.cut:
            planned.append(Action(job_id, state.attempt, False, f"cannot be folded: {scan.cut[job_id]}"))
        elif scan.moving(job_id):
            planned.append(Action(job_id, state.attempt, False, f"the tally has not counted {scan.last[job_id].place} yet"))
        else:
            end = scan.bounds["results", scan.last[job_id].partition].end
            planned.append(actions.rebuild(job_id, state, shards, changelog, items.get(job_id), rebuilt=rebuilt, end=end))
    return planned


async def plan_re_emit(scan: Scan, jobs: Sequence[str], ledger: Ledger) -> list[Action]:
    planned = []
    for job_id in jobs:
        state = scan.refold.state(job_id)
        assert state is not None
        if job_id in scan.cut:
            planned.append(Action(job_id, state.attempt, False, f"cannot be folded: {scan.cut[job_id]}"))
            continue
        known = await ledger.attempt(job_id, state.attempt)
        planned.append(actions.re_emit(job_id, state, known, scan.completion_waits(job_id, state.attempt)))
    return planned


class Replayed(NamedTuple):
    """`place`: of the record that it was done with; None: nothing was sent after all, and `why` says why."""

    job_id: str
    attempt: int
    place: str | None
    why: str | None = None

    def as_json(self) -> dict[str, Any]:
        said = {"jobId": self.job_id, "attempt": self.attempt, "place": self.place, "why": self.why}
        return {name: value for name, value in said.items() if value is not None}


class Replay:
    """Does what was planned. `run`: its id, the same when it goes on. `rate`: jobs a second."""

    def __init__(
        self,
        settings: Settings,
        mode: Mode,
        run: str,
        scan: Scan,
        ranges: TopicRanges,
        publisher: Publisher,
        names: Topics,
        ledger: Ledger,
        rate: float,
    ) -> None:
        self._settings, self._mode, self._run, self._scan, self._ranges = settings, mode, run, scan, ranges
        self._publisher, self._names, self._ledger = publisher, names, ledger
        self._rate = AsyncLimiter(max(1, rate), max(1, 1 / rate))
        self._read_to = {n: each.end for (topic, n), each in scan.bounds.items() if topic == "results"}
        self.put_back: dict[int, int] = {}
        """Partition -> offset of the last JobRebuilt."""
        self.sent = self.passed_over = 0

    async def run(self, planned: Sequence[Action], selection: Selection) -> AsyncIterator[Replayed]:
        """What was done of each job, when that is safe. Raises Unavailable; what is told by then is done."""
        whole = begun(_REPLAY, self._settings.app_id, mode=self._mode, selection=selection.as_json(), jobs=len(planned))
        whole = whole.model_copy(update={"id": self._run})
        await publish(self._publisher, self._settings, [whole])
        for action in planned:
            await self._rate.acquire()
            done = await (self._rebuild(action) if self._mode == "rebuild" else self._re_emit(action))
            await publish(self._publisher, self._settings, [self._note(done)])
            self.sent += done.place is not None
            self.passed_over += done.place is None
            yield done
        await publish(self._publisher, self._settings, [ended(whole, sent=self.sent, passedOver=self.passed_over)])

    async def _rebuild(self, action: Action) -> Replayed:
        job_id = action.job_id
        looked_at = self._read_to[self._scan.last[job_id].partition]
        for _ in range(_AGAIN):
            state = self._scan.refold.state(job_id)
            assert state is not None
            record = JobRebuilt.of(job_id, state, self._scan.refold.shards(job_id, state), looked_at - 1, self._run).to_bytes()
            if len(record) > MAX_RECORD_BYTES * 9 // 10:
                return Replayed(
                    job_id, action.attempt, None, f"its entries have {len(record):,} bytes, more than one record may have"
                )
            sent = await (await self._publisher.send(self._names.results.name, job_id.encode(), record))
            self.put_back[sent.partition] = sent.offset
            newer = await self._between(job_id, Span("results", sent.partition, looked_at, sent.offset))
            looked_at = sent.offset + 1
            if not newer:
                return Replayed(job_id, action.attempt, f"results:{sent.partition}:{sent.offset}")
            # They came before our record and are not in it: the tally passes it over.
            await self._scan.refold.all(newer)
        raise ExportError(f"job {job_id} moves too quickly to be put back; nothing of it was changed, try again later")

    async def _between(self, job_id: str, span: Span) -> list[Raw]:
        """The job's events there."""
        async with aclosing(self._ranges.read([span], job_id.encode().__eq__)) as records:
            return [raw async for raw in records if (body(raw) or {}).get("type") != "JobRebuilt"]

    async def _re_emit(self, action: Action) -> Replayed:
        known = await self._ledger.attempt(action.job_id, action.attempt)
        if known is None or known.answer is not None:
            return Replayed(action.job_id, action.attempt, None, "answered meanwhile")
        completed = self._scan.refold.completions[action.job_id, action.attempt]
        sent = await (await self._publisher.send(self._names.completions.name, action.job_id.encode(), completed.to_bytes()))
        return Replayed(action.job_id, action.attempt, f"completions:{sent.partition}:{sent.offset}")

    def _note(self, done: Replayed) -> OperatorAction:
        note = begun(self._mode, done.job_id, **done.as_json()).model_copy(update={"id": self._run})
        return ended(note) if done.place is not None else dropped(note)

    async def taken(self, seconds: float) -> bool:
        """Whether the tally has put back what was sent; waits for it so long."""
        deadline = time.monotonic() + seconds
        while self.put_back:
            bounds = await self._ranges.bounds(["results"])
            done = [(bounds["results", n].committed or 0) > offset for n, offset in self.put_back.items()]
            if all(done):
                break
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.3)
        return True


async def done_before(settings: Settings, run: str) -> tuple[Mode, Selection, set[str]]:
    """How the run began, and the jobs that it has done. Raises ExportError: there is no such run; Unavailable, SettingsError."""
    actions = [action for action in await read_actions(settings) if action.id == run]
    first = next((action for action in actions if action.action == _REPLAY), None)
    if first is None:
        raise ExportError(f"no replay {run} is on the topic operations: it never began, or was more than 90 days ago")
    jobs = {action.subject for action in actions if action.action != _REPLAY}
    return first.details["mode"], Selection.from_json(first.details["selection"]), jobs
