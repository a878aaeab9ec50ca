"""The stack of deploy/cloudformation.yaml in the emulator: everything is there, and an export runs against it."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from export_service.devstack import aws
from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e
TEMPLATE = Path(__file__).parents[2] / "deploy" / "cloudformation.yaml"


def deploy(world: World) -> dict[str, str]:
    """A stack of this world's own; its outputs."""
    stacks, name = world.aws.client("cloudformation"), f"s-{uuid.uuid4().hex[:8]}"
    parameters = {"Name": name, "SourceBucket": "exports", "DestinationBucket": "exports"}
    stacks.create_stack(
        StackName=name,
        TemplateBody=TEMPLATE.read_text(),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    (stack,) = stacks.describe_stacks(StackName=name)["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def described(world: World, name: str) -> dict[str, Any]:
    """Without time to live and recovery, which the emulator leaves out of tables of templates."""
    table = world.table.describe_table(TableName=name)["Table"]
    kept = ("KeySchema", "AttributeDefinitions")
    indexes = {index["IndexName"]: (index["KeySchema"], index["Projection"]) for index in table["GlobalSecondaryIndexes"]}
    return {**{key: table[key] for key in kept}, "indexes": indexes, "billing": table["BillingModeSummary"]["BillingMode"]}


def test_an_export_runs_on_the_stack(world: World) -> None:
    outputs = deploy(world)
    assert described(world, outputs["TableName"]) == described(world, world.table_name), "as devstack/aws.py makes it"
    attributes = world.sqs.get_queue_attributes(QueueUrl=outputs["QueueUrl"], AttributeNames=["All"])["Attributes"]
    assert json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"].endswith("-jobs-dead")

    world.queue, world.table_name = outputs["QueueUrl"], outputs["TableName"]
    # The emulator keeps state machines of templates apart from those that it can run. A unit test says that this one is the same.
    assert outputs["StateMachineArn"].startswith(f"arn:aws:states:{aws.REGION}:{aws.ACCOUNT}:stateMachine:")
    world.arn = aws.create_state_machine(world.machine, f"m-{uuid.uuid4().hex[:8]}", world.queue)
    world.env |= {"EXPORT_QUEUE_URL": world.queue, "EXPORT_TABLE_NAME": world.table_name}
    world.catalog("good", ["a.txt", "b.txt"])
    world.worker()
    execution, job = world.execute("good")
    finished = world.finished(execution)
    assert finished["status"] == "SUCCEEDED"
    assert json.loads(finished["output"])["export"]["completedTasks"] == 2
    assert world.output(job).keys() == {"a.txt", "b.txt", "_report.jsonl"}
    assert world.queue_is_empty()


def test_a_role_of_the_stack_trusts_its_service_account(world: World) -> None:
    iam = world.aws.client("iam")
    outputs = deploy(world)
    for role, arn in {key: value for key, value in outputs.items() if key.endswith("RoleArn")}.items():
        name = arn.rpartition("/")[2]
        assert iam.list_role_policies(RoleName=name)["PolicyNames"] == [role.removesuffix("RoleArn").lower()]
    assert aws.ACCOUNT in outputs["ConnectorRoleArn"]
