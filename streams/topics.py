"""All topics, in flow order: the one manifest of names, partitions, retention and cleanup. Production never auto-creates.

P is one fixed number for every state topic, because Faust joins a table's changelog partition to its source partition by number.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from export_service.failures import SettingsError
from export_service.settings import Settings
from streams.kafka_client import MAX_RECORD_BYTES, connection, unreachable

_RESULTS = "JobAccepted, JobPlanned, PlanFailed, TaskResults, AttemptOpened, JobCancelled, JobRebuilt"
_MAY_FAIL = "connector plan download tally callback snapshot"
_DAY_MS = 24 * 3600 * 1000
_SEGMENT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class TopicSpec:
    name: str
    key: str
    carries: str
    partitions: int
    _: KW_ONLY
    written_by: tuple[str, ...]
    """Roles; `people` are commands of `export-service` that change something, such as `dead-letters redrive`, `rewind`, `limits set`."""
    read_by: tuple[str, ...]
    """Besides, `explain`, `export`, `replay` and `verify` may read all of them."""
    retention_days: int | None = 14
    compacted: bool = False
    expires: bool = False
    """Compacted, and old keys go too. Not for a changelog: recovery waits for the last offset, and a deleted one never comes."""
    fleeting: bool = False
    """Of no use a moment later: kept for an hour."""
    whole_messages: bool = False
    """Carries whole SQS bodies, which are up to 1 MiB before JSON escapes them."""

    @property
    def config(self) -> Mapping[str, str]:
        if self.compacted and not self.expires:
            # The newest segment is never compacted, and a reader of the whole topic reads all of it: by default up to 1 GiB a partition.
            return {"cleanup.policy": "compact", "segment.bytes": str(_SEGMENT_BYTES), "compression.type": "producer"}
        if self.fleeting:
            # Segments are removed whole, and by default one lasts for a week.
            hour = str(_DAY_MS // 24)
            return {"cleanup.policy": "delete", "retention.ms": hour, "segment.ms": hour, "compression.type": "producer"}
        days = self.retention_days or 14
        policy = "compact,delete" if self.compacted else "delete"
        config = {"cleanup.policy": policy, "retention.ms": str(days * _DAY_MS), "compression.type": "producer"}
        return config | ({"max.message.bytes": str(MAX_RECORD_BYTES)} if self.whole_messages else {})


@dataclass(frozen=True)
class Topics:
    """The manifest, in flow order."""

    requests: TopicSpec
    tasks: TopicSpec
    results: TopicSpec
    snapshots: TopicSpec
    completions: TopicSpec
    callbacks: TopicSpec
    cancellations: TopicSpec
    demand: TopicSpec
    limits: TopicSpec
    dead_letters: TopicSpec
    operations: TopicSpec
    jobs_changelog: TopicSpec
    shards_changelog: TopicSpec

    def manifest(self) -> tuple[TopicSpec, ...]:
        return tuple(getattr(self, spec.name) for spec in fields(self))


def short_names(names: Topics) -> dict[str, TopicSpec]:
    """`requests`, …, `jobs-changelog`: what a topic is called whatever its prefix."""
    return {field.name.replace("_", "-"): getattr(names, field.name) for field in fields(names)}


def topics(settings: Settings) -> Topics:
    p, d = settings.topics.partitions, settings.topics.task_partitions

    def topic(short: str, key: str, carries: str, by: str, to: str, *, partitions: int = p, **how: Any) -> TopicSpec:
        full = (f"{settings.app_id}-tally-" if short.endswith("-changelog") else settings.topics.prefix) + short
        return TopicSpec(full, key, carries, partitions, written_by=tuple(by.split()), read_by=tuple(to.split()), **how)

    return Topics(
        requests=topic("requests", "job", "ExportRequested", "connector tally people", "plan", whole_messages=True),
        tasks=topic("tasks", "job:index", "TaskBatch", "plan download people", "download", partitions=d),
        results=topic("results", "job", _RESULTS, "connector plan download watch people", "tally callback", whole_messages=True),
        snapshots=topic("snapshots", "job", "JobSnapshot", "tally people", "snapshot watch", compacted=True),
        completions=topic("completions", "job", "JobCompleted", "tally people", "callback"),
        callbacks=topic("callbacks", "job", "CallbackAnswered", "callback", "people", retention_days=90),
        cancellations=topic(
            "cancellations", "job", "JobCancelled", "tally", "plan download", partitions=1, compacted=True, expires=True
        ),
        demand=topic("demand", "worker", "DownloadDemand", "download", "plan download", partitions=1, fleeting=True),
        limits=topic("limits", "download", "DownloadLimits", "people", "download people", partitions=1, compacted=True),
        dead_letters=topic("dead-letters", "source key", "DeadLetter", _MAY_FAIL, "people", retention_days=90, whole_messages=True),
        operations=topic("operations", "subject", "OperatorAction", "people", "people", partitions=1, retention_days=90),
        jobs_changelog=topic("jobs-changelog", "job", "JobState", "tally people", "tally people", compacted=True),
        shards_changelog=topic("shards-changelog", "job/shard", "Shard", "tally people", "tally people", compacted=True),
    )


async def ensure(settings: Settings, names: Topics) -> None:
    """Create what is missing if EXPORT_TOPICS_DECLARE says so; otherwise refuse to start without it.

    Raises:
        Unavailable, SettingsError: as `declare`; SettingsError also when a topic is missing.
    """
    await declare(settings, names.manifest(), create=settings.topics.declare)


async def declare(settings: Settings, manifest: Sequence[TopicSpec], *, create: bool = True) -> list[str]:
    """Create the topics that are missing; the names of those created.

    Raises:
        Unavailable: no broker answers.
        SettingsError: a topic exists with another number of partitions than a state topic may have.
    """
    admin = AIOKafkaAdminClient(**connection(settings))
    try:
        await admin.start()
    except KafkaError as error:
        raise unreachable(settings, error) from None
    try:
        existing = set(await admin.list_topics())
        missing = [spec for spec in manifest if spec.name not in existing]
        if missing and not create:
            raise SettingsError(
                f"topics are missing: {', '.join(spec.name for spec in missing)}; "
                "run `export-service topics declare`, or set EXPORT_TOPICS_DECLARE=true"
            )
        if missing:
            replicas = settings.kafka.replication_factor
            # What a leader alone has confirmed is lost with it. One copy may be away, as in any rolling restart of brokers.
            in_sync = {"min.insync.replicas": str(max(1, replicas - 1))}
            new = [NewTopic(spec.name, spec.partitions, replicas, topic_configs={**spec.config, **in_sync}) for spec in missing]
            answer = await admin.create_topics(new)
            for topic, code, *rest in answer.topic_errors:
                if code == TopicAlreadyExistsError.errno:
                    # Another worker that starts beside us was faster, or the list was older than the topics.
                    missing = [spec for spec in missing if spec.name != topic]
                elif code != 0:
                    raise SettingsError(f"Kafka refuses to create topic {topic}: {for_code(code).__name__} {rest}")
        await _check_partitions(admin, manifest)
        return [spec.name for spec in missing]
    except (KafkaError, TimeoutError) as error:
        raise unreachable(settings, error) from None
    finally:
        await admin.close()


async def _check_partitions(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> None:
    by_name = {spec.name: spec for spec in specs}
    async with asyncio.timeout(30):
        # A broker hears of a new topic a moment after the controller has made it.
        while not all(found["partitions"] for found in await admin.describe_topics(list(by_name))):
            await asyncio.sleep(0.05)
        described = await admin.describe_topics(list(by_name))
    for found in described:
        spec = by_name[found["topic"]]
        actual = len(found["partitions"])
        grown_tasks = spec.key == "job:index" and actual >= spec.partitions
        if actual != spec.partitions and not grown_tasks:
            setting = "EXPORT_TOPICS_TASK_PARTITIONS" if spec.key == "job:index" else "EXPORT_TOPICS_PARTITIONS"
            raise SettingsError(
                f"topic {spec.name} has {actual} partitions, {setting} says {spec.partitions}; "
                "set it to what exists, or use another EXPORT_TOPICS_PREFIX and EXPORT_APP_ID"
            )
