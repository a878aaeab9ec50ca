"""Reads the dead letters with what was done to them, and sends them again."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime

from pydantic import ValidationError

from connectors.aws import Clients
from connectors.sqs_moves import Moved, Queues, move, send_message
from export_service.failures import ExportError
from export_service.letters import PLACE, Kept, Original, Sending, faster
from export_service.messages import DeadLetter, OperatorAction, from_millis
from export_service.settings import Settings
from streams import operations
from streams.publisher import KafkaPublisher
from streams.reading import read, read_one, reader
from streams.topics import topics


async def load(settings: Settings, since: datetime | None = None) -> list[Kept]:
    """Oldest first. Raises Unavailable, SettingsError."""
    spec, found = topics(settings).dead_letters, []
    async with reader(settings, spec) as consumer:
        async for record in read(consumer, spec.name, range(spec.partitions), since):
            try:
                letter = DeadLetter.model_validate_json(record.value or b"")
            except ValidationError:
                continue  # not ours
            if not PLACE.fullmatch(letter.source):
                continue
            at = from_millis(record.timestamp)
            found.append(Kept(record.partition, record.offset, at, record.key, letter, settings.topics.prefix))
    actions = await _actions(settings)
    known = [replace(kept, actions=[action for action in actions[kept.id] if kept.is_of(action)]) for kept in found]
    return sorted(known, key=lambda kept: (kept.at, kept.partition, kept.offset))


async def _actions(settings: Settings) -> Mapping[str, list[OperatorAction]]:
    """By subject."""
    found: defaultdict[str, list[OperatorAction]] = defaultdict(list)
    for action in await operations.read_actions(settings):
        found[action.subject].append(action)
    return found


async def originals(settings: Settings, letters: Sequence[Kept]) -> dict[str, Original]:
    """Letter id -> its record, where its topic still has it. Raises Unavailable."""
    found = {}
    known = {spec.name: spec for spec in topics(settings).manifest()}
    specs = {spec.name: spec for kept in letters if kept.place and (spec := known.get(kept.place.topic))}
    async with reader(settings, *specs.values()) as consumer:
        for kept in letters:
            if kept.place is None or kept.place.topic not in specs or (record := await read_one(consumer, *kept.place)) is None:
                continue
            original = Original(record.key, record.value or b"", dict(record.headers))
            if original.is_of(kept):
                found[kept.id] = original
    return found


async def send(settings: Settings, planned: Sequence[Sending], why: str | None) -> list[OperatorAction]:
    """Each once, after its `begun` is kept. The actions that are done.

    Raises:
        ExportError: somebody else was faster with one of them. None is sent then.
        Unavailable: some may have been sent; those whose `done` is missing show as redriving.
    """
    actions = {
        each.kept.id: operations.begun("redrive", each.kept.id, of=each.kept.at, why=why, target=each.topic or "sqs")
        for each in planned
    }
    async with AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(KafkaPublisher(settings))
        client = Clients(settings.aws).later("sqs", stack)
        await operations.publish(publisher, settings, list(actions.values()))
        now = await _actions(settings)
        for each in planned:
            if other := faster(each.kept, actions[each.kept.id], now[each.kept.id]):
                await operations.publish(publisher, settings, [operations.dropped(action) for action in actions.values()])
                raise ExportError(
                    f"dead letter {each.kept.id}: {other.who} has begun to {other.action} it just now; nothing was sent"
                )
        finished = []
        for each in planned:
            if each.topic is None:
                body, group = each.value.decode(), (each.key or b"").decode()
                sent_as = await send_message(client, settings.queue.url or "", body, group, actions[each.kept.id].id)
                details = {"messageId": sent_as}
            else:
                sent = await (await publisher.send(each.topic, each.key, each.value, headers=each.headers))
                details = {"sent": f"{each.topic}:{sent.partition}:{sent.offset}"}
            finished.append(operations.done(actions[each.kept.id], **details))
            await operations.publish(publisher, settings, finished[-1:])
    return finished


async def discard(settings: Settings, letters: Sequence[Kept], why: str | None) -> list[OperatorAction]:
    """Raises Unavailable."""
    actions = [operations.done(operations.begun("discard", kept.id, of=kept.at, why=why)) for kept in letters]
    async with KafkaPublisher(settings) as publisher:
        await operations.publish(publisher, settings, actions)
    return actions


async def move_queue(settings: Settings, queues: Queues, progress: Callable[[int], None], why: str | None) -> Moved:
    """Raises ExportError, Unavailable: what was not moved is where it was."""
    await operations.ready(settings)
    action = operations.begun("move-queue", queues.source_arn, why=why, to=queues.target_arn)
    async with KafkaPublisher(settings) as publisher, Clients(settings.aws).open("sqs") as client:
        await operations.publish(publisher, settings, [action])
        moved = await move(client, queues, progress)
        await operations.publish(publisher, settings, [operations.done(action, messages=moved.messages)])
    return moved
