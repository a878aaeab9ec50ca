"""Where a record goes that cannot be processed: whole, with its place and the reason, so that nothing is lost and nothing blocks."""

import asyncio
import base64
from typing import Any

from export_service.messages import DeadLetter
from export_service.ports import Clock, Publisher
from streams.steps import Incoming


class DeadLetters:
    def __init__(self, publisher: Publisher, topic: str, clock: Clock) -> None:
        self._publisher, self._topic, self._clock = publisher, topic, clock

    async def put(self, record: Incoming, reason: str) -> "asyncio.Future[Any]":
        """The future is done when the dead letter is safe: only then may the record be acked."""
        value = record.value or b""
        try:
            body, body_base64 = value.decode(), None
        except UnicodeDecodeError:
            body, body_base64 = None, base64.b64encode(value).decode()
        letter = DeadLetter(
            source=str(record),
            reason=reason,
            key=record.key.decode(errors="replace") if record.key else None,
            body=body,
            body_base64=body_base64,
            at=self._clock.now(),
        )
        return await self._publisher.send(self._topic, record.key, letter.to_bytes())
