"""Reads one job's task results again, beside the running consumers and without touching their group."""

from collections.abc import AsyncIterator

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from pydantic import ValidationError

from export_service.messages import ResultsRange, TaskResults, Unreadable, read_event
from export_service.settings import Settings
from streams.kafka_client import connection, unreachable


async def read_results(settings: Settings, topic: str, job_id: str, events: ResultsRange) -> AsyncIterator[TaskResults]:
    """The job's TaskResults from the first to the last offset of `events`, both included. Raises Unavailable."""
    consumer = AIOKafkaConsumer(**connection(settings), enable_auto_commit=False, auto_offset_reset="earliest")
    key = job_id.encode()
    try:
        await consumer.start()
        place = TopicPartition(topic, events.partition)
        consumer.assign([place])
        consumer.seek(place, events.first)
        while True:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                for record in records:
                    if record.offset > events.last:
                        return
                    if record.key == key and (event := _results(record.value)) is not None:
                        yield event
            if await consumer.position(place) > events.last:
                return
    except KafkaError as error:
        raise unreachable(settings, error) from None
    finally:
        await consumer.stop()


def _results(value: bytes | None) -> TaskResults | None:
    """None for other events, and for a record that is none, which the tally has put among the dead letters."""
    try:
        event = read_event(value or b"")
    except (ValidationError, Unreadable):
        return None
    return event if isinstance(event, TaskResults) else None
