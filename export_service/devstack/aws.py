"""The AWS side of the embedded stack: an emulator, and in it queue, table, bucket and state machine as deploy/ describes them."""

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export_service._app_path import app_root
from export_service.devstack.processes import DevstackError, start, tail

MARKER = "export_service.devstack.aws_server"
ACCOUNT, REGION = "123456789012", "us-east-1"
QUEUE, TABLE, BUCKET, STATE_MACHINE = "export-jobs", "export-jobs", "exports", "export"


def launch(folder: Path, port: int, *, detached: bool = False) -> "subprocess.Popen[bytes]":
    folder.mkdir(parents=True, exist_ok=True)
    # moto checks nobody, but botocore inside it wants credentials; its Step Functions call its SQS at MOTO_PORT.
    env = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": REGION, "MOTO_PORT": str(port)}
    return start([sys.executable, "-m", MARKER, str(port)], folder / "aws.log", env, detached=detached)


async def ready(process: "subprocess.Popen[bytes]", port: int, folder: Path, seconds: float = 60) -> None:
    """Wait until the emulator listens. Raises DevstackError with the end of its log."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DevstackError(f"the AWS emulator ended with code {process.returncode}:\n{tail(folder / 'aws.log')}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        await writer.wait_closed()
        return
    raise DevstackError(f"the AWS emulator did not answer on port {port} in {seconds:g} s:\n{tail(folder / 'aws.log')}")


@dataclass(frozen=True)
class Provisioned:
    queue_url: str
    state_machine_arn: str


class Aws:
    """boto3 clients of the emulator, or of any endpoint."""

    def __init__(self, endpoint: str) -> None:
        import boto3

        self._session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=REGION)
        self._endpoint = endpoint

    def client(self, service: str) -> Any:
        return self._session.client(service, endpoint_url=self._endpoint)

    def provision(self) -> Provisioned:
        """Queue, table with indexes and TTL, bucket, state machine."""
        self.client("s3").create_bucket(Bucket=BUCKET)
        create_table(self.client("dynamodb"), TABLE)
        queue_url = self.client("sqs").create_queue(QueueName=QUEUE, Attributes={"VisibilityTimeout": "60"})["QueueUrl"]
        return Provisioned(queue_url, create_state_machine(self.client("stepfunctions"), STATE_MACHINE, queue_url))


def create_table(client: Any, name: str) -> None:
    """DESIGN §3.3: one table, two indexes, TTL."""
    strings = ("pk", "sk", "userId", "status", "updatedAt")
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": attribute, "AttributeType": "S"} for attribute in strings],
        KeySchema=_keys("pk", "sk"),
        GlobalSecondaryIndexes=[
            {"IndexName": index, "KeySchema": _keys(attribute, "updatedAt"), "Projection": {"ProjectionType": "ALL"}}
            for index, attribute in (("by-user", "userId"), ("by-status", "status"))
        ],
    )
    client.update_time_to_live(TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expiresAt"})


def _keys(partition: str, sort: str) -> list[dict[str, str]]:
    return [{"AttributeName": partition, "KeyType": "HASH"}, {"AttributeName": sort, "KeyType": "RANGE"}]


def create_state_machine(client: Any, name: str, queue_url: str) -> str:
    """The state machine of deploy/state-machine.asl.json for this queue; its ARN."""
    answer = client.create_state_machine(
        name=name,
        definition=state_machine_definition().replace("${QueueUrl}", queue_url),
        roleArn=f"arn:aws:iam::{ACCOUNT}:role/export-state-machine",
    )
    return str(answer["stateMachineArn"])


def state_machine_definition() -> str:
    """The text of the definition, with `${QueueUrl}` in it."""
    packed = Path(__file__).parent / "state-machine.asl.json"
    text = (packed if packed.exists() else app_root() / "deploy" / "state-machine.asl.json").read_text()
    json.loads(text)
    return text
