"""deploy/cloudformation.yaml: valid, and the same roles, table and state machine as in the files beside it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from export_service.settings import Queue
from tests.unit.test_deploy import ALLOWED, ROOT, as_list, definition, policy

TEMPLATE = ROOT / "deploy" / "cloudformation.yaml"


class Loader(yaml.SafeLoader):
    """`!Sub "…"` and the like as {"Sub": "…"}."""


def _tagged(loader: Any, suffix: str, node: Any) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return {suffix: loader.construct_scalar(node)}
    return {suffix: loader.construct_sequence(node, deep=True)}


Loader.add_multi_constructor("!", _tagged)


def template() -> dict[str, Any]:
    read: dict[str, Any] = yaml.load(TEMPLATE.read_text(), Loader)
    return read


def resource(name: str) -> dict[str, Any]:
    found: dict[str, Any] = template()["Resources"][name]["Properties"]
    return found


def test_cfn_lint_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    from cfnlint.api import lint_file

    assert [str(match) for match in lint_file(Path(TEMPLATE))] == []
    capsys.readouterr()


def placeholder(resource: Any) -> str:
    """A resource of the template as the policies in iam/ write it."""
    if isinstance(resource, str):
        return resource
    ((function, value),) = resource.items()
    if function == "GetAtt":
        return {"Queue.Arn": "${QueueArn}", "Table.Arn": "${TableArn}"}[value]
    assert function == "Sub"
    return str(value).replace("${AWS::Partition}", "aws")


@pytest.mark.parametrize("role", ALLOWED)
def test_a_role_has_the_policy_of_its_file(role: str) -> None:
    (inline,) = resource(f"{role.capitalize()}Role")["Policies"]
    read = inline["PolicyDocument"]
    for statement in read["Statement"]:
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        statement["Resource"] = [placeholder(each) for each in resources]
    wanted = policy(role)
    for statement in [*read["Statement"], *wanted["Statement"]]:
        statement["Action"], statement["Resource"] = as_list(statement["Action"]), as_list(statement["Resource"])
    assert read == wanted


@pytest.mark.parametrize("role", ALLOWED)
def test_a_role_is_its_service_accounts_only(role: str) -> None:
    condition, text, pod_identity = resource(f"{role.capitalize()}Role")["AssumeRolePolicyDocument"]["If"]
    assert condition == "HasOidc"
    (statement,) = json.loads(text["Sub"])["Statement"]
    assert statement["Condition"] == {
        "StringEquals": {
            "${OidcIssuer}:aud": "sts.amazonaws.com",
            "${OidcIssuer}:sub": f"system:serviceaccount:${{ServiceAccounts}}-{role}",
        }
    }
    assert pod_identity["Statement"][0]["Principal"] == {"Service": "pods.eks.amazonaws.com"}


def test_the_state_machine_is_that_of_its_file() -> None:
    text, names = resource("StateMachine")["DefinitionString"]["Sub"]
    assert json.loads(text) == definition()
    assert names == {"QueueUrl": {"Ref": "Queue"}}


def test_the_table_keeps_what_it_must_and_no_longer() -> None:
    table = resource("Table")
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expiresAt", "Enabled": True}
    assert '"expiresAt"' in (ROOT / "connectors" / "dynamodb.py").read_text()
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert {template()["Resources"][name]["DeletionPolicy"] for name in ("Table", "Queue", "DeadLetterQueue")} == {"Retain"}


def test_the_queue_lets_the_connector_be_first() -> None:
    parameters = template()["Parameters"]
    assert parameters["MaxReceiveCount"]["Default"] > Queue().max_receives
    assert resource("Queue")["RedrivePolicy"]["maxReceiveCount"] == {"Ref": "MaxReceiveCount"}
    assert resource("Queue")["VisibilityTimeout"] >= 60


def test_the_alarms_get_what_their_template_asks_for() -> None:
    alarms = ROOT / "deploy" / "cloudwatch" / "alarms.yml"
    if not alarms.exists():
        pytest.skip("the alarms are not here yet")
    parameters = yaml.load(alarms.read_text(), Loader)["Parameters"]
    given = set(resource("Alarms")["Parameters"])
    assert given <= set(parameters)
    assert {name for name, parameter in parameters.items() if "Default" not in parameter} <= given
