"""The Helm chart, as helm has rendered it: of the newest templates, what the schemas allow, locked down, and in step with our settings.

helm takes minutes to make, so its output is in deploy/helm/rendered. Where helm is on PATH the chart is linted and rendered again.
"""

import hashlib
import importlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from export_service.settings import ROLES, Aws, Settings, Tally
from tests.unit.test_deploy import ROOT, variables

HELM = ROOT / "deploy" / "helm"
CHART = HELM / "export-service"
VALUES = {"values": CHART / "values.yaml", "values-full": HELM / "values-full.yaml"}
MODULES = {
    "v1": "kubernetes.core.v1",
    "apps/v1": "kubernetes.apps.v1",
    "batch/v1": "kubernetes.batch.v1",
    "policy/v1": "kubernetes.policy.v1",
    "networking.k8s.io/v1": "kubernetes.networking.v1",
    "keda.sh/v1alpha1": "keda.v1alpha1",
    "monitoring.coreos.com/v1": "prometheus_operator.v1",
}
"""apiVersion -> where cloudcoil has the models that were made from its schemas."""


def rendered(name: str, kind: str = "") -> list[dict[str, Any]]:
    found = [document for document in yaml.safe_load_all((HELM / "rendered" / f"{name}.yaml").read_text()) if document]
    return [document for document in found if kind in ("", document["kind"])]


def workers(name: str) -> dict[str, dict[str, Any]]:
    """Group -> its StatefulSet."""
    return {each["metadata"]["labels"]["app.kubernetes.io/component"]: each["spec"] for each in rendered(name, "StatefulSet")}


def container(spec: dict[str, Any]) -> dict[str, Any]:
    (only,) = spec["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def environment(spec: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container(spec)["env"]}


@pytest.mark.parametrize("name", VALUES)
def test_the_rendering_is_of_this_chart(name: str) -> None:
    digest = hashlib.sha256()
    for path in sorted((path for path in CHART.rglob("*") if path.is_file()), key=lambda path: str(path).encode()):
        digest.update(path.read_bytes())
    digest.update(VALUES[name].read_bytes())
    first = (HELM / "rendered" / f"{name}.yaml").read_text().partition("\n")[0]
    assert first == f"# {digest.hexdigest()}", "the chart has changed: run deploy/helm/render"


@pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not on PATH")
def test_helm_lints_it_and_renders_the_same(tmp_path: Path) -> None:
    shutil.copytree(HELM, tmp_path / "helm")
    subprocess.run([tmp_path / "helm" / "render"], check=True, capture_output=True, timeout=60)
    for name in VALUES:
        assert (tmp_path / "helm" / "rendered" / f"{name}.yaml").read_text() == (HELM / "rendered" / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", VALUES)
def test_every_object_is_what_its_schema_says(name: str) -> None:
    for document in rendered(name):
        model = getattr(importlib.import_module(f"cloudcoil.models.{MODULES[document['apiVersion']]}"), document["kind"])
        read = model.model_validate(document)
        # A field that the schema does not know is not in what was read.
        again = json.loads(read.model_dump_json(by_alias=True, exclude_unset=True))
        assert again == document, f"{document['kind']} {document['metadata']['name']} has fields that Kubernetes does not know"


@pytest.mark.parametrize("name", VALUES)
def test_every_role_runs_once_with_a_budget_an_account_and_a_policy(name: str) -> None:
    groups = workers(name)
    roles = [role for spec in groups.values() for role in container(spec)["args"][-1].split(",")]
    assert sorted(roles) == sorted(ROLES)
    for kind in ("PodDisruptionBudget", "ServiceAccount", "NetworkPolicy"):
        names = {each["metadata"]["labels"]["app.kubernetes.io/component"] for each in rendered(name, kind)}
        assert names == set(groups), kind


@pytest.mark.parametrize("name", VALUES)
def test_pods_are_locked_down(name: str) -> None:
    for workload in [*rendered(name, "StatefulSet"), *rendered(name, "Job")]:
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        security = container(workload["spec"])["securityContext"]
        assert security == {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize("name", VALUES)
def test_a_pod_is_a_static_member_that_has_time_to_drain_and_writes_where_it_may(name: str) -> None:
    for spec in workers(name).values():
        env, pod = environment(spec), spec["template"]["spec"]
        assert env["EXPORT_KAFKA_GROUP_INSTANCE_ID"] == {"fieldRef": {"fieldPath": "metadata.name"}}
        # 10 s to leave the groups after the drain: streams/worker.py.
        assert pod["terminationGracePeriodSeconds"] >= float(env["EXPORT_WORKER_DRAIN_SECONDS"]) + 10 + 5
        mounts = {mount["mountPath"] for mount in container(spec)["volumeMounts"] if not mount.get("readOnly")}
        assert mounts == {"/var/lib/export-service", "/tmp"}
        assert env["EXPORT_WORKER_STATE_DIR"].startswith("/var/lib/export-service/")
        probes = {each: container(spec)[each]["httpGet"]["path"] for each in ("startupProbe", "livenessProbe", "readinessProbe")}
        assert probes == {"startupProbe": "/startupz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


@pytest.mark.parametrize("name", VALUES)
def test_it_sets_only_settings_that_exist(name: str) -> None:
    known = variables(Settings, "EXPORT_") | variables(Aws, "AWS_")
    for workload in [*rendered(name, "StatefulSet"), *rendered(name, "Job")]:
        assert {variable.removesuffix("_FILE") for variable in environment(workload["spec"])} <= known
    store = environment(workers(name)["tally"])["EXPORT_TALLY_STORE"]
    assert Tally(store=store).store == "rocksdb://"


def test_only_what_fetches_files_reaches_the_web_and_nothing_the_machines_metadata() -> None:
    for each in rendered("values-full", "NetworkPolicy"):
        group, out = each["metadata"]["labels"]["app.kubernetes.io/component"], each["spec"]["egress"]
        ports = {port["port"] for rule in out for port in rule["ports"]}
        assert ports == {53, 9093} | ({443} if group != "tally" else set()) | ({80} if group in ("plan", "download") else set())
        blocks = [peer["ipBlock"] for rule in out for peer in rule.get("to", ()) if "ipBlock" in peer]
        assert all(block["except"] for block in blocks)
        assert [rule["ports"] for rule in each["spec"]["ingress"]] == [[{"port": 9464}]]


def test_more_pods_come_with_age_or_messages() -> None:
    scaled = {
        each["metadata"]["labels"]["app.kubernetes.io/component"]: each["spec"] for each in rendered("values-full", "ScaledObject")
    }
    triggers = {group: [trigger["type"] for trigger in spec["triggers"]] for group, spec in scaled.items()}
    assert triggers == {"download": ["prometheus"], "connector": ["aws-sqs-queue"]}
    assert (
        'export_lag_age_seconds{namespace="export",role=~"download|plan"}' in scaled["download"]["triggers"][0]["metadata"]["query"]
    )
    groups = workers("values-full")
    for group, spec in scaled.items():
        assert "replicas" not in groups[group], "helm would undo what KEDA did"
        assert spec["maxReplicaCount"] > spec["minReplicaCount"]
    assert int(environment(groups["download"])["EXPORT_TOPICS_TASK_PARTITIONS"]) >= scaled["download"]["maxReplicaCount"]
    assert all("replicas" in spec for spec in workers("values").values()), "KEDA is an option"


@pytest.mark.parametrize(
    "wrong",
    [
        {"replicas": 2},
        {"env": {"PATH": "/bin"}},
        {"env": {"EXPORT_KAFKA_GROUP_INSTANCE_ID": "one-for-all"}},
        {"env": {"EXPORT_QUEUE_URL": None}},
        {"groups": {"x": {"roles": ["upload"], "replicas": 1}}},
        {"groups": {"x": {"roles": [], "replicas": 1}}},
        {"groups": {"tally": {"roles": ["tally"], "replicas": 1, "roleArn": "export-tally"}}},
        {"drainSeconds": 0},
        {"autoscaling": {"enabled": True, "groups": {"download": {"min": 1, "max": 2}}}},
        {"networkPolicy": {"enabled": True, "scrapeFrom": []}},
    ],
)
def test_the_schema_refuses_values_that_are_wrong(wrong: dict[str, Any]) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.validate(values, schema)
    for name, value in wrong.items():
        merged = {**values[name], **value} if isinstance(value, dict) else value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**values, name: merged}, schema)


def test_the_chart_has_the_version_of_the_package() -> None:
    from export_service import __version__

    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__
