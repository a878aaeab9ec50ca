"""Alarms and dashboard: made of metrics that exist, and ringing when they should, by Prometheus' and AWS's own tools."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import generate
from export_service import emf
from export_service.metric_names import ALL, Kind
from tests.promtool import promtool

DEPLOY = Path(__file__).parents[2] / "deploy"
SERIES = {
    metric.name + suffix for metric in ALL for suffix in (("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",))
}
"""The e2e test of metrics proves that a worker has all of the list."""


class Cfn(yaml.SafeLoader):
    """Takes CloudFormation's tags for what they are given."""


Cfn.add_multi_constructor("!", lambda _, suffix, node: f"{suffix} {node.value}")


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(generate.RULES.read_text())["groups"][0]["rules"]
    return found


def named(text: str) -> set[str]:
    return set(re.findall(r"\bexport_[a-z_]+", text))


def test_rules_and_dashboard_name_only_what_a_worker_has() -> None:
    assert named(" ".join(rule["expr"] for rule in rules())) - SERIES == set()
    queries = [target["expr"] for panel in generate.dashboard()["panels"] for target in panel.get("targets", ())]
    shown = named(" ".join(queries))
    assert shown - SERIES == set()
    assert {metric.name for metric in ALL if not any(name.startswith(metric.name) for name in shown)} == set(), "nobody sees it"
    known = {label for metric in ALL for label in metric.labels}
    for text in (*queries, *(rule["expr"] for rule in rules())):
        assert set(re.findall(r"[{,]\s*([a-z_]+)\s*(?:=~|!=|=)", text)) <= known, text


@pytest.mark.parametrize("path", generate.files(), ids=lambda path: path.name)
def test_what_is_made_from_the_list_is_as_the_list(path: Path) -> None:
    assert path.read_text() == generate.files()[path], "run `python -m deploy.generate`"


def test_the_rules_ring_when_they_should_and_alone() -> None:
    tool = promtool()
    for command in (["check", "rules", str(generate.RULES)], ["test", "rules", "rules_test.yml"]):
        ran = subprocess.run([tool, *command], cwd=generate.RULES.parent, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_rule_has_a_test_in_which_it_rings() -> None:
    text = (generate.RULES.parent / "rules_test.yml").read_text()
    assert set(re.findall(r'alertname="(\w+)"', text)) == {rule["alert"] for rule in rules()}


def test_the_rules_test_can_fail(tmp_path: Path) -> None:
    """With a threshold that is another one it does."""
    (tmp_path / "rules.yml").write_text(generate.RULES.read_text().replace("> 0.05", "> 0.5"))
    (tmp_path / "rules_test.yml").write_text((generate.RULES.parent / "rules_test.yml").read_text())
    ran = subprocess.run([promtool(), "test", "rules", "rules_test.yml"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode != 0
    assert "ExportCallbackFailureRate" in ran.stdout + ran.stderr


def test_cloudwatch_alarms_are_of_metrics_that_a_worker_writes_and_as_the_guide_asks() -> None:
    read = yaml.load((DEPLOY / "cloudwatch/alarms.yml").read_text(), Cfn)["Resources"]
    alarms = {name: resource["Properties"] for name, resource in read.items()}
    for name, alarm in alarms.items():
        assert alarm["AlarmActions"] == ["Ref Topic"], name
        for stat in alarm.get("Metrics", [{"MetricStat": {"Metric": alarm}}]):
            if "MetricStat" in stat and (metric := stat["MetricStat"]["Metric"])["Namespace"] == "Ref Namespace":
                assert metric["MetricName"] in emf.NAMES, name
    rate = alarms["CallbackFailureRate"]
    assert (rate["Threshold"], {stat["MetricStat"]["Period"] for stat in rate["Metrics"] if "MetricStat" in stat}) == (5, {300})
    timeouts = alarms["StepFunctionTimeouts"]
    assert (timeouts["Namespace"], timeouts["MetricName"]) == ("AWS/States", "ExecutionsTimedOut")
    assert (timeouts["Threshold"], timeouts["Period"]) == (1, 3600)


def test_cloudformation_takes_the_alarms() -> None:
    linter = Path(sys.executable).with_name("cfn-lint")
    ran = subprocess.run([linter, DEPLOY / "cloudwatch/alarms.yml"], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout


def test_the_dashboard_is_one_that_grafana_reads() -> None:
    made = json.loads(generate.DASHBOARD.read_text())
    panels = made["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
    cells = [
        (place["x"] + dx, place["y"] + dy)
        for place in (panel["gridPos"] for panel in panels)
        for dx in range(place["w"])
        for dy in range(place["h"])
    ]
    assert len(set(cells)) == len(cells), "panels lie on each other"
