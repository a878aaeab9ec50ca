"""The topic `operations`: who did what by hand. One partition, so that of two people who want the same, all see the same one first."""

import getpass
import socket
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from export_service.messages import OperatorAction
from export_service.ports import Publisher
from export_service.redaction import without_secrets
from export_service.settings import Settings
from streams.reading import read, reader
from streams.topics import declare, topics


def begun(action: str, subject: str, *, of: datetime | None = None, why: str | None = None, **details: Any) -> OperatorAction:
    """By whoever runs this process, now."""
    why = without_secrets(why) if why else None
    return OperatorAction(
        id=uuid.uuid4().hex,
        action=action,
        subject=subject,
        of=of,
        stage="begun",
        who=who(),
        at=datetime.now(UTC),
        why=why,
        details=details,
    )


def done(action: OperatorAction, **details: Any) -> OperatorAction:
    return action.model_copy(update={"stage": "done", "at": datetime.now(UTC), "details": action.details | details})


def dropped(action: OperatorAction) -> OperatorAction:
    return action.model_copy(update={"stage": "dropped", "at": datetime.now(UTC)})


def who() -> str:
    """`user@host`."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = "unknown"
    return f"{name}@{socket.gethostname()}"


async def publish(publisher: Publisher, settings: Settings, actions: Sequence[OperatorAction]) -> None:
    """Returns when the broker has them. Raises Unavailable."""
    topic = topics(settings).operations.name
    for sent in [await publisher.send(topic, action.subject.encode(), action.to_bytes()) for action in actions]:
        await sent


async def ready(settings: Settings) -> None:
    """Raises Unavailable; SettingsError if the topic is missing and may not be created."""
    await declare(settings, [topics(settings).operations], create=settings.topics.declare)


async def read_actions(settings: Settings) -> list[OperatorAction]:
    """In their order. Raises as `ready`."""
    await ready(settings)
    spec, actions = topics(settings).operations, []
    async with reader(settings, spec) as consumer:
        async for record in read(consumer, spec.name, range(spec.partitions)):
            try:
                actions.append(OperatorAction.model_validate_json(record.value or b""))
            except ValidationError:
                continue  # a later version's
    return actions
