"""Topics as a stranger sees them: with plain aiokafka."""

from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition


async def records(bootstrap: str, *topics: str) -> list[Any]:
    """All that are on these topics now, topic by topic and partition by partition in order."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    try:
        await consumer._client.set_topics(topics)
        places = [TopicPartition(topic, n) for topic in topics for n in sorted(consumer.partitions_for_topic(topic) or ())]
        assert {place.topic for place in places} == set(topics), "a topic is not there"
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        found: dict[TopicPartition, list[Any]] = {place: [] for place in places}
        while any([await consumer.position(place) < ends[place] for place in places]):
            for place, some in (await consumer.getmany(timeout_ms=500)).items():
                found[place] += [record for record in some if record.offset < ends[place]]
        return [record for some in found.values() for record in some]
    finally:
        await consumer.stop()
