"""tasks -> files, and TaskResults on results: a number of transfers at a time, whatever the batches look like.

Many more tasks are read than are under way, so that the next free slot can go to the user who has the fewest (`fair_queue`).
A host that answers 429 or 503 is paused as a whole (`hosts`): its tasks wait in the queue, without a slot, and others go on.

A batch is acked when all of its outcomes are confirmed on results. Outcomes do not wait for their batch: what has finished is published
every half second. At a drain, the outcomes so far are published and the rest of the batch goes back to tasks as a smaller batch.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

from msgspec.structs import replace

from agents.cancelled import Cancelled
from export_service import metric_names as names
from export_service.backoff import until_available
from export_service.download_counts import DownloadCounts
from export_service.fair_queue import FairQueue
from export_service.hosts import Hosts, host_of
from export_service.messages import Outcome, Task, TaskBatch, TaskResult, TaskResults
from export_service.ports import Ledger, Publisher
from export_service.readers import Unreadable, read_batch
from export_service.samples import Sample
from export_service.sealing import unseal
from export_service.settings import Download
from export_service.transfer import Busy, Done, Stop, result
from streams.ack_window import Entry
from streams.dead_letters import DeadLetters
from streams.steps import Incoming, beside
from streams.topics import Topics


class Transferring(Protocol):
    """Runs transfers, as many as are started."""

    def start(self, destination: str, task: Task, url: str, done: Done, tried: int) -> Stop:
        """Begin a transfer from `url`, the whole URL, that was tried before so often.

        `done` is called once, later; not at all if the transfer is stopped.
        """

    async def stop(self) -> None:
        """Cancel what is under way; it leaves nothing behind."""


READ_AHEAD = 32_768
"""Tasks that wait for a slot, at most: some 40 MB. Plans stop long before, see `demand`; this is for what does not come from a plan."""
_KEYS = 1000
"""Seal keys kept in memory, one a job whose URLs have queries."""


def _cancelled(task: Task) -> TaskResult:
    return result(task, Outcome.CANCELLED, 0, time.monotonic())


class _Batch:
    """A batch under way. `left` are the indices without an outcome; `stops` end those that are under way; `key` opens sealed queries."""

    __slots__ = ("batch", "confirmations", "entry", "key", "left", "stops", "unpublished", "user")

    def __init__(self, batch: TaskBatch, entry: Entry, key: bytes | None) -> None:
        self.batch, self.entry, self.key = batch, entry, key
        self.user = batch.user_id or ""
        self.left = {task.index for task in batch.tasks}
        self.stops: dict[int, Stop] = {}
        self.unpublished: list[TaskResult] = []
        self.confirmations: list[asyncio.Future[Any]] = []


class _Waiting(NamedTuple):
    """A task that waits for a slot, or has one."""

    batch: _Batch
    task: Task
    host: str
    tried: int


class Downloader:
    """The download step. `handle` takes records, `drain` ends it."""

    def __init__(
        self,
        transfers: Transferring,
        ledger: Ledger,
        publisher: Publisher,
        dead_letters: DeadLetters,
        topics: Topics,
        log: Any,
        settings: Download,
        counts: DownloadCounts | None = None,
    ) -> None:
        self._transfers, self._ledger, self._publisher = transfers, ledger, publisher
        self._dead_letters, self._topics, self._log = dead_letters, topics, log
        self._settings, self.hosts = settings, Hosts(settings)
        self._counts = counts or DownloadCounts(())
        self.waiting: FairQueue[_Waiting] = FairQueue()
        self.ended = 0
        """Tasks, since the start."""
        self._open: set[_Batch] = set()
        self._keys: dict[str, bytes | None] = {}
        self._cancelled = Cancelled()
        self.draining, self.busy = False, 0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        """Hosts that are paused."""
        self._room, self._idle = asyncio.Event(), asyncio.Event()
        self._publishing: set[asyncio.Task[None]] = set()

    def start(self, fatal: Callable[[BaseException], None]) -> None:
        self._fatal = fatal
        self._publish_with(self._publish_regularly())

    async def handle(self, record: Incoming, entry: Entry) -> None:
        if self.draining:
            await asyncio.Event().wait()  # not acked, so another worker gets it
        try:
            parsed = read_batch(record.value or b"")
        except Unreadable as error:
            return entry.after([await self._dead_letters.put(record, error)])
        if not parsed.tasks:
            return entry.done()
        sealed = any(task.query is not None for task in parsed.tasks)
        batch = _Batch(parsed, entry, await self._key(parsed.job_id) if sealed else None)
        self._open.add(batch)
        if self._is_cancelled(batch):
            for task in parsed.tasks:
                self._ended(batch, _cancelled(task), host_of(task.url))
        else:
            for task in parsed.tasks:
                self._put(_Waiting(batch, task, host_of(task.url), 0))
            self._fill()
        while len(self.waiting) >= READ_AHEAD:
            self._room.clear()
            await self._room.wait()
        return None

    def cancel(self, job_id: str, attempt: int) -> None:
        """Download nothing more of the job, as far as it was planned for `attempt` or before; what is under way ends now."""
        self._cancelled.add(job_id, attempt)
        cancelled = {batch for batch in self._open if batch.batch.job_id == job_id and self._is_cancelled(batch)}
        self.waiting.keep(lambda item: item.batch not in cancelled)
        for batch in cancelled:
            for task in [task for task in batch.batch.tasks if task.index in batch.left]:
                host = host_of(task.url)
                if stop := batch.stops.pop(task.index, None):
                    stop()
                    self.hosts.stopped(host)
                    self._free(batch, host)
                self._ended(batch, _cancelled(task), host)
        self._fill()

    async def drain(self, seconds: float) -> None:
        """Finish what is under way within the deadline; hand back the rest. Afterwards every taken batch is accounted for."""
        self.draining = True
        if self.busy:
            self._idle.clear()
            await asyncio.wait([asyncio.ensure_future(self._idle.wait())], timeout=seconds)
        await self._transfers.stop()
        for publishing in self._publishing:
            publishing.cancel()
        await asyncio.gather(*self._publishing, return_exceptions=True)
        for batch in list(self._open):
            await self._hand_back(batch)

    @property
    def full(self) -> bool:
        """No more is read until something here has ended."""
        return self.draining or len(self.waiting) >= READ_AHEAD

    def samples(self) -> Iterator[Sample]:
        yield from self._counts.samples()
        yield Sample(names.SLOTS, self.busy, ("busy",))
        yield Sample(names.SLOTS, self._settings.concurrency, ("most",))
        yield Sample(names.WAITING, len(self.waiting))
        yield Sample(names.PAUSED, len(self._timers))

    def _put(self, item: _Waiting, *, first: bool = False) -> None:
        if self.hosts.given_up(item.host):
            self._ended(item.batch, self._of_busy_host(item), item.host)
        else:
            self.waiting.put(item.batch.user, item.batch.batch.job_id, item.host, item, first=first)

    def _fill(self) -> None:
        """Start transfers until all slots are taken; tell who waits for room, or for the end of all."""
        most = self._settings.user_concurrency or None
        while self.busy < self._settings.concurrency and self.waiting and not self.draining:
            if (item := self.waiting.pop(self.hosts.room, most)) is None:
                break
            self.busy += 1
            if item.batch.entry.lost:
                self._open.discard(item.batch)
                self._free(item.batch, item.host)
            else:
                self._begin(item)
        if len(self.waiting) < READ_AHEAD:
            self._room.set()
        if not self.busy:
            self._idle.set()

    def _begin(self, item: _Waiting) -> None:
        batch, task, host, tried = item
        done = partial(self._done, item, self.hosts.begun(host))
        try:
            url = task.url if task.query is None else unseal(task.url, task.query, batch.key)
        except ValueError as error:
            failed = result(task, Outcome.FAILED, 1, time.monotonic(), error="Unsealable", message=str(error))
            batch.stops[task.index] = asyncio.get_running_loop().call_soon(done, failed).cancel
        else:
            batch.stops[task.index] = self._transfers.start(batch.batch.destination, task, url, done, tried)

    def _done(self, item: _Waiting, age: int, ended: TaskResult | Busy) -> None:
        if item.batch.stops.pop(item.task.index, None) is None:
            return  # cancelled in the moment between its end and this
        self._free(item.batch, item.host)
        if isinstance(ended, Busy):
            self._busy(item, age, ended)
        else:
            self.hosts.answered(item.host, age, ended)
            self._ended(item.batch, ended, item.host)
        self._fill()

    def _busy(self, item: _Waiting, age: int, busy: Busy) -> None:
        """Its host is. The task is the next one to be begun there, unless it was begun to see whether the host is busy still."""
        first = self.hosts.busy(item.host, age, busy.retry_after)
        self.waiting.pause(item.host)
        self._resume(item.host)
        if busy.failed.attempts >= self._settings.attempts:
            self._ended(item.batch, busy.failed, item.host)
        else:
            self._put(item._replace(tried=busy.failed.attempts), first=first)
        if self.hosts.given_up(item.host):
            self._log.warning("Host is given up until it answers well", host=item.host, status=busy.failed.message)
            for each in self.waiting.take(item.host):
                self._ended(each.batch, self._of_busy_host(each), each.host)

    def _resume(self, host: str) -> None:
        if (seconds := self.hosts.pause(host)) > 0:
            # What has come to wait for it since then is found by the timer that is set already.
            if host not in self._timers:
                self._timers[host] = asyncio.get_running_loop().call_later(seconds, self._pause_over, host)
        else:
            self.waiting.resume(host)
            self._fill()

    def _pause_over(self, host: str) -> None:
        del self._timers[host]
        self._resume(host)

    def _of_busy_host(self, item: _Waiting) -> TaskResult:
        seconds = f"{self._settings.busy_seconds:g} s (EXPORT_DOWNLOAD_BUSY_SECONDS)"
        text = f"{item.host} has answered nothing but 429 or 503 for {seconds}, so {item.task.url} was not asked for again"
        return result(item.task, Outcome.FAILED, item.tried, time.monotonic(), error="HostBusy", message=text[:500])

    def _free(self, batch: _Batch, host: str) -> None:
        """A slot is."""
        self.busy -= 1
        self.waiting.ended(batch.user, batch.batch.job_id, host)

    def _ended(self, batch: _Batch, ended: TaskResult, host: str) -> None:
        self.ended += 1
        self._counts.add(host, ended)
        batch.unpublished.append(ended)
        batch.left.discard(ended.index)
        if not batch.left and batch in self._open:
            self._publish_with(self._finish(batch))

    def _is_cancelled(self, batch: _Batch) -> bool:
        return self._cancelled.covers(batch.batch.job_id, batch.batch.attempt)

    async def _finish(self, batch: _Batch) -> None:
        await self._publish(batch)
        self._open.discard(batch)
        batch.entry.after(batch.confirmations)

    def _publish_with(self, job: Coroutine[Any, Any, None]) -> None:
        task = beside(job, self._fatal)
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _hand_back(self, batch: _Batch) -> None:
        self._open.discard(batch)
        if batch.entry.lost:
            return
        await self._publish(batch)
        if batch.left:
            rest = tuple(task for task in batch.batch.tasks if task.index in batch.left)
            record = replace(batch.batch, tasks=rest)
            key = f"{record.job_id}:{rest[0].index}".encode()
            batch.confirmations.append(await self._publisher.send(self._topics.tasks.name, key, record.to_bytes()))
            self._log.info("Handed back tasks", jobId=record.job_id, tasks=len(rest))
        batch.entry.after(batch.confirmations)

    async def _publish(self, batch: _Batch) -> None:
        if not batch.unpublished:
            return
        results, batch.unpublished = tuple(batch.unpublished), []
        record = TaskResults(job_id=batch.batch.job_id, attempt=batch.batch.attempt, results=results)
        try:
            sent = await self._publisher.send(self._topics.results.name, record.job_id.encode(), record.to_bytes())
        except BaseException:
            # A drain may cancel the wait for buffer space: the outcomes must still be there when the batch is handed back.
            batch.unpublished[:0] = results
            raise
        batch.confirmations.append(sent)

    async def _publish_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._settings.publish_seconds)
            self._forget_lost()
            for batch in list(self._open):
                if batch.left and not batch.entry.lost:
                    await self._publish(batch)

    def _forget_lost(self) -> None:
        """What waits of partitions that went to another worker."""
        lost = {batch for batch in self._open if batch.entry.lost}
        if lost:
            self._open -= {batch for batch in lost if not batch.stops}
            self.waiting.keep(lambda item: item.batch not in lost)
            self._fill()

    async def _key(self, job_id: str) -> bytes | None:
        if job_id not in self._keys:
            if len(self._keys) >= _KEYS:
                self._keys.pop(next(iter(self._keys)))
            self._keys[job_id] = await until_available(lambda: self._ledger.seal_key(job_id), self._log)
        return self._keys[job_id]
