"""What `doctor` tries, against an emulator that looks at policies: those of deploy/iam suffice, and what is missing is named."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.permissions import tries, try_all
from export_service.devstack import aws, processes
from export_service.findings import Finding, Level
from export_service.settings import ROLES, Settings, load
from tests.unit.test_deploy import ALLOWED, as_list, policy

IAM_ROLES = [role for role in (*ROLES, "sweep") if role != "tally"]
"""Those that call AWS."""
ARNS = {
    "${QueueArn}": f"arn:aws:sqs:us-east-1:{aws.ACCOUNT}:{aws.QUEUE}",
    # Of DynamoDB the emulator looks at the action only.
    "${TableArn}": "*",
    "${SourceBucket}": aws.BUCKET,
    "${DestinationBucket}": aws.BUCKET,
}


class Emulator:
    """With the resources of a deployment, and a user for each policy that a test wants."""

    def __init__(self, url: str) -> None:
        self.url, self._aws, self._users = url, aws.Aws(url), 0
        self._count(10_000)
        self._aws.client("sqs").create_queue(QueueName=aws.QUEUE)
        aws.create_table(self._aws.client("dynamodb"), aws.TABLE)
        self._aws.client("s3").create_bucket(Bucket=aws.BUCKET)
        self._aws.client("s3").put_object(Bucket=aws.BUCKET, Key="there", Body=b"x")

    def uploads(self) -> list[Any]:
        self._count(10_000)
        found: list[Any] = self._aws.client("s3").list_multipart_uploads(Bucket=aws.BUCKET).get("Uploads", [])
        return found

    def user(self, document: dict[str, Any]) -> dict[str, str]:
        """His credentials. From now on the emulator looks."""
        self._count(10_000)
        self._users += 1
        name, iam = f"u{self._users}", self._aws.client("iam")
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(document))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        self._count(0)
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}

    def _count(self, free: int) -> None:
        # As a form, it would not be read.
        plain = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/moto-api/reset-auth", str(free).encode(), plain, method="POST"))


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    port = processes.free_port()
    command = (str(Path(sys.executable).with_name("moto_server")), "-p", str(port))
    child: subprocess.Popen[bytes] = processes.start(command, tmp_path_factory.mktemp("moto") / "log", {})
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=1)
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield Emulator(f"http://127.0.0.1:{port}")
    finally:
        child.kill()
        child.wait()


def settings_for(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, credentials: dict[str, str]) -> Settings:
    for name, value in (credentials | {"AWS_ENDPOINT": emulator.url, "AWS_REGION": "us-east-1"}).items():
        monkeypatch.setenv(name, value)
    return load(
        queue={"url": f"{emulator.url}/{aws.ACCOUNT}/{aws.QUEUE}"},
        table={"name": aws.TABLE},
        destination=f"s3://{aws.BUCKET}/{{jobId}}/",
        catalog=f"s3://{aws.BUCKET}/{{exportId}}.jsonl",
    )


def filled(document: dict[str, Any], without: str = "") -> dict[str, Any]:
    text = json.dumps(document)
    for name, value in ARNS.items():
        text = text.replace(name, value)
    made: dict[str, Any] = json.loads(text)
    for statement in made["Statement"]:
        statement["Action"] = [action for action in as_list(statement["Action"]) if action != without]
    nothing = {"Effect": "Allow", "Action": "sts:GetCallerIdentity", "Resource": "*"}
    made["Statement"] = [statement for statement in made["Statement"] if statement["Action"]] or [nothing]
    return made


async def found(settings: Settings, role: str) -> list[Finding]:
    return [finding async for finding in try_all(settings, [role], f"s3://{aws.BUCKET}/there")]


@pytest.mark.parametrize("role", IAM_ROLES)
async def test_the_policy_of_a_role_allows_all_that_is_tried_and_what_is_taken_out_is_named(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    settings = settings_for(emulator, monkeypatch, emulator.user(filled(policy(role))))
    assert [finding for finding in await found(settings, role) if finding.level is not Level.OK] == []
    tried = {each.action for each in tries(settings, role)}
    for missing in tried:
        settings = settings_for(emulator, monkeypatch, emulator.user(filled(policy(role), missing)))
        failed = {finding.about: finding for finding in await found(settings, role) if finding.level is not Level.OK}
        assert f"allow {missing} as deploy/iam/{role}.json does" in failed.pop(f"{role}: {missing}").way_out
        # What begins an upload is not tried if it could not be aborted; without the queue's attributes nobody knows that it is empty.
        after = {"s3:AbortMultipartUpload": "s3:PutObject", "sqs:GetQueueAttributes": "sqs:ReceiveMessage"}
        assert {about: finding.level for about, finding in failed.items()} == (
            {f"{role}: {after[missing]}": Level.UNKNOWN} if after.get(missing) in tried else {}
        )
    assert emulator.uploads() == []


@pytest.mark.parametrize("role", (*ROLES, "sweep"))
def test_each_action_of_a_policy_is_tried_and_no_other(role: str) -> None:
    settings = load(queue={"url": "http://h/q"}, destination="s3://b/{jobId}/", catalog="s3://b/{exportId}.jsonl")
    assert {each.action for each in tries(settings, role, "s3://b/k")} == ALLOWED[role]
