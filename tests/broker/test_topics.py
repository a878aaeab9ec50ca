"""Topics on a real broker: declared from the manifest, checked at start; and what a broker that does not answer looks like."""

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from export_service.devstack.processes import free_port
from export_service.failures import SettingsError, Unavailable
from export_service.settings import Settings, load
from streams.publisher import KafkaPublisher
from streams.topics import declare, ensure, topics

pytestmark = pytest.mark.broker


async def test_declare_creates_what_is_missing_once_and_state_topics_only_compact(settings: Settings) -> None:
    manifest = topics(settings).manifest()
    assert await declare(settings, manifest) == [spec.name for spec in manifest]
    assert await declare(settings, manifest) == []
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap_servers)
    await admin.start()
    try:
        changelog = topics(settings).jobs_changelog.name
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, changelog)])
        values = {entry[0]: entry[1] for entry in answer.resources[0][4]}
        assert values["cleanup.policy"] == "compact"
    finally:
        await admin.close()


async def test_a_missing_topic_stops_the_start_with_the_way_out(settings: Settings) -> None:
    strict = settings.model_copy(update={"topics": settings.topics.model_copy(update={"declare": False})})
    with pytest.raises(SettingsError, match="export-service topics declare"):
        await ensure(strict, topics(strict))


async def test_another_number_of_partitions_stops_the_start_and_names_the_setting(settings: Settings) -> None:
    await ensure(settings, topics(settings))
    other = settings.model_copy(update={"topics": settings.topics.model_copy(update={"partitions": 3})})
    with pytest.raises(SettingsError, match="has 2 partitions, EXPORT_TOPICS_PARTITIONS says 3"):
        await ensure(other, topics(other))


async def test_a_broker_that_does_not_answer_is_a_sentence_with_the_setting() -> None:
    nowhere = load(kafka={"bootstrap_servers": f"127.0.0.1:{free_port()}"})
    with pytest.raises(Unavailable, match="check EXPORT_KAFKA_BOOTSTRAP_SERVERS"):
        await ensure(nowhere, topics(nowhere))
    with pytest.raises(Unavailable, match="check EXPORT_KAFKA_BOOTSTRAP_SERVERS"):
        async with KafkaPublisher(nowhere):
            pass
