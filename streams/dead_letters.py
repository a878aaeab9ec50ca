"""Where a record goes that cannot be processed: whole but for secrets, with its place and the reason, so that nothing is lost and
nothing blocks. The topic keeps it longer than the record itself is kept, and more people look at it."""

import asyncio
import base64
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from export_service.messages import DeadLetter
from export_service.ports import Clock, Publisher
from export_service.readers import Unreadable, reason_of
from export_service.redaction import body_without_secrets, without_secrets
from streams.steps import Incoming


class DeadLetters:
    """`count`: told of each one, with the topic that its record came from."""

    def __init__(self, publisher: Publisher, topic: str, clock: Clock, count: Callable[[str], None] = lambda _: None) -> None:
        self._publisher, self._topic, self._clock, self._count = publisher, topic, clock, count

    async def put(self, record: Incoming, error: ValidationError | Unreadable) -> "asyncio.Future[Any]":
        """The future is done when the dead letter is safe: only then may the record be acked."""
        value = record.value or b""
        try:
            body, body_base64 = body_without_secrets(value.decode()), None
        except UnicodeDecodeError:
            hidden = without_secrets(value.decode("latin-1")).encode("latin-1")
            body, body_base64 = None, base64.b64encode(hidden).decode()
        letter = DeadLetter(
            source=str(record),
            reason=reason_of(error),
            key=record.key.decode(errors="replace") if record.key else None,
            body=body,
            body_base64=body_base64,
            at=self._clock.now(),
        )
        self._count(record.place.topic)
        return await self._publisher.send(self._topic, record.key, letter.to_bytes())
