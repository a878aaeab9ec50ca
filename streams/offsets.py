"""Where partitions begin and end, and what is committed, by the broker's word."""

from collections.abc import Collection

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from export_service.verify.evidence import Bounds


async def partitions(admin: AIOKafkaAdminClient, names: Collection[str]) -> list[TopicPartition]:
    """Of these topics, in order."""
    described = await admin.describe_topics(list(names))
    return sorted(TopicPartition(each["topic"], part["partition"]) for each in described for part in each["partitions"])


async def committed(admin: AIOKafkaAdminClient, group: str) -> dict[TopicPartition, int]:
    """By the group. A broker that nobody has used yet makes its topic of commits when it is first asked, and has no answer until then."""
    found = await admin.list_consumer_group_offsets(group)
    return {place: each.offset for place, each in found.items() if each.offset >= 0}


async def bounds(
    consumer: AIOKafkaConsumer, places: Collection[TopicPartition], done: dict[TopicPartition, int]
) -> dict[TopicPartition, Bounds]:
    """Of each partition now.

    Args:
        done: what is committed, asked for before this: an end is never before what was committed earlier.
    """
    begins, ends = await consumer.beginning_offsets(list(places)), await consumer.end_offsets(list(places))
    return {place: Bounds(begins[place], ends[place], done.get(place)) for place in places}
