"""Reads one job's task results again, beside the running consumers and without touching their group."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from pydantic import ValidationError

from export_service.messages import ResultsRange, TaskResults
from export_service.readers import Unreadable, read_event
from export_service.settings import Settings
from streams.kafka_client import connection, unreachable
from streams.reading import portions

_KEPT = 4
"""Consumers, for the next jobs: who waits for an answer should not wait for two connections and a list of topics first."""
_WAIT_MS = 10
"""All that is read is there. A fetch that finds nothing, sent in the moment before its consumer rests, would hold up the next job's."""


class ResultsReader:
    """Of one topic. `close` it at the end."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings, self._topic = settings, topic
        self._resting: list[AIOKafkaConsumer] = []

    async def read(self, job_id: str, events: ResultsRange) -> AsyncIterator[TaskResults]:
        """The job's TaskResults from the first to the last offset of `events`, both included. Raises Unavailable."""
        key, place = job_id.encode(), TopicPartition(self._topic, events.partition)
        try:
            async with (
                self._reading(place) as consumer,
                aclosing(portions(consumer, {place: (events.first, events.last + 1)})) as found,
            ):
                async for _, records in found:
                    for record in records:
                        if record.key == key and (event := _results(record.value)) is not None:
                            yield event
        except (TimeoutError, KafkaError) as error:
            raise unreachable(self._settings, error) from None

    async def close(self) -> None:
        while self._resting:
            await self._resting.pop().stop()

    @asynccontextmanager
    async def _reading(self, place: TopicPartition) -> AsyncIterator[AIOKafkaConsumer]:
        made = None if self._resting else self._new()
        consumer = made or self._resting.pop()
        try:
            if made is not None:
                await made.start()
            consumer.assign([place])
            yield consumer
        except BaseException:
            # What it has under way is not known.
            await consumer.stop()
            raise
        if len(self._resting) < _KEPT:
            self._resting.append(consumer)
        else:
            await consumer.stop()

    def _new(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **connection(self._settings), enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=_WAIT_MS
        )


def _results(value: bytes | None) -> TaskResults | None:
    """None for other events, and for a record that is none, which the tally has put among the dead letters."""
    try:
        event = read_event(value or b"")
    except (ValidationError, Unreadable):
        return None
    return event if isinstance(event, TaskResults) else None
