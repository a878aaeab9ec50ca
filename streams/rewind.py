"""Looks at groups and tables, and takes them back. Workers of these roles must be away: a group is not moved under its members.

Offsets first, then tombstones. If it breaks off in between, the tally reads again and its tables say that all of it is counted: no
harm, and the next try finds in `operations` how far back the first one was.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IllegalStateError, KafkaError
from pydantic import ValidationError

from export_service.failures import ExportError
from export_service.jobs import JobState
from export_service.messages import OperatorAction, from_millis, iso_millis
from export_service.rewind import TOPICS, Again, Move, Plan, counted_again, moved_since
from export_service.settings import Settings
from streams import operations
from streams.kafka_client import connection, unreachable
from streams.publisher import KafkaPublisher
from streams.reading import partition_of, read, read_one, reader
from streams.topics import Topics, TopicSpec, topics

_AT_ONCE = 5_000
_ACTION = "rewind"


async def look(settings: Settings, roles: Sequence[str], to: datetime | None, job_id: str | None) -> Plan:
    """What would be done. Changes nothing.

    Args:
        to: None: as far as the topics go, or, with a job, as far as that one does.
        job_id: only this job; `roles` is the tally then.

    Raises:
        ExportError: `to` is before what a topic still has, or the job is not known or cannot be counted again.
        Unavailable
    """
    names, actions = topics(settings), await operations.read_actions(settings)
    unfinished = _unfinished(settings, actions)
    moves: list[Move] = []
    specs: dict[str, TopicSpec] = {role: getattr(names, TOPICS[role]) for role in roles}
    async with reader(settings, *specs.values(), names.jobs_changelog, names.shards_changelog) as consumer:
        for role, spec in specs.items():
            moves += await _moves(settings, consumer, role, spec, to)
        if "tally" not in roles:
            return Plan(moves, to=to)
        states = await _states(consumer, settings, names)
        if job_id is not None and job_id not in states[partition_of(settings, job_id)]:
            raise ExportError(f"job {job_id} is not known to the tally")
        again: dict[int, Again] = {}
        for move in [move for move in moves if move.role == "tally"]:
            mine = states[move.partition]
            wanted = moved_since(mine, move.target) if job_id is None else mine.keys() & {job_id}
            again[move.partition] = counted_again(mine, wanted, move.begin)
        moves = [_further(move, again, unfinished, alone=job_id is not None) if move.role == "tally" else move for move in moves]
        jobs = [each for found in again.values() for each in found.jobs]
        if job_id is not None and not jobs:
            raise ExportError(
                f"job {job_id} cannot be counted again: retention has removed its first events from {names.results.name}"
            )
        entries = await _entries(consumer, settings, names, set(jobs))
    cut = [each for found in again.values() for each in found.cut]
    return Plan(moves, jobs, cut, entries, to, f"{unfinished.who} at {iso_millis(unfinished.at)}" if unfinished else None)


async def away(settings: Settings, roles: Sequence[str]) -> None:
    """Raises ExportError if a group has members, naming it; Unavailable."""
    admin = AIOKafkaAdminClient(**connection(settings))
    try:
        await admin.start()
        for role in roles:
            (answer,) = await admin.describe_consumer_groups([_group(settings, role)])
            for _, group, state, _, _, members, *_ in answer.groups:
                if members:
                    raise ExportError(
                        f"group {group} has {len(members)} members ({state}); stop all workers with the role {role} first. "
                        "One with EXPORT_KAFKA_GROUP_INSTANCE_ID leaves when its session timeout is over"
                    )
    except (TimeoutError, KafkaError) as error:
        raise unreachable(settings, error) from None
    finally:
        await admin.close()


async def rewind(settings: Settings, plan: Plan, why: str | None) -> None:
    """Raises ExportError, Unavailable: run it again then, it goes on from where it was."""
    roles = list(dict.fromkeys(move.role for move in plan.moves))
    names = {"jobs": topics(settings).jobs_changelog.name, "shards": topics(settings).shards_changelog.name}
    targets = {f"{move.role}:{move.partition}": move.target for move in plan.moving}
    action = operations.begun(_ACTION, settings.app_id, why=why, roles=roles, targets=targets, jobs=len(plan.jobs))
    await away(settings, roles)
    async with KafkaPublisher(settings) as publisher:
        await operations.publish(publisher, settings, [action])
        for role in roles:
            await _commit(settings, role, [move for move in plan.moving if move.role == role])
        await away(settings, roles)
        for start in range(0, len(plan.entries), _AT_ONCE):
            some = plan.entries[start : start + _AT_ONCE]
            sent = [await publisher.send(names[table], key, None, partition=number) for table, number, key in some]
            await asyncio.gather(*sent)
        # A worker that has come meanwhile has some of the old entries, and its next owner would miss them.
        await away(settings, roles)
        await operations.publish(publisher, settings, [operations.done(action)])


def _group(settings: Settings, role: str) -> str:
    return f"{settings.app_id}-{role}"


def _unfinished(settings: Settings, actions: Sequence[OperatorAction]) -> OperatorAction | None:
    """The last rewind of the tally that was begun, unless one after it was done."""
    mine = [
        each for each in actions if each.action == _ACTION and each.subject == settings.app_id and "tally" in each.details["roles"]
    ]
    return mine[-1] if mine and mine[-1].stage == "begun" else None


def _further(move: Move, again: Mapping[int, Again], unfinished: OperatorAction | None, *, alone: bool) -> Move:
    """The tally goes back to the first event of the jobs that it counts again."""
    candidates = [again[move.partition].first]
    if not alone:
        candidates.append(move.target)
    if unfinished is not None:
        candidates.append(unfinished.details["targets"].get(f"tally:{move.partition}"))
    found = [each for each in candidates if each is not None]
    target = max(min(found, default=move.end), move.begin)
    return Move(move.role, move.topic, move.partition, move.begin, move.end, move.committed, target)


async def _moves(settings: Settings, consumer: AIOKafkaConsumer, role: str, spec: TopicSpec, to: datetime | None) -> list[Move]:
    admin = AIOKafkaAdminClient(**connection(settings))
    try:
        await admin.start()
        (described,) = await admin.describe_topics([spec.name])
        places = [TopicPartition(spec.name, part["partition"]) for part in described["partitions"]]
        committed = await admin.list_consumer_group_offsets(_group(settings, role))
    finally:
        await admin.close()
    begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    targets = dict(begins)
    if to is not None:
        found = await consumer.offsets_for_times(dict.fromkeys(places, int(to.timestamp() * 1000)))
        targets = {place: at.offset if (at := found[place]) else ends[place] for place in places}
    moves = []
    for place in sorted(places):
        if to is not None and targets[place] == begins[place] > 0 and not spec.compacted:
            await _not_before(consumer, place, begins[place], to)
        known = committed[place].offset if place in committed and committed[place].offset >= 0 else None
        moves.append(Move(role, spec.name, place.partition, begins[place], ends[place], known, targets[place]))
    return moves


async def _not_before(consumer: AIOKafkaConsumer, place: TopicPartition, begin: int, to: datetime) -> None:
    """Raises ExportError if the topic begins after `to`."""
    first = await read_one(consumer, place.topic, place.partition, begin)
    if first is not None and from_millis(first.timestamp) > to:
        raise ExportError(
            f"--to {iso_millis(to)} is before what {place.topic}:{place.partition} still has, which begins at "
            f"{iso_millis(from_millis(first.timestamp))}; give that or later, or see `export-service reset`"
        )


async def _states(consumer: AIOKafkaConsumer, settings: Settings, names: Topics) -> dict[int, dict[str, JobState]]:
    """By partition. Raises ExportError."""
    last: dict[int, dict[bytes, bytes | None]] = {number: {} for number in range(settings.topics.partitions)}
    async for record in read(consumer, names.jobs_changelog.name, list(last)):
        last[record.partition][record.key or b""] = record.value
    states: dict[int, dict[str, JobState]] = {number: {} for number in last}
    for number, entries in last.items():
        for key, value in entries.items():
            if value:
                try:
                    states[number][key.decode()] = JobState.model_validate_json(value)
                except (ValidationError, UnicodeDecodeError) as error:
                    raise ExportError(
                        f"{names.jobs_changelog.name}:{number} has an entry that this version cannot read ({type(error).__name__}); "
                        "use the version of the workers"
                    ) from None
    return states


async def _entries(consumer: AIOKafkaConsumer, settings: Settings, names: Topics, jobs: set[str]) -> list[tuple[str, int, bytes]]:
    """Of these jobs in both tables. Where only some of them are taken out, the fold makes it good."""
    found: dict[tuple[str, int, bytes], bool] = {}
    partitions = {partition_of(settings, job_id) for job_id in jobs}
    for table, topic in (("jobs", names.jobs_changelog), ("shards", names.shards_changelog)):
        async for record in read(consumer, topic.name, partitions):
            if (record.key or b"").partition(b"/")[0].decode(errors="replace") in jobs:
                found[table, record.partition, record.key] = bool(record.value)
    return [entry for entry, there in found.items() if there]


async def _commit(settings: Settings, role: str, moves: Sequence[Move]) -> None:
    """The broker refuses it while the group has members."""
    if not moves:
        return
    group = _group(settings, role)
    consumer = AIOKafkaConsumer(**connection(settings), group_id=group, enable_auto_commit=False)
    offsets: dict[Any, int] = {TopicPartition(move.topic, move.partition): move.target for move in moves}
    try:
        await consumer.start()
        consumer.assign(list(offsets))
        await consumer.commit(offsets)
    except (TimeoutError, IllegalStateError, KafkaError) as error:
        if getattr(error, "retriable", True):
            raise unreachable(settings, error) from None
        raise ExportError(
            f"Kafka refuses the offsets of group {group}: {type(error).__name__}; is a worker with the role {role} up?"
        ) from None
    finally:
        await consumer.stop()
