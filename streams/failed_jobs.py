"""Reads jobs that have failed: their state and outcomes from the tally's topics, their requests from `requests`; and runs them again."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial

from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import ValidationError

from agents.file_list import FileLists, Whole
from connectors import dynamodb
from connectors.sources import Sources
from export_service.failures import ExportError, PlanError
from export_service.instants import EVER
from export_service.messages import AttemptOpened, ExportRequested, JobSnapshot, JobStatus, TaskResults
from export_service.readers import Unreadable, read_event
from export_service.redrive import Changes, FailedJob, again, failed_job
from export_service.settings import Settings
from streams import operations
from streams.publisher import KafkaPublisher
from streams.reading import partition_of, read, read_spans, reader
from streams.stuck_jobs import tables_of
from streams.topics import Topics, topics

_EARLIER = timedelta(minutes=1)
"""A record may have been written by a clock that is behind the one that gave its job the time."""
FAILED = (JobStatus.COMPLETED_WITH_FAILURES, JobStatus.FAILED)
"""Not CANCELLED: somebody wanted that."""
_MOST_BYTES = 4 * 1024 * 1024
"""Of a request with a list of files; a record may have twice that."""


async def select(settings: Settings, since: datetime | None, user: str | None) -> list[str]:
    """Jobs whose last attempt has failed, from the table. Raises Unavailable."""
    since = since or EVER
    async with dynamodb.opened(settings) as table:
        found: list[JobSnapshot] = []
        if user is not None:
            found = [snapshot for snapshot in await table.of_user(user, since) if snapshot.status in FAILED]
        else:
            for status in FAILED:
                found += await table.of_status(status, since)
    ordered = sorted(found, key=lambda snapshot: (snapshot.updated_at, snapshot.job_id))
    return [snapshot.job_id for snapshot in ordered]


async def load(settings: Settings, job_ids: Sequence[str]) -> list[FailedJob]:
    """In that order. Raises Unavailable; ExportError for a table of a later version."""
    try:
        return await _load(settings, job_ids)
    except ValueError as error:
        raise ExportError(
            f"this version cannot read the tally's tables ({type(error).__name__}); use that of the workers"
        ) from None


async def _load(settings: Settings, job_ids: Sequence[str]) -> list[FailedJob]:
    names, jobs = topics(settings), []
    async with reader(settings, names.jobs_changelog, names.shards_changelog, names.requests, names.results) as consumer:
        states, shards = await tables_of(consumer, settings, names, job_ids)
        known = {job_id: state for job_id in job_ids if (state := states.get(job_id)) is not None}
        asked_at = {job_id: state.job.requested_at for job_id, state in known.items() if state.job and state.status.terminal}
        requests = await _requests(consumer, settings, names, asked_at)
        asked = await _attempts(settings, asked_at)
        for job_id in job_ids:
            state, shard = known.get(job_id), partial(shards.get, job_id)
            jobs.append(failed_job(job_id, state, requests.get(job_id), shard, asked.get(job_id, [])))
        await _outcomes(consumer, settings, names, {job.job_id: job for job in jobs if job.refusal() is None})
    return jobs


async def checked(settings: Settings, job: FailedJob, changes: Changes) -> None:
    """Raises ExportError if the files that are given are not the job's own; of a manifest at a URL, plan finds out."""
    if changes.files is None:
        return
    assert job.request is not None and job.state is not None
    async with dynamodb.opened(settings) as table:
        new = again(job.request, job.state.attempt + 1, datetime.now(UTC), await table.seal_key(job.job_id), changes)
        if len(new.to_bytes()) > _MOST_BYTES:
            raise ExportError(f"--manifest: is more than {_MOST_BYTES} bytes of a record; put it somewhere, and give its URL")
        lists, whole = FileLists(Sources({}), table, settings.plan.max_files, None, settings.download.allowed_urls), Whole()
        try:
            async for _ in lists.tasks(new, whole):
                pass
        except PlanError as error:
            raise ExportError(f"--manifest: {error}") from None
    if not job.from_nothing and whole.digest != job.state.plan_digest:
        raise ExportError(
            f"--manifest: is another list of files than that of job {job.job_id}, which has {job.state.total}: names and URLs without "
            "queries must be the same, in their order"
        )


async def run_again(settings: Settings, jobs: Sequence[FailedJob], changes: Changes, why: str | None) -> list[tuple[str, int]]:
    """(job, its new attempt) of each. Raises ExportError, Unavailable; jobs before that one run."""
    begun: list[tuple[str, int]] = []
    topic = topics(settings).results.name
    await operations.ready(settings)
    async with AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(KafkaPublisher(settings))
        table = await stack.enter_async_context(dynamodb.opened(settings))
        for job in jobs:
            assert job.request is not None and job.state is not None
            action = operations.begun("redrive-job", job.job_id, why=why)
            await operations.publish(publisher, settings, [action])
            now = datetime.now(UTC)
            attempt = await table.add_attempt(job.job_id, job.state.attempt, now)
            if attempt is None:
                await operations.publish(publisher, settings, [operations.dropped(action)])
                raise ExportError(
                    f"job {job.job_id} is not in the ledger any more (EXPORT_TABLE_NAME); send its files as a new job. "
                    f"{len(begun)} others run"
                )
            opened = AttemptOpened(request=again(job.request, attempt.number, now, attempt.seal_key, changes))
            await (await publisher.send(topic, job.job_id.encode(), opened.to_bytes()))
            await table.mark_published(job.job_id, attempt.number)
            await operations.publish(publisher, settings, [operations.done(action, attempt=attempt.number)])
            begun.append((job.job_id, attempt.number))
    return begun


async def _attempts(settings: Settings, job_ids: Collection[str]) -> dict[str, list[tuple[int, datetime]]]:
    async with dynamodb.opened(settings) as table:
        return {job_id: await table.asked(job_id) for job_id in job_ids}


async def _requests(
    consumer: AIOKafkaConsumer, settings: Settings, names: Topics, asked: dict[str, datetime]
) -> dict[str, ExportRequested]:
    """The request that each job's last run began with: it has the very time that its state has."""
    found: dict[str, ExportRequested] = {}
    if not asked:
        return found
    partitions = {partition_of(settings, job_id) for job_id in asked}
    async for record in read(consumer, names.requests.name, partitions, min(asked.values()) - _EARLIER):
        if (job_id := (record.key or b"").decode(errors="replace")) in asked:
            try:
                request = ExportRequested.model_validate_json(record.value or b"")
            except ValidationError:
                continue  # a dead letter
            if request.job.requested_at == asked[job_id]:
                found[job_id] = request
    return found


async def _outcomes(consumer: AIOKafkaConsumer, settings: Settings, names: Topics, jobs: Mapping[str, FailedJob]) -> None:
    """Show each job its events: every partition is read once, from the first event of one of them to the end of the last."""
    places = {number: TopicPartition(names.results.name, number) for number in {partition_of(settings, job_id) for job_id in jobs}}
    begins, spans = await consumer.beginning_offsets(list(places.values())), {}
    for number, place in places.items():
        mine = [job.state for job_id, job in jobs.items() if partition_of(settings, job_id) == number and job.state]
        first, last = min(state.first_offset for state in mine), max(state.completed_offset or 0 for state in mine)
        spans[number] = (max(first, begins[place]), last + 1)
    async for record in read_spans(consumer, names.results.name, spans):
        if (job := jobs.get((record.key or b"").decode(errors="replace"))) is None:
            continue
        try:
            event = read_event(record.value or b"")
        except (ValidationError, Unreadable):
            continue  # a dead letter
        if isinstance(event, TaskResults):
            job.see(event)
