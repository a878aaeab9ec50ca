"""What can be told of jobs that do not move: which tasks have no outcome, and what waits before each step.

Read when it is asked for, from the tally's changelogs: they are compacted, and hold what a tally would recover. Nothing is kept.
"""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from export_service.missing import missing
from export_service.settings import Settings
from streams.kafka_client import connection, unreachable
from streams.reading import partition_of
from streams.topics import Topics
from tables.decoded import Values
from tables.jobs import Jobs
from tables.shards import Shards

_SECONDS = 300
"""For all of it: a changelog of some GB takes a while, and a broker that gives no records would take for ever."""


async def explain(settings: Settings, names: Topics, job_ids: Collection[str]) -> Mapping[str, Mapping[str, Any]]:
    """Fields for a line of the log, by job. Raises Unavailable."""
    consumer = AIOKafkaConsumer(**connection(settings), enable_auto_commit=False, auto_offset_reset="earliest")
    admin = AIOKafkaAdminClient(**connection(settings))
    try:
        async with asyncio.timeout(_SECONDS):
            await consumer.start()
            await admin.start()
            steps = {"plan": names.requests.name, "download": names.tasks.name, "tally": names.results.name}
            described = await admin.describe_topics(list(steps.values()))
            partitions = {each["topic"]: [part["partition"] for part in each["partitions"]] for each in described}
            lag = {
                step: await _lag(
                    consumer, admin, f"{settings.app_id}-{step}", [TopicPartition(topic, n) for n in partitions[topic]]
                )
                for step, topic in steps.items()
            }
            jobs, shards = await tables_of(consumer, settings, names, job_ids)
    except (TimeoutError, KafkaError) as error:
        raise unreachable(settings, error) from None
    finally:
        await consumer.stop()
        await admin.close()
    return {job_id: {**_tasks(jobs, shards, job_id), "lag": lag} for job_id in job_ids}


async def tables_of(consumer: AIOKafkaConsumer, settings: Settings, names: Topics, job_ids: Collection[str]) -> tuple[Jobs, Shards]:
    """These jobs' entries of the tally's tables, as a recovery would have them."""
    mine = {partition_of(settings, job_id) for job_id in job_ids}
    jobs, shards = [
        await _last_values(consumer, [TopicPartition(topic.name, number) for number in mine], job_ids)
        for topic in (names.jobs_changelog, names.shards_changelog)
    ]
    return Jobs(jobs), Shards(shards)


def _tasks(jobs: Jobs, shards: Shards, job_id: str) -> dict[str, Any]:
    if (state := jobs.get(job_id)) is None:
        return {"missingTasks": "not known: the tally's changelog does not have this job"}
    found = missing(state, lambda run, number: shards.get(job_id, run, number))
    if found is None:
        return {"missingTasks": f"not known: its list of files is not read to the end; {state.finished} tasks have ended"}
    return {"tasksLeft": found.count, "missingTasks": found.text}


async def _last_values(consumer: AIOKafkaConsumer, places: list[TopicPartition], job_ids: Collection[str]) -> Values:
    """These jobs' entries of a table."""
    mine = {job_id.encode() for job_id in job_ids}
    ends = await consumer.end_offsets(places)
    consumer.assign(places)
    await consumer.seek_to_beginning(*places)
    last = Values()
    while left := [place for place in places if await consumer.position(place) < ends[place]]:
        for records in (await consumer.getmany(*left, timeout_ms=1000)).values():
            for record in records:
                if record.key is not None and record.key.partition(b"/")[0] in mine:
                    last[record.key] = record.value or b""
    return last


async def _lag(consumer: AIOKafkaConsumer, admin: AIOKafkaAdminClient, group: str, places: list[TopicPartition]) -> int:
    """Records that the group has not finished."""
    committed = await admin.list_consumer_group_offsets(group)
    begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    done = {place: max(begins[place], committed[place].offset if place in committed else 0) for place in places}
    return sum(ends[place] - done[place] for place in places)
