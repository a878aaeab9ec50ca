"""The files that people deploy: well formed, and in step with the code."""

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from export_service.settings import ROLES, Aws, Settings

ROOT = Path(__file__).parents[2]
PLACEHOLDERS = {"${QueueArn}", "${TableArn}", "${SourceBucket}", "${DestinationBucket}"}
ALLOWED = {
    "connector": {
        "sqs:ReceiveMessage",
        "sqs:DeleteMessage",
        "sqs:ChangeMessageVisibility",
        "sqs:GetQueueAttributes",
        "dynamodb:Query",
        "dynamodb:PutItem",
        "dynamodb:UpdateItem",
        "states:SendTaskFailure",
    },
    "plan": {"s3:GetObject", "s3:ListBucket", "dynamodb:GetItem", "dynamodb:UpdateItem"},
    "download": {"s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "dynamodb:GetItem"},
    "tally": set(),
    "callback": {
        "states:SendTaskSuccess",
        "states:SendTaskFailure",
        "dynamodb:UpdateItem",
        "s3:PutObject",
        "s3:AbortMultipartUpload",
    },
    "snapshot": {"dynamodb:PutItem"},
    "watch": {"states:SendTaskHeartbeat", "dynamodb:GetItem"},
    "sweep": {"s3:ListBucketMultipartUploads", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"},
}
"""The AWS calls of each role, and of a command."""
CALLS = {
    "receive_message": "sqs:ReceiveMessage",
    "delete_message_batch": "sqs:DeleteMessage",
    "change_message_visibility": "sqs:ChangeMessageVisibility",
    "change_message_visibility_batch": "sqs:ChangeMessageVisibility",
    "get_queue_attributes": "sqs:GetQueueAttributes",
    "query": "dynamodb:Query",
    "get_item": "dynamodb:GetItem",
    "put_item": "dynamodb:PutItem",
    "update_item": "dynamodb:UpdateItem",
    "get_object": "s3:GetObject",
    "list_objects_v2": "s3:ListBucket",
    "put_object": "s3:PutObject",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "head_object": "s3:GetObject",
    "copy_object": "s3:PutObject",
    "upload_part_copy": "s3:PutObject",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "list_parts": "s3:ListMultipartUploadParts",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "send_task_success": "states:SendTaskSuccess",
    "send_task_failure": "states:SendTaskFailure",
    "send_task_heartbeat": "states:SendTaskHeartbeat",
}
"""boto operation -> the IAM action that it needs."""
BY_NAME = ("_call", "get_paginator")
"""Methods that take an operation by name."""


def policy(role: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((ROOT / "deploy" / "iam" / f"{role}.json").read_text())
    return read


def as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else value


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return read


def definition() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((ROOT / "deploy" / "state-machine.asl.json").read_text())
    return read


def test_every_role_has_a_policy_and_so_has_the_sweep() -> None:
    assert {path.stem for path in (ROOT / "deploy" / "iam").iterdir()} == {*ROLES, "sweep"}


@pytest.mark.parametrize("role", ALLOWED)
def test_a_policy_allows_what_its_role_calls_and_nothing_else(role: str) -> None:
    read = policy(role)
    assert read["Version"] == "2012-10-17"
    statements = read["Statement"]
    assert all(set(statement) == {"Sid", "Effect", "Action", "Resource"} for statement in statements)
    allowed = {action for s in statements if s["Effect"] == "Allow" for action in as_list(s["Action"])}
    assert allowed == ALLOWED[role]
    assert not any("*" in action for action in allowed)


@pytest.mark.parametrize("role", ALLOWED)
def test_only_task_answers_are_allowed_on_every_resource(role: str) -> None:
    for statement in policy(role)["Statement"]:
        resources = as_list(statement["Resource"])
        if statement["Effect"] == "Allow":
            answers = all(action.startswith("states:SendTask") for action in as_list(statement["Action"]))
            assert (resources == ["*"]) == answers
        assert set(re.findall(r"\$\{\w+\}", json.dumps(resources))) <= PLACEHOLDERS


def test_the_code_makes_no_aws_call_that_no_policy_allows() -> None:
    used: set[str] = set()
    for path in (ROOT / "connectors").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            # `self._client.get_object(…)`, or by name: `_call("get_item", …)`, `get_paginator("list_objects_v2")`.
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "_client":
                used.add(node.attr)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in BY_NAME:
                used |= {str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)}
    # Ways to make calls, and what our own client of S3 has besides them.
    used -= {"get_paginator", "reach", "moved", "at_hand", "start", "failure", "boto", "plain"}
    assert used == set(CALLS), "an AWS call is new or gone: change CALLS here, the policies, and deploy/README.md"
    assert {CALLS[name] for name in used} == set().union(*ALLOWED.values())


def test_the_state_machine_waits_and_catches() -> None:
    states = definition()["States"]
    assert {"StartExportJob", "ProcessResults", "HandleFailure", "HandlePartialFailure", "HandleTimeout"} <= set(states)
    waiting = states["StartExportJob"]
    assert waiting["Resource"] == "arn:aws:states:::sqs:sendMessage.waitForTaskToken"
    assert waiting["Parameters"]["MessageBody"]["taskToken.$"] == "$$.Task.Token"
    assert waiting["TimeoutSeconds"] >= waiting["HeartbeatSeconds"] > 0
    caught = {error: catch["Next"] for catch in waiting["Catch"] for error in catch["ErrorEquals"]}
    assert caught["JobCompletedWithFailures"] == "HandlePartialFailure"
    assert caught["States.Timeout"] == "HandleTimeout"
    assert caught["States.ALL"] == "HandleFailure"


def test_the_state_machine_leads_nowhere_else() -> None:
    states = definition()["States"]
    targets = {definition()["StartAt"]}
    for state in states.values():
        targets |= {catch["Next"] for catch in state.get("Catch", ())} | ({state["Next"]} if "Next" in state else set())
    assert targets == set(states)


def test_compose_is_valid() -> None:
    # The package's own command does not start with our click, but it carries the schema of the Compose specification.
    schema = importlib.metadata.distribution("check-jsonschema").locate_file(
        "check_jsonschema/builtin_schemas/vendor/compose-spec.json"
    )
    jsonschema.validate(compose(), json.loads(Path(str(schema)).read_text()))


@pytest.mark.skipif(shutil.which("docker") is None, reason="no docker client")
def test_docker_compose_reads_it() -> None:
    if subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=30).returncode:
        pytest.skip("this docker client has no compose")
    subprocess.run(["docker", "compose", "config", "--quiet"], cwd=ROOT, check=True, timeout=60)


def test_compose_starts_things_in_order() -> None:
    services = compose()["services"]
    assert set(services) == {"kafka", "aws", "setup", *ROLES, "console", "prometheus", "grafana"}
    assert services["kafka"]["image"] == "apache/kafka:4.3.1"
    for service in ("kafka", "aws"):
        assert services[service]["healthcheck"]["test"]
        assert services["setup"]["depends_on"][service] == {"condition": "service_healthy"}
    for role in ROLES:
        assert services[role]["command"] == ["worker", "--role", role]
        assert services[role]["depends_on"]["setup"] == {"condition": "service_completed_successfully"}
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published), "an unauthenticated service is for this machine only"


def test_compose_mounts_what_is_there_and_prometheus_asks_every_role() -> None:
    for service in compose()["services"].values():
        mounts = [volume.split(":")[0] for volume in service.get("volumes", ())]
        assert all((ROOT / mount).exists() for mount in mounts if mount.startswith("./"))
    (job,) = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    (asked,) = job["dns_sd_configs"]
    assert asked["names"] == list(ROLES)
    assert compose()["services"]["watch"]["expose"] == [str(asked["port"])]
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"


def test_compose_sets_only_settings_that_exist() -> None:
    known = variables(Settings, "EXPORT_") | variables(Aws, "AWS_") | {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    for service in ("setup", "console", *ROLES):
        assert set(compose()["services"][service]["environment"]) <= known


def test_compose_names_what_the_emulator_creates() -> None:
    from export_service.devstack import aws

    environment = compose()["services"]["connector"]["environment"]
    assert environment["EXPORT_QUEUE_URL"] == f"{environment['AWS_ENDPOINT']}/{aws.ACCOUNT}/{aws.QUEUE}"
    assert environment["EXPORT_TABLE_NAME"] == aws.TABLE
    assert environment["EXPORT_CATALOG"].startswith(f"s3://{aws.BUCKET}/")


def test_the_images_that_compose_builds_are_targets_of_the_dockerfile() -> None:
    text = (ROOT / "Dockerfile").read_text()
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
    assert {service["build"]["target"] for service in compose()["services"].values() if "build" in service} <= targets
    last = text[text.rindex("\nFROM ") :]
    assert "AS worker" in last, "a plain `docker build .` gives the worker"
    assert "STOPSIGNAL SIGTERM" in last
    assert 'ENTRYPOINT ["export-service"]' in last
    assert 'CMD ["worker"]' in last
    assert "pip" not in last


@pytest.mark.parametrize(
    "page", ["README.md", "deploy/README.md", *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md")))]
)
def test_a_page_names_settings_and_pages_that_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    # The second is of the embedded stack.
    known = variables(Settings, "EXPORT_") | {"EXPORT_KAFKA_SASL_PASSWORD_FILE", "EXPORT_STATE_MACHINE_ARN"}
    named = set(re.findall(r"\bEXPORT_[A-Z_]*[A-Z]\b(?!_)", text))
    assert {name for name in named if name not in known} == set()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def variables(model: Any, prefix: str) -> set[str]:
    """The environment variables of a settings class and its groups."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        inner = field.annotation
        if hasattr(inner, "model_fields"):
            found |= variables(inner, f"{prefix}{name.upper()}_")
        else:
            found.add(prefix + name.upper())
    return found
