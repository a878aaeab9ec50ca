"""Looks at Kafka as a worker needs it: topics as the manifest says, tables beside their source, and versions."""

import platform
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import version
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from export_service.failures import SettingsError
from export_service.findings import Finding, Level
from export_service.settings import Settings
from streams.app import require_compiled_iterator
from streams.kafka_client import connection, unreachable
from streams.topics import TopicSpec, short_names, topics

_CONFIGS = ("cleanup.policy", "retention.ms", "max.message.bytes", "min.insync.replicas")
_PACKAGES = ("faust-streaming", "aiokafka", "aioboto3", "pydantic", "pycurl", "rocksdict")


def versions() -> list[Finding]:
    found = f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    try:
        require_compiled_iterator()
    except SettingsError as error:
        return [Finding(Level.FAILED, "versions", found, str(error))]
    return [Finding(Level.OK, "versions", found)]


async def look_at_topics(settings: Settings) -> AsyncIterator[Finding]:
    """A finding for each topic, one for the brokers, one for co-partitioning."""
    admin = AIOKafkaAdminClient(**connection(settings))
    try:
        await admin.start()
        brokers = (await admin.describe_cluster())["brokers"]
        existing = set(await admin.list_topics())
        specs = short_names(topics(settings))
        there = [spec.name for spec in specs.values() if spec.name in existing]
        described = {each["topic"]: each for each in (await admin.describe_topics(there) if there else ())}
        configs = await _configs(admin, there)
    except (TimeoutError, KafkaError) as error:
        failed = unreachable(settings, error)
        yield Finding(Level.FAILED, "Kafka", f"does not answer ({failed.detail})", f"check {failed.setting}")
        return
    finally:
        await admin.close()
    yield _brokers(settings, len(brokers))
    for short, spec in specs.items():
        if spec.name not in described:
            yield Finding(Level.FAILED, short, f"topic {spec.name} does not exist", "export-service topics declare")
        else:
            yield _topic(short, spec, described[spec.name]["partitions"], configs[spec.name], settings)
    yield _beside({short: len(described[spec.name]["partitions"]) for short, spec in specs.items() if spec.name in described})


def _brokers(settings: Settings, number: int) -> Finding:
    wanted = settings.kafka.replication_factor
    if number < wanted:
        text = f"{number} brokers, EXPORT_KAFKA_REPLICATION_FACTOR={wanted}"
        return Finding(Level.FAILED, "Kafka", text, "start more brokers, or lower it before topics are declared")
    if wanted < 3:
        text = f"answers, {number} broker{'s' * (number != 1)}; EXPORT_KAFKA_REPLICATION_FACTOR={wanted}: what its one disk loses is lost"
        return Finding(Level.WARNING, "Kafka", text, "3 in production, before topics are declared")
    return Finding(Level.OK, "Kafka", f"answers, {number} brokers")


def _topic(short: str, spec: TopicSpec, partitions: list[dict[str, Any]], config: Mapping[str, str], settings: Settings) -> Finding:
    alter = f"kafka-configs --alter --topic {spec.name} --add-config "
    number, grown = len(partitions), short == "tasks" and len(partitions) >= spec.partitions
    if number != spec.partitions and not grown:
        setting = "EXPORT_TOPICS_TASK_PARTITIONS" if short == "tasks" else "EXPORT_TOPICS_PARTITIONS"
        return Finding(
            Level.FAILED,
            short,
            f"{number} partitions, {setting} says {spec.partitions}",
            "set it to what exists, or use another EXPORT_TOPICS_PREFIX and EXPORT_APP_ID",
        )
    policy, wanted = set(config["cleanup.policy"].split(",")), set(spec.config["cleanup.policy"].split(","))
    if policy != wanted:
        # What is compacted away, or expires, of a topic that should not, is lost; the other way the topic only grows.
        level = Level.FAILED if policy - wanted else Level.WARNING
        text = f"cleanup.policy is {config['cleanup.policy']}, should be {spec.config['cleanup.policy']}"
        return Finding(level, short, text, f"{alter}cleanup.policy=[{spec.config['cleanup.policy']}]")
    largest = spec.config.get("max.message.bytes")
    if largest is not None and int(config["max.message.bytes"]) < int(largest):
        text = f"max.message.bytes is {config['max.message.bytes']}: a large request cannot pass"
        return Finding(Level.FAILED, short, text, f"{alter}max.message.bytes={largest}")
    keeps = spec.config.get("retention.ms")
    if keeps is not None and 0 <= int(config["retention.ms"]) < int(keeps):
        text = f"retention.ms is {config['retention.ms']}, the manifest says {keeps}: what is older cannot be replayed"
        return Finding(Level.WARNING, short, text, f"{alter}retention.ms={keeps}")
    copies = min((len(each["replicas"]) for each in partitions), default=0)
    if copies < settings.kafka.replication_factor:
        text = f"{copies} copies, EXPORT_KAFKA_REPLICATION_FACTOR says {settings.kafka.replication_factor}"
        return Finding(Level.WARNING, short, text, "kafka-reassign-partitions")
    if any(len(each["isr"]) < int(config["min.insync.replicas"]) for each in partitions):
        return Finding(
            Level.FAILED, short, "some partitions have too few copies in sync: nothing can be written", "look at the brokers"
        )
    return Finding(Level.OK, short, f"{number} partitions, {config['cleanup.policy']}")


def _beside(numbers: Mapping[str, int]) -> Finding:
    """A table's changelog partition belongs to the source partition of the same number, and a reader finds a job's by its id."""
    own = ("requests", "results", "snapshots", "completions", "callbacks", "dead-letters", "jobs-changelog", "shards-changelog")
    found = {short: numbers[short] for short in own if short in numbers}
    if len(set(found.values())) > 1:
        text = ", ".join(f"{short} has {number}" for short, number in found.items())
        return Finding(
            Level.FAILED,
            "co-partitioning",
            f"not all have one number of partitions: {text}",
            "use another EXPORT_TOPICS_PREFIX and EXPORT_APP_ID",
        )
    return Finding(Level.OK, "co-partitioning", "results, its tables and all that is kept by job have one number of partitions")


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    wanted = [ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(_CONFIGS, "")) for name in names]
    answers = await admin.describe_configs(wanted)
    return {name: {entry[0]: entry[1] for entry in entries} for answer in answers for _, _, _, name, entries in answer.resources}
