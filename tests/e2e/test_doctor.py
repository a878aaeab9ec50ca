"""`export-service doctor` on a real broker and the emulator: well, and with one thing wrong at a time."""

import asyncio
import json
import subprocess
import sys

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from export_service.cli.main import EXIT_SETTINGS
from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e


def ask(world: World, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "export_service", *arguments]
    return subprocess.run(command, env=world.env | env, capture_output=True, text=True, timeout=120)


def by_subject(ran: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str, str | None]]:
    assert "Traceback" not in ran.stderr
    return {row["about"]: (row["level"], row["text"], row["wayOut"]) for row in json.loads(ran.stdout)["findings"]}


def test_the_doctor_finds_what_is_wrong_and_says_what_to_do(world: World) -> None:
    prefix = world.env["EXPORT_TOPICS_PREFIX"]
    missing = by_subject(ran := ask(world, "doctor", "--role", "snapshot", "--json"))
    assert ran.returncode == 1
    assert missing["results"] == ("failed", f"topic {prefix}results does not exist", "export-service topics declare")
    assert ask(world, "topics", "declare").returncode == 0

    # A folder of its own: other tests' jobs leave uploads in the bucket.
    well = ask(world, "doctor", EXPORT_DESTINATION=f"s3://exports/{prefix}doctor/{{jobId}}/")
    assert well.returncode == 0, well.stdout
    assert "ok      connector: sqs:DeleteMessage: allowed" in well.stdout
    assert "ok      callback: s3:PutObject: allowed" in well.stdout
    assert "ok      clock: this machine's clock is within 5 s of AWS's" in well.stdout
    assert "FAILED" not in well.stdout
    uploads = world.aws.client("s3").list_multipart_uploads(Bucket="exports").get("Uploads", [])
    assert [upload["Key"] for upload in uploads if upload["Key"].startswith(prefix)] == []

    async def spoil() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=world.env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"])
        await admin.start()
        for topic, configs in (
            ("snapshots", {"cleanup.policy": "delete"}),
            ("requests", {"cleanup.policy": "delete", "retention.ms": "1000", "max.message.bytes": "8388608"}),
            ("dead-letters", {"cleanup.policy": "delete", "max.message.bytes": "1000"}),
        ):
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, prefix + topic, configs)])
        await admin.close()

    asyncio.run(spoil())
    found = by_subject(
        ran := ask(
            world,
            *("doctor", "--role", "connector,snapshot", "--json"),
            EXPORT_TOPICS_TASK_PARTITIONS="3",
            EXPORT_TABLE_NAME="no-such-table",
            EXPORT_QUEUE_URL=world.queue + "-gone",
        )
    )
    assert ran.returncode == 1
    failed = {about for about, (level, _, _) in found.items() if level == "failed"}
    assert {"tasks", "snapshots", "dead-letters", "connector: sqs:DeleteMessage", "snapshot: dynamodb:PutItem"} <= failed
    assert found["requests"][0] == "warning"
    assert "retention.ms is 1000" in found["requests"][1]
    assert found["snapshots"][1] == "cleanup.policy is delete, should be compact"
    assert found["tasks"][1] == "2 partitions, EXPORT_TOPICS_TASK_PARTITIONS says 3"
    assert "EXPORT_TABLE_NAME" in (found["snapshot: dynamodb:PutItem"][2] or "")
    for _, _, way_out in (value for value in found.values() if value[0] != "ok"):
        assert way_out

    away = ask(world, "doctor", "--role", "tally", EXPORT_KAFKA_BOOTSTRAP_SERVERS="localhost:1")
    assert away.returncode == 1
    assert "FAILED  Kafka: does not answer (localhost:1: KafkaConnectionError)" in away.stdout
    wrong = ask(world, "doctor", "--role", "driver")
    assert (wrong.returncode, wrong.stdout) == (EXIT_SETTINGS, "")
    assert "--role driver: known are connector" in wrong.stderr
