"""Reads one job's task results again, beside the running consumers and without touching their group."""

from collections.abc import AsyncIterator

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from export_service.messages import ResultsRange, TaskResults, job_events
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
                    if record.key == key and record.value:
                        event = job_events.validate_json(record.value)
                        if isinstance(event, TaskResults):
                            yield event
            if await consumer.position(place) > events.last:
                return
    except KafkaError as error:
        raise unreachable(settings, error) from None
    finally:
        await consumer.stop()
