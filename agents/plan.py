"""requests -> tasks, and JobPlanned on results: reads a job's list of files, and hands it out in batches that grow.

Two things go on beside each other. *Reading* takes the list at full speed, whatever its job has to wait for, so that no connection
idles: batches go to a spool, and JobPlanned out when it ends. *Handing out* takes them from there as fast as the download workers
take this job's tasks (`pacing`), so a plan lasts almost as long as its job; how far it is, is in the ledger with the digest of the list up
to there, for the next owner of its partition: he reads that part again, which takes seconds a million, and hands out from there on.
Results may come before the plan, and the fold expects that. A list of up to HELD_BACK entries is read whole first, so that a mistake
in it fails the job before any of its files is touched.
"""

import asyncio
import errno
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agents.cancelled import Cancelled
from agents.file_list import CHANGED, FileLists, Whole
from agents.pacing import NoMoreTurns, Pacer
from export_service import metric_names as names
from export_service.backoff import pauses, until_available
from export_service.batching import MAX_BATCH_BYTES, batch_limit
from export_service.failures import PlanError, TransferError, Unavailable
from export_service.messages import ExportRequested, JobAccepted, JobPlanned, PlanFailed, Record, Task, TaskBatch
from export_service.ports import Ledger, Planned, Publisher
from export_service.samples import Sample
from export_service.shards import SHARD_TASKS, bitmap_from_text
from export_service.spool import Batch, Spool
from streams.ack_window import Entry
from streams.dead_letters import DeadLetters
from streams.steps import Handle, Incoming
from streams.topics import Topics

HELD_BACK = 1_000
"""Tasks that are read before the first is handed out. Some 0.5 MB of memory per list."""
_READS = 4
"""Tries to read a list of files before the job fails as ExportPlanFailed."""
_READING, _READING_LARGE = 32, 8
"""Lists that are read at a time; and those of more than HELD_BACK entries, of which up to 0.5 GB is remembered. Handing out has no limit
but the ack window's."""
_SAVE_SECONDS = 5.0
_COMPLAIN_SECONDS = 60.0


class Planner:
    """`folder`: for lists that are longer than memory."""

    def __init__(
        self, lists: FileLists, ledger: Ledger, publisher: Publisher, topics: Topics, pacer: Pacer, folder: Path, log: Any
    ) -> None:
        self._lists, self._ledger, self._publisher, self._topics = lists, ledger, publisher, topics
        self._pacer, self._folder, self._log = pacer, folder, log
        self._small, self._large = asyncio.Semaphore(_READING), asyncio.Semaphore(_READING_LARGE)
        self._cancelled = Cancelled()
        self._runs: set[_Run] = set()
        self._complained = -_COMPLAIN_SECONDS
        self._handed_out = 0

    def samples(self) -> Iterator[Sample]:
        yield Sample(names.TASKS_PLANNED, self._handed_out)
        yield Sample(names.PLANS, len(self._runs))

    async def plan(self, request: ExportRequested, entry: Entry) -> bool:
        """Hand out all tasks and say how many there are. True: all of it is confirmed. False: the next owner goes on."""
        job = request.job
        planned = await until_available(lambda: self._ledger.planned(job.job_id, job.attempt), self._log)
        if planned.ended or entry.lost:
            return True
        with Spool(self._folder) as spool:
            run = _Run(request, spool, planned, entry)
            self._runs.add(run)
            accepted = await self._publisher.send(self._topics.results.name, job.job_id.encode(), JobAccepted(job=job).to_bytes())
            reading = asyncio.create_task(self._read(run))
            # A defect in it must not leave us waiting for the end of the list.
            reading.add_done_callback(lambda _: run.moved.set())
            try:
                await self._hand_out(run, reading)
                await run.confirm()
                await accepted
                if run.finished:
                    await reading
                await self._save(run)
                return run.finished
            finally:
                self._runs.discard(run)
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    def cancel(self, job_id: str, attempt: int) -> None:
        """Hand out nothing more of the job, as far as it was planned for `attempt` or before."""
        self._cancelled.add(job_id, attempt)

    async def drain(self, seconds: float) -> None:
        """End all plans where they are, for the next owner."""
        self._pacer.close()
        deadline = time.monotonic() + seconds
        while self._runs and time.monotonic() < deadline:
            for run in self._runs:
                run.moved.set()
            await asyncio.sleep(0.02)

    async def _read(self, run: "_Run") -> None:
        request, job = run.request, run.request.job
        outcome: Record
        try:
            async with AsyncExitStack() as place:
                all_of_it = False
                if not run.next:
                    async with self._small:
                        all_of_it = await self._read_all(run, place)
                if not all_of_it:
                    await place.enter_async_context(self._large)
                    await self._read_all(run, None)
            known = run.planned.digest or request.plan_digest
            if known not in (None, run.whole.digest):
                raise PlanError(
                    CHANGED
                    if run.planned.digest
                    else "the list of files is not the one of the job's first attempt; send it as a new job, with a jobId of its own"
                )
            outcome = JobPlanned(job=job, total_tasks=run.whole.total, plan_digest=run.whole.digest)
            self._log.info("Planned export job", jobId=job.job_id, totalTasks=run.whole.total, handedOut=run.spooled)
        except PlanError as error:
            run.failed = True
            outcome = PlanFailed(job=job, cause=str(error))
            self._log.warning("Cannot plan export job", jobId=job.job_id, cause=str(error))
        if run.entry.lost:
            return  # the next owner may have read it well
        said = await self._publisher.send(self._topics.results.name, job.job_id.encode(), outcome.to_bytes())
        run.read = True
        run.moved.set()
        await said

    async def _read_all(self, run: "_Run", place: AsyncExitStack | None) -> bool:
        """Put the list into the spool. False: nothing was put there, as it is a large one, and all places for these are taken.

        Args:
            place: where to note that one was taken; None: we have one.
        """
        for tried, pause in enumerate(pauses(0.5, 10), start=1):
            held: list[tuple[Task, bytes]] | None = [] if place is not None and not run.spooled else None
            run.begin()
            try:
                async for task in self._lists.tasks(run.request, run.whole, run.next, run.so_far):
                    if held is None or place is None:
                        if run.add(task):
                            await self._flush(run, task.index + 1, run.whole.so_far.digest())
                        continue
                    held.append((task, run.whole.so_far.digest()))
                    if len(held) > HELD_BACK:
                        if self._large.locked():
                            return False
                        await place.enter_async_context(self._large)
                        await self._add_all(run, held)
                        held = None
                await self._add_all(run, held or [])
                await self._flush(run, run.whole.total, run.whole.so_far.digest())
                return True
            except TransferError as error:
                if not error.retryable or tried >= _READS:
                    raise PlanError(f"the list of files cannot be read: {error}") from None
                await asyncio.sleep(max(pause, error.retry_after or 0))
        raise AssertionError("pauses never end")

    async def _add_all(self, run: "_Run", tasks: list[tuple[Task, bytes]]) -> None:
        for task, so_far in tasks:
            if run.add(task):
                await self._flush(run, task.index + 1, so_far)

    async def _flush(self, run: "_Run", end: int, so_far: bytes) -> None:
        """A full disk is waited for: what is handed out, and plans that end, make room there."""
        for pause in pauses(0.2, 10):
            try:
                return run.flush(end, so_far)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise PlanError(f"the list of files cannot be kept in EXPORT_WORKER_STATE_DIR: {error.strerror}") from None
                self._full(error)
            await asyncio.sleep(pause)
        raise AssertionError("pauses never end")

    def _full(self, error: OSError) -> None:
        if time.monotonic() - self._complained >= _COMPLAIN_SECONDS:
            self._complained = time.monotonic()
            text = f"Plans wait for room: {error.strerror}; free some, or set EXPORT_WORKER_STATE_DIR to a larger disk"
            self._log.warning(text, setting="EXPORT_WORKER_STATE_DIR", folder=str(self._folder))

    async def _hand_out(self, run: "_Run", reading: "asyncio.Task[None]") -> None:
        """Until the end, or until it is not ours to do."""
        job, topic = run.request.job, self._topics.tasks.name
        while not (run.entry.lost or run.failed or self._pacer.closed):
            batch = run.take()
            if batch is None:
                if reading.done() or run.read:
                    run.finished = True
                    return
                run.moved.clear()
                await run.moved.wait()
            elif batch.end <= run.planned.through or self._is_cancelled(run):
                await asyncio.sleep(0)  # thousands may be passed over
            else:
                try:
                    turn = await self._pacer.turn(job.job_id, batch.tasks)
                except NoMoreTurns:
                    return
                with turn:
                    if run.entry.lost or run.failed or self._is_cancelled(run):
                        continue
                    key = f"{job.job_id}:{batch.first}".encode()
                    confirmed = await self._publisher.send(topic, key, batch.record, partition=turn.partition)
                    turn.sent(confirmed)
                run.sent(batch, confirmed)
                self._handed_out += batch.tasks
                if time.monotonic() - run.saved_at > _SAVE_SECONDS:
                    await self._save(run)
        run.finished = run.failed and not run.entry.lost

    def _is_cancelled(self, run: "_Run") -> bool:
        return self._cancelled.covers(run.request.job.job_id, run.request.job.attempt)

    async def _save(self, run: "_Run") -> None:
        """How far it is. If that fails, more is handed out a second time after a crash: no harm but work."""
        run.saved_at, job = time.monotonic(), run.request.job
        if run.failed and not run.finished:
            return
        digest = run.whole.digest if run.read else run.planned.digest
        planned = Planned(run.through, digest, run.finished, run.through_digest.hex() or None)
        try:
            await self._ledger.mark_planned(job.job_id, job.attempt, planned)
        except Unavailable as error:
            self._log.warning(str(error), setting=error.setting)


class _Run:
    """One plan under way."""

    def __init__(self, request: ExportRequested, spool: Spool, planned: Planned, entry: Entry) -> None:
        self.request, self.planned, self.entry, self._spool = request, planned, entry, spool
        self.whole, self.moved = Whole(), asyncio.Event()
        self.read = self.failed = self.finished = False
        """`read`: the list, and the outcome is on its way. `failed`: it is PlanFailed. `finished`: nothing is left to hand out."""
        self.through, self.through_digest = planned.through, bytes.fromhex(planned.so_far or "")
        """Tasks before this one are with the broker, and the list's digest there."""
        # Of a plan that an earlier version marked, all is read and made again: there is no digest to tell the list by.
        self.next = planned.through if planned.so_far else 0
        self.so_far = self.through_digest or None
        """The first task that is not in the spool and was not handed out before either, and the list's digest there."""
        self.saved_at = time.monotonic()
        self.spooled = self.next
        self._done = {shard: bitmap_from_text(bits) for shard, bits in (request.done or {}).items()}
        self._compare_first = bool(request.plan_digest or planned.digest) and not self.next
        self._unconfirmed: deque[tuple[Batch, asyncio.Future[Any]]] = deque()
        self._batch: list[Task] = []
        self._limit = batch_limit(self.next)
        self._bytes = 0

    def begin(self) -> None:
        """A reading, maybe after one that broke off: from `next`."""
        self._batch, self._bytes = [], 0

    def add(self, task: Task) -> bool:
        """Take it, unless it was done before. True: the batch is full, `flush` it."""
        if self._done.get(task.index // SHARD_TASKS, 0) >> task.index % SHARD_TASKS & 1:
            return False
        self._batch.append(task)
        self._bytes += len(task.url) + len(task.name) + len(task.query or "") + 200
        return len(self._batch) >= self._limit or self._bytes >= MAX_BATCH_BYTES

    def flush(self, end: int, so_far: bytes) -> None:
        """To the spool: the list was read to before `end`, where its digest is `so_far`. Raises OSError; the batch is kept then."""
        if not self._batch:
            return
        job, tasks = self.request.job, tuple(self._batch)
        record = TaskBatch(
            job_id=job.job_id, attempt=job.attempt, user_id=job.user_id, destination=job.destination, tasks=tasks
        ).to_bytes()
        self._spool.put(Batch(tasks[0].index, end, len(tasks), so_far, record))
        self.next, self.so_far = end, so_far
        self.spooled += len(tasks)
        self._limit = batch_limit(self.spooled)
        self._batch, self._bytes = [], 0
        self.moved.set()

    def take(self) -> Batch | None:
        """The next batch that may be handed out now. A list that was read before has to be the same first: indices count in it."""
        return None if self._compare_first and not self.read else self._spool.take()

    def sent(self, batch: Batch, confirmed: "asyncio.Future[Any]") -> None:
        self._unconfirmed.append((batch, confirmed))
        while self._unconfirmed and self._unconfirmed[0][1].done():
            done, future = self._unconfirmed.popleft()
            future.result()
            self.through, self.through_digest = done.end, done.so_far

    async def confirm(self) -> None:
        """All that was sent. Raises Unavailable."""
        for batch, future in self._unconfirmed:
            await future
            self.through, self.through_digest = batch.end, batch.so_far
        self._unconfirmed.clear()


def plan(planner: Planner, dead_letters: DeadLetters) -> Handle:
    async def handle(record: Incoming, entry: Entry) -> None:
        try:
            request = ExportRequested.model_validate_json(record.value or b"")
        except ValidationError as error:
            return entry.after([await dead_letters.put(record, error)])
        if await planner.plan(request, entry):
            entry.done()
        return None

    return handle
