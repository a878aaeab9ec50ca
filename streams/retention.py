"""What the topics still have, and until when: their settings at the broker, and the oldest record of each."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from export_service.messages import from_millis, iso_millis
from export_service.settings import Settings
from streams.kafka_client import connection, unreachable
from streams.topic_ranges import SMALL_FETCH, Span, TopicRanges
from streams.topics import short_names, topics

_WANTED = ("cleanup.policy", "retention.ms", "retention.bytes")


class Kept(NamedTuple):
    """`bytes`: that each partition keeps. `oldest`: time of the oldest record; None: there is none. `whole_since`: from then on nothing
    was removed; None: nothing ever was."""

    topic: str
    policy: str
    keeps: timedelta | None
    bytes: int | None
    records: int
    whole_since: datetime | None
    oldest: datetime | None

    @property
    def until(self) -> datetime | None:
        """From then on the oldest record may be removed. None: not by time."""
        return self.oldest + self.keeps if self.oldest and self.keeps and "delete" in self.policy else None

    def as_json(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "cleanupPolicy": self.policy,
            "keepsSeconds": self.keeps.total_seconds() if self.keeps else None,
            "keepsBytes": self.bytes,
            "records": self.records,
            "wholeSince": iso_millis(self.whole_since) if self.whole_since else None,
            "oldest": iso_millis(self.oldest) if self.oldest else None,
            "until": iso_millis(self.until) if self.until else None,
        }


async def retention(settings: Settings, wanted: Sequence[str] | None = None) -> list[Kept]:
    """Of each topic, in flow order. Raises SettingsError: a topic is missing; Unavailable."""
    specs = short_names(topics(settings))
    names = list(specs) if wanted is None else list(wanted)
    async with TopicRanges(settings, SMALL_FETCH) as ranges:
        bounds = await ranges.bounds(names)
        oldest: dict[str, int] = {}
        since: dict[str, int] = {}
        for place, each in bounds.items():
            if each.begin < each.end:
                # The first that is there: of a compacted topic it may have any offset.
                reading = ranges.read([Span(*place, each.begin, each.end)])
                try:
                    first = await anext(reading, None)
                finally:
                    await reading.aclose()
                if first is not None:
                    oldest[first.topic] = min(first.timestamp, oldest.get(first.topic, first.timestamp))
                    if each.begin:
                        since[first.topic] = max(first.timestamp, since.get(first.topic, 0))
    configs = await _configs(settings, [specs[name].name for name in names])
    found = []
    for name in names:
        config, mine = configs[specs[name].name], [each for (topic, _), each in bounds.items() if topic == name]
        keeps, size = int(config["retention.ms"]), int(config["retention.bytes"])
        found.append(
            Kept(
                name,
                config["cleanup.policy"],
                timedelta(milliseconds=keeps) if keeps >= 0 else None,
                size if size >= 0 else None,
                sum(each.end - each.begin for each in mine),
                from_millis(since[name]) if name in since else None,
                from_millis(oldest[name]) if name in oldest else None,
            )
        )
    return found


async def kept_for(settings: Settings, topic: str) -> timedelta | None:
    """How long the topic keeps a record; None: for ever. Raises Unavailable."""
    name = short_names(topics(settings))[topic].name
    config = (await _configs(settings, [name]))[name]
    millis = int(config["retention.ms"])
    return timedelta(milliseconds=millis) if millis >= 0 and "delete" in config["cleanup.policy"] else None


async def _configs(settings: Settings, names: Sequence[str]) -> dict[str, dict[str, str]]:
    admin = AIOKafkaAdminClient(**connection(settings))
    try:
        await admin.start()
        wanted = [ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(_WANTED, "")) for name in names]
        answers = await admin.describe_configs(wanted)
    except (TimeoutError, KafkaError) as error:
        raise unreachable(settings, error) from None
    finally:
        await admin.close()
    return {name: {entry[0]: entry[1] for entry in entries} for answer in answers for _, _, _, name, entries in answer.resources}
