"""tasks -> files, and TaskResults on results: a fixed number of transfers at a time, whatever the batches look like.

A batch is acked when all of its outcomes are confirmed on results. Outcomes do not wait for their batch: what has finished is published
every half second. At a drain, the outcomes so far are published and the rest of the batch goes back to tasks as a smaller batch.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError

from export_service.backoff import until_available
from export_service.messages import Outcome, Task, TaskBatch, TaskResult, TaskResults
from export_service.ports import Ledger, Publisher
from export_service.sealing import unseal
from streams.ack_window import Entry
from streams.dead_letters import DeadLetters
from streams.steps import Incoming, end_with
from streams.topics import Topics

Transfer = Callable[[str, Task, str], Awaitable[TaskResult]]
"""(destination URI, task, whole URL) -> outcome. Never raises but for cancellation."""
_KEYS = 1000
"""Seal keys kept in memory, one a job whose URLs have queries."""


class _Batch:
    """A batch under way. `left` are the indices without an outcome."""

    __slots__ = ("batch", "confirmations", "entry", "left", "unpublished")

    def __init__(self, batch: TaskBatch, entry: Entry) -> None:
        self.batch, self.entry = batch, entry
        self.left = {task.index for task in batch.tasks}
        self.unpublished: list[TaskResult] = []
        self.confirmations: list[asyncio.Future[Any]] = []


class Downloader:
    """The download step. `handle` takes records, `drain` ends it.

    Args:
        concurrency: transfers at a time.
        publish_seconds: longest time that an outcome waits for others of its batch.
    """

    def __init__(
        self,
        transfer: Transfer,
        ledger: Ledger,
        publisher: Publisher,
        dead_letters: DeadLetters,
        topics: Topics,
        log: Any,
        *,
        concurrency: int,
        publish_seconds: float,
    ) -> None:
        self._transfer, self._ledger, self._publisher = transfer, ledger, publisher
        self._dead_letters, self._topics, self._log = dead_letters, topics, log
        self._concurrency, self._publish_seconds = concurrency, publish_seconds
        # As many tasks wait as are under way, so that no slot idles while the next record is read.
        self._queue: asyncio.Queue[tuple[_Batch, Task]] = asyncio.Queue(maxsize=concurrency)
        self._open: set[_Batch] = set()
        self._keys: dict[str, bytes | None] = {}
        self._draining, self._busy = False, 0
        self._idle = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []

    def start(self, fatal: Callable[[BaseException], None]) -> None:
        jobs = [self._work() for _ in range(self._concurrency)] + [self._publish_regularly()]
        for job in jobs:
            task = asyncio.create_task(job)
            end_with(task, fatal)
            self._workers.append(task)

    async def handle(self, record: Incoming, entry: Entry) -> None:
        if self._draining:
            await asyncio.Event().wait()  # not acked, so another worker gets it
        try:
            parsed = TaskBatch.model_validate_json(record.value or b"")
        except ValidationError as error:
            return entry.after([await self._dead_letters.put(record, str(error))])
        batch = _Batch(parsed, entry)
        if not parsed.tasks:
            return entry.done()
        self._open.add(batch)
        for task in parsed.tasks:
            await self._queue.put((batch, task))
        return None

    async def drain(self, seconds: float) -> None:
        """Finish what is under way within the deadline; hand back the rest. Afterwards every taken batch is accounted for."""
        self._draining = True
        if self._busy:
            self._idle.clear()
            await asyncio.wait([asyncio.ensure_future(self._idle.wait())], timeout=seconds)
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        for batch in list(self._open):
            await self._hand_back(batch)

    async def _work(self) -> None:
        while True:
            batch, task = await self._queue.get()
            if self._draining or batch.entry.lost:
                if batch.entry.lost:
                    self._open.discard(batch)
                continue
            self._busy += 1
            try:
                # In two lines: the list may be published, and be another one, by the time the transfer is done.
                result = await self._one(batch, task)
                batch.unpublished.append(result)
                batch.left.discard(task.index)
            finally:
                self._busy -= 1
                if not self._busy:
                    self._idle.set()
            if not batch.left and batch in self._open:
                await self._publish(batch)
                self._open.discard(batch)
                batch.entry.after(batch.confirmations)

    async def _hand_back(self, batch: _Batch) -> None:
        self._open.discard(batch)
        if batch.entry.lost:
            return
        await self._publish(batch)
        if batch.left:
            rest = tuple(task for task in batch.batch.tasks if task.index in batch.left)
            record = batch.batch.model_copy(update={"tasks": rest})
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
            await asyncio.sleep(self._publish_seconds)
            for batch in list(self._open):
                if batch.left and not batch.entry.lost:
                    await self._publish(batch)

    async def _one(self, batch: _Batch, task: Task) -> TaskResult:
        try:
            url = task.url if task.query is None else unseal(task.url, task.query, await self._key(batch.batch.job_id))
        except ValueError as error:
            return TaskResult(
                index=task.index, outcome=Outcome.FAILED, name=task.name, url=task.url, error="Unsealable", message=str(error)
            )
        return await self._transfer(batch.batch.destination, task, url)

    async def _key(self, job_id: str) -> bytes | None:
        if job_id not in self._keys:
            if len(self._keys) >= _KEYS:
                self._keys.pop(next(iter(self._keys)))
            self._keys[job_id] = await until_available(lambda: self._ledger.seal_key(job_id), self._log)
        return self._keys[job_id]
