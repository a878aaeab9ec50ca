"""Where partitions begin and end, and what is committed, by the broker's word."""

import time
from collections.abc import Collection, Mapping

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


async def written(consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int], seconds: float) -> dict[TopicPartition, int]:
    """Timestamp, in ms, of the record at each offset, or of the first one after it; only of those that come within `seconds`."""
    found: dict[TopicPartition, int] = {}
    if not offsets:
        return found
    consumer.assign(list(offsets))
    for place, offset in offsets.items():
        consumer.seek(place, offset)
    left, deadline = set(offsets), time.monotonic() + seconds
    while left and time.monotonic() < deadline:
        for place, records in (await consumer.getmany(*left, timeout_ms=200)).items():
            found[place] = records[0].timestamp
            left.discard(place)
            consumer.pause(place)
    consumer.pause(*left)
    return found
