"""The pages in docs/: what is written from the code says what the code does, and what is written by hand agrees with it."""

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy import asyncapi, generate, pages
from deploy import site as hook
from export_service.requests import ExportMessage
from export_service.settings import Aws, Settings
from streams.topics import short_names, topics
from tests.asyncapi_schema import schema
from tests.unit.test_alarms import Cfn, rules

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ALARMS = ROOT / "deploy/cloudwatch/alarms.yml"


def sections(page: str) -> dict[str, str]:
    """Heading of the second level -> the text below it."""
    _, *parts = re.split(r"^## ", (DOCS / page).read_text(), flags=re.MULTILINE)
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


@cache
def written() -> dict[str, Any]:
    """docs/asyncapi.yaml."""
    read: dict[str, Any] = yaml.safe_load((DOCS / "asyncapi.yaml").read_text())
    return read


def cloudwatch() -> dict[str, dict[str, Any]]:
    resources = yaml.load(ALARMS.read_text(), Cfn)["Resources"]
    return {name: resource["Properties"] for name, resource in resources.items()}


def test_every_alarm_has_a_section_in_the_runbook_and_says_where() -> None:
    found = sections("runbook.md")
    for rule in rules():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["alert"] in found
        assert f"{rule['labels']['severity'].capitalize()}.\n" in found[rule["alert"]]
    anchors = {name.lower(): name for name in found}
    for name, alarm in cloudwatch().items():
        (anchor,) = re.findall(r" Runbook docs/runbook\.md#(\w+)$", alarm["AlarmDescription"])
        assert f"`{name}`" in found[anchors[anchor]].partition("\n\n**")[0], name


def test_every_section_of_the_runbook_is_of_an_alarm_and_says_what_to_do() -> None:
    assert set(sections("runbook.md")) == {rule["alert"] for rule in rules()}
    for name, text in sections("runbook.md").items():
        head = text.partition("\n\n**")[0]
        assert set(re.findall(r"`(\w+)`", head)) <= set(cloudwatch()), name
        for part in ("**Means.**", "**Look.**"):
            assert part in text, (name, part)
        assert "**Do.**" in text or "| Do |" in text, name


def test_every_setting_says_what_it_means() -> None:
    rows = re.findall(r"^\| `((?:EXPORT|AWS)_\w+)` \| .* \| (.*) \| (.*) \|$", pages.settings_page(), re.MULTILINE)
    assert [row for row in rows if not row[1] or row[2] in ("", "None")] == []
    assert len(rows) == len({name for name, *_ in rows}) > 60


def test_the_guide_has_the_defaults_of_the_code() -> None:
    known = {
        row[0]: row[1].strip("`") for row in re.findall(r"^\| `(EXPORT_\w+)` \| (\S*) \|", pages.settings_page(), re.MULTILINE)
    }
    told = {
        name: default.strip("`")
        for name, default in re.findall(
            r"^\| `(EXPORT_[A-Z_]+)` \| (`[^`]*`|\S*) \|", (DOCS / "guide.md").read_text(), re.MULTILINE
        )
    }
    wrong = {name: (default, known[name]) for name, default in told.items() if known[name] != default and default != "any"}
    assert wrong == {}
    assert len(told) > 30


def test_the_guide_has_the_fields_of_a_message() -> None:
    table = re.findall(r"^\| `(\w+)` \| (required|optional|one of three) \|", (DOCS / "guide.md").read_text(), re.MULTILINE)
    fields = ExportMessage.model_fields
    assert {name for name, _ in table} == {field.alias for field in fields.values()}
    assert {name for name, how in table if how == "required"} == {field.alias for field in fields.values() if field.is_required()}


def test_the_architecture_has_the_topics_of_the_manifest() -> None:
    table = re.findall(
        r"^\| `([\w.-]+)` \| .* \| (.*) \| (P|D|1) \| (.*) \|$", (DOCS / "architecture.md").read_text(), re.MULTILINE
    )
    told = {name.removeprefix("export-tally-"): (carries, partitions, kept) for name, carries, partitions, kept in table}
    manifest = short_names(topics(Settings.model_construct()))
    assert set(told) == set(manifest)
    for name, spec in manifest.items():
        carries, partitions, kept = told[name]
        assert [kind for kind in spec.carries.split(", ") if kind not in carries] == [], name
        assert partitions == ("D" if name == "tasks" else "1" if spec.partitions == 1 else "P"), name
        assert kept == pages.kept(spec), name


def test_asyncapi_takes_the_document() -> None:
    validator = jsonschema.Draft7Validator(schema())
    document = written()
    assert [error.message for error in validator.iter_errors(document)] == []
    for change in (("channels", "tasks", "address"), ("operations", "plan.send.tasks", "action"), ("info", "title")):
        broken = copy.deepcopy(document)
        inner = broken
        for part in change[:-1]:
            inner = inner[part]
        inner[change[-1]] = 5
        assert not validator.is_valid(broken), change


def test_every_reference_of_the_document_leads_somewhere() -> None:
    document = written()

    def references(value: Any) -> Iterator[str]:
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from [inner] if isinstance(inner, str) and inner.startswith("#/") else references(inner)

    found = set(references(document))
    for reference in found:
        inner: Any = document
        for part in reference.removeprefix("#/").split("/"):
            inner = inner[part]
    assert len(found) > 50


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests/replay").glob("*/*.jsonl")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_recorded_records_are_as_the_document_says(path: Path) -> None:
    """Those of each version, made by real workers."""
    document = written()
    kinds = {name: {"$ref": f"#/components/schemas/{name}", "components": document["components"]} for name in asyncapi.types()}
    checks = {name: jsonschema.Draft7Validator(kind, format_checker=jsonschema.FormatChecker()) for name, kind in kinds.items()}
    seen = set()
    for line in map(json.loads, path.read_text().splitlines()[1:]):
        channel = document["channels"][line["topic"]]
        value = line.get("value")
        # Shards are binary, and a table's entries have no type.
        if isinstance(value, dict) and "type" in value:
            assert value["type"] in channel["messages"], line["topic"]
            checks[value["type"]].validate(value)
            assert set(value) <= set(document["components"]["schemas"][value["type"]]["properties"])
            seen.add(value["type"])
    assert "ExportRequested" in seen


def test_every_value_of_a_record_is_described_or_plain() -> None:
    """A message that is on no topic, or a topic whose messages nobody knows, would be a hole in the pages."""
    document = asyncapi.document()
    used = {name for channel in document["channels"].values() for name in channel["messages"]}
    assert used == set(document["components"]["messages"])


class Loads(HTMLParser):
    """What a browser would fetch to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio") or (tag == "link" and given.get("rel") != "canonical"):
            self.found += [value for name in ("src", "href") if (value := given.get(name))]


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # Material's advertisement
    ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert "WARNING" not in ran.stderr
    built = {path.relative_to(tmp_path / "site").as_posix(): path for path in (tmp_path / "site").rglob("*.html")}
    assert set(built) >= {"index.html", "runbook.html", "messages.html", "CHANGELOG.html", "decisions/index.html"}
    assert len(built) > len(list(DOCS.rglob("*.md")))
    for name, path in built.items():
        loads = Loads()
        loads.feed(path.read_text())
        assert [each for each in loads.found if "//" in each] == [], name
        assert loads.found
    for path in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//", path.read_text()), path.name
    # Links out of docs/ go to pages and files of the site.
    guide = built["guide.html"].read_text()
    assert 'href="deploy/index.html"' in guide
    assert (tmp_path / "site/deploy/prometheus/rules.yml").read_text() == generate.RULES.read_text()
    assert (tmp_path / "site/asyncapi.yaml").exists()


def test_the_sidebar_is_in_order_and_has_every_page() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    names = [next(iter(section)) for section in nav]
    assert names == ["Start", "Concepts", "Guide", "Operate", "Reference", "Decisions", "Comparison"]
    listed = {path for section in nav for each in next(iter(section.values())) for path in each.values()}
    here = {path.relative_to(DOCS).as_posix() for path in DOCS.glob("*.md")} | {
        path for path in hook.OUTSIDE if path.endswith(".md")
    }
    assert listed == here


def test_links_and_lists_are_made_as_the_site_needs_them() -> None:
    assert hook.as_in_the_site("[a](../deploy/README.md#x) [b](topics.md) [c](#d)", "guide.md") == (
        "[a](deploy/README.md#x) [b](topics.md) [c](#d)"
    )
    assert hook.as_in_the_site("[a](../docs/guide.md)", "deploy/README.md") == "[a](../guide.md)"
    assert hook.as_in_the_site("[a](docs/decisions/0001-x.md)", "CHANGELOG.md") == "[a](decisions/0001-x.md)"
    assert hook.as_in_the_site("[a](../../tests/x.py)", "decisions/0001-x.md") == "[a](../../tests/x.py)", (
        "strict says that it is wrong"
    )
    assert hook.as_in_the_site("said:\n- one\n- two\n\n```\nno:\n- list\n```", "a.md") == (
        "said:\n\n- one\n- two\n\n```\nno:\n- list\n```"
    )


def test_settings_of_aws_are_a_section_of_their_own() -> None:
    assert "`AWS_ENDPOINT_URL_SQS`" in pages.settings_page().partition("## AWS")[2]
    assert pages.shown_default(Settings.model_fields["destinations"]) == "s3://"
    assert pages.shown_default(Aws.model_fields["region"]) == ""
