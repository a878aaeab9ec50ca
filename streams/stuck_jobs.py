"""What can be told of jobs that do not move: which tasks have no outcome, and what waits before each step.

Read when it is asked for, from the tally's changelogs: they are compacted, and hold what a tally would recover. Nothing is kept.
"""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer

from export_service.missing import missing
from export_service.settings import Settings
from streams.offsets import bounds, committed, partitions
from streams.onlooker import LARGE_FETCH, onlooker
from streams.reading import partition_of, read
from streams.topics import Topics
from tables.decoded import Values
from tables.jobs import Jobs
from tables.shards import Shards

_SECONDS = 300
"""For all of it: a changelog of some GB takes a while, and a broker that gives no records would take for ever."""


async def explain(settings: Settings, names: Topics, job_ids: Collection[str]) -> Mapping[str, Mapping[str, Any]]:
    """Fields for a line of the log, by job. Raises Unavailable."""
    async with onlooker(settings, LARGE_FETCH) as (admin, consumer), asyncio.timeout(_SECONDS):
        lag = {}
        for step, topic in {"plan": names.requests.name, "download": names.tasks.name, "tally": names.results.name}.items():
            done = await committed(admin, f"{settings.app_id}-{step}")
            lag[step] = sum(each.lag for each in (await bounds(consumer, await partitions(admin, [topic]), done)).values())
        jobs, shards = await tables_of(consumer, settings, names, job_ids)
    return {job_id: {**_tasks(jobs, shards, job_id), "lag": lag} for job_id in job_ids}


async def tables_of(consumer: AIOKafkaConsumer, settings: Settings, names: Topics, job_ids: Collection[str]) -> tuple[Jobs, Shards]:
    """These jobs' entries of the tally's tables, as a recovery would have them."""
    mine = {partition_of(settings, job_id) for job_id in job_ids}
    jobs, shards = [
        await _last_values(consumer, topic.name, mine, job_ids) for topic in (names.jobs_changelog, names.shards_changelog)
    ]
    return Jobs(jobs), Shards(shards)


def _tasks(jobs: Jobs, shards: Shards, job_id: str) -> dict[str, Any]:
    if (state := jobs.get(job_id)) is None:
        return {"missingTasks": "not known: the tally's changelog does not have this job"}
    found = missing(state, lambda run, number: shards.get(job_id, run, number))
    if found is None:
        return {"missingTasks": f"not known: its list of files is not read to the end; {state.finished} tasks have ended"}
    return {"tasksLeft": found.count, "missingTasks": found.text}


async def _last_values(consumer: AIOKafkaConsumer, topic: str, numbers: Collection[int], job_ids: Collection[str]) -> Values:
    """These jobs' entries of a table."""
    mine, last = {job_id.encode() for job_id in job_ids}, Values()
    async for record in read(consumer, topic, numbers):
        if record.key is not None and record.key.partition(b"/")[0] in mine:
            last[record.key] = record.value or b""
    return last
