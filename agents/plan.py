"""requests -> tasks, and JobPlanned on results: lists a job's files, checks them, and hands them out in batches that grow.

Tasks go out while the list is still being read; results may therefore come before the plan, and the fold expects that. The first
entries are held back, so that a mistake in a small manifest fails the job before any of its files is touched. A later run of a job gets
only what has not succeeded, if the list is still the same.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from pydantic import ValidationError

from export_service import manifests, names
from export_service.backoff import pauses, until_available
from export_service.batching import MAX_BATCH_BYTES, batch_limit
from export_service.failures import PlanError, TransferError
from export_service.messages import ExportRequested, FileSpec, JobAccepted, JobPlanned, PlanFailed, Record, Task, TaskBatch
from export_service.ports import FileSource, Ledger, Publisher
from export_service.prefixes import is_below
from export_service.sealing import seal, unseal, without_query
from export_service.shards import SHARD_TASKS, bitmap_from_text
from streams.ack_window import Entry
from streams.dead_letters import DeadLetters
from streams.steps import Handle, Incoming
from streams.topics import Topics

HELD_BACK = 1_000
"""Tasks that are read before the first is handed out. Some 0.5 MB of memory per job that is being planned."""
_READS = 4
"""Tries to read a list of files before the job fails as ExportPlanFailed."""


class Planner:
    """`allowed_urls`: prefixes that the files of a manifest may have; none: any."""

    def __init__(
        self,
        sources: FileSource,
        ledger: Ledger,
        publisher: Publisher,
        topics: Topics,
        max_files: int,
        log: Any,
        allowed_urls: Sequence[str] = (),
    ) -> None:
        self._sources, self._ledger, self._publisher = sources, ledger, publisher
        self._topics, self._max_files, self._log, self._allowed_urls = topics, max_files, log, allowed_urls

    async def plan(self, request: ExportRequested) -> list["asyncio.Future[Any]"]:
        """Hand out all tasks, then say how many there are. The futures confirm the last record; all others are confirmed."""
        job = request.job
        run = _Run(self._publisher, self._topics.tasks.name, request)
        key, results = job.job_id.encode(), self._topics.results.name
        run.confirmations.append(await self._publisher.send(results, key, JobAccepted(job=job).to_bytes()))
        outcome: Record
        try:
            await self._read_all(request, run)
            outcome = JobPlanned(job=job, total_tasks=run.total, plan_digest=run.digest)
            self._log.info("Planned export job", jobId=job.job_id, totalTasks=run.total, handedOut=run.emitted)
        except PlanError as error:
            outcome = PlanFailed(job=job, cause=str(error))
            self._log.warning("Cannot plan export job", jobId=job.job_id, cause=str(error))
        # The plan may only be known once every task of it is safe: a job that waits for a lost task would never end.
        await asyncio.gather(*run.confirmations)
        return [await self._publisher.send(results, key, outcome.to_bytes())]

    async def _read_all(self, request: ExportRequested, run: "_Run") -> None:
        for tried, pause in enumerate(pauses(0.5, 10), start=1):
            held: list[Task] | None = [] if run.next == 0 else None
            try:
                if request.plan_digest is not None and run.next == 0:
                    await self._same_list(request, run)
                async for task in self._tasks(request, run):
                    # Not again what was handed out before the source broke off.
                    if task.index < run.next or run.is_done(task.index):
                        continue
                    if held is None:
                        await run.add(task)
                        continue
                    held.append(task)
                    if len(held) > HELD_BACK:
                        await run.add_all(held)
                        held = None
                await run.add_all(held or [])
                await run.flush()
                return
            except TransferError as error:
                if not error.retryable or tried >= _READS:
                    raise PlanError(f"the list of files cannot be read: {error}") from None
                await asyncio.sleep(max(pause, error.retry_after or 0))

    async def _same_list(self, request: ExportRequested, run: "_Run") -> None:
        """Before a later run: what is done is known by its place in the list."""
        async for _ in self._tasks(request, run):
            pass
        if run.digest != request.plan_digest:
            raise PlanError(
                "the list of files is not the one of the job's first attempt; send it as a new job, with a jobId of its own"
            )

    async def _tasks(self, request: ExportRequested, run: "_Run") -> AsyncIterator[Task]:
        seen: set[bytes] = set()
        index, whole = 0, hashlib.sha256()
        async for where, spec in self._files(request):
            # Eight bytes a name instead of the name: a job of five million files fits; a false match is one in 10^6 such jobs.
            digest = hashlib.blake2b(spec.name.encode(), digest_size=8).digest()
            if digest in seen:
                raise PlanError(f"{where}: name {spec.name!r} is used twice; give each file its own 'name'")
            if index >= self._max_files:
                raise PlanError(f"more than {self._max_files} files; split the export, or raise EXPORT_PLAN_MAX_FILES")
            seen.add(digest)
            whole.update(digest + spec.url.encode())
            yield Task(index=index, url=spec.url, query=spec.query, name=spec.name, size=spec.size, sha256=spec.sha256)
            index += 1
        run.total, run.digest = index, whole.hexdigest()

    async def _files(self, request: ExportRequested) -> AsyncIterator[tuple[str, FileSpec]]:
        if request.files is not None:
            for number, spec in enumerate(request.files):
                yield f"files[{number}]", spec
        elif request.manifest is not None:
            async for found in self._manifest(request):
                yield found
        elif request.prefix is not None:
            async for url, size in self._sources.list(request.prefix):
                yield url, FileSpec(url=url, name=_name(url, None, url.removeprefix(request.prefix)), size=size)
        else:
            raise PlanError("the request names no files")

    async def _manifest(self, request: ExportRequested) -> AsyncIterator[tuple[str, FileSpec]]:
        manifest = request.manifest
        assert manifest is not None
        key = await until_available(lambda: self._ledger.seal_key(request.job.job_id), self._log)
        try:
            url = unseal(manifest.url, manifest.query, key)
        except ValueError as error:
            raise PlanError(str(error)) from None
        async with self._sources.open(url) as opened:
            try:
                async for line, entry in manifests.read(opened.chunks(), manifest.format):
                    where = f"manifest {manifest.url}, line {line}"
                    name = _name(where, entry.name, names.derive_name(entry.url) if entry.name is None else "")
                    try:
                        names.check_url(entry.url)
                    except ValueError as error:
                        raise PlanError(f"{where}: url: {error}") from None
                    if self._allowed_urls and not is_below(entry.url, self._allowed_urls):
                        raise PlanError(f"{where}: url: is not below one of EXPORT_DOWNLOAD_ALLOWED_URLS")
                    if key is None and without_query(entry.url) != entry.url:
                        raise PlanError(f"{where}: url has a query, and the job has no key in the ledger to keep it secret")
                    bare, query = seal(entry.url, key) if key else (entry.url, None)
                    yield where, FileSpec(url=bare, query=query, name=name, size=entry.size, sha256=entry.sha256)
            except PlanError as error:
                message = str(error)
                raise PlanError(message if message.startswith("manifest") else f"manifest {manifest.url}, {message}") from None


class _Run:
    """The batches of one plan on their way to Kafka."""

    def __init__(self, publisher: Publisher, topic: str, request: ExportRequested) -> None:
        self._publisher, self._topic, self._job = publisher, topic, request.job
        self._batch: list[Task] = []
        self._bytes = 0
        self._done = {shard: bitmap_from_text(bits) for shard, bits in (request.done or {}).items()}
        self.next = 0
        """The first task that was not handed out yet."""
        self.emitted = 0
        self.total = 0
        self.digest = ""
        self.confirmations: list[asyncio.Future[Any]] = []

    def is_done(self, index: int) -> bool:
        return bool(self._done) and bool(self._done.get(index // SHARD_TASKS, 0) >> index % SHARD_TASKS & 1)

    async def add_all(self, tasks: list[Task]) -> None:
        for task in tasks:
            await self.add(task)

    async def add(self, task: Task) -> None:
        self._batch.append(task)
        self.next = task.index + 1
        self._bytes += len(task.url) + len(task.name) + len(task.query or "") + 200
        if len(self._batch) >= batch_limit(self.emitted) or self._bytes >= MAX_BATCH_BYTES:
            await self.flush()

    async def flush(self) -> None:
        if not self._batch:
            return
        job = self._job
        batch = TaskBatch(job_id=job.job_id, attempt=job.attempt, destination=job.destination, tasks=tuple(self._batch))
        key = f"{job.job_id}:{self._batch[0].index}".encode()
        self.confirmations.append(await self._publisher.send(self._topic, key, batch.to_bytes()))
        self.emitted += len(self._batch)
        self._batch, self._bytes = [], 0


def _name(where: str, given: str | None, derived: str) -> str:
    try:
        return names.check_name(given if given is not None else derived)
    except ValueError as error:
        raise PlanError(f"{where}: name: {error}") from None


def plan(planner: Planner, dead_letters: DeadLetters) -> Handle:
    async def handle(record: Incoming, entry: Entry) -> None:
        try:
            request = ExportRequested.model_validate_json(record.value or b"")
        except ValidationError as error:
            return entry.after([await dead_letters.put(record, error)])
        return entry.after(await planner.plan(request))

    return handle
