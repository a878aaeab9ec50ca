"""Prefixes of URLs: what is below one, what only looks like it, and who asks."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from agents.file_list import FileLists
from agents.pacing import Pacer
from agents.plan import Planner
from connectors.memory import MemoryLedger, MemoryPublisher
from connectors.sources import LocalFiles, Sources
from export_service.failures import RequestRejected
from export_service.messages import DownloadDemand, JobPlanned, PlanFailed
from export_service.ports import Attempt
from export_service.prefixes import is_below, parse_prefixes
from export_service.requests import Policy, parse
from export_service.settings import Settings
from streams.ack_window import AckWindow, Place
from streams.topics import topics

JOB = "550e8400-e29b-41d4-a716-446655440000"
MESSAGE = {"jobId": JOB, "exportId": "e", "userId": "u"}
ALLOWED = parse_prefixes("https://files.example.com/, https://h:8443/team,s3://bucket/team/,http://[fd00::1]/")
POLICY = Policy("s3://catalog/{exportId}.csv", "file:///out/{jobId}/", (), ALLOWED)


@pytest.mark.parametrize(
    "url",
    [
        "https://files.example.com",
        "https://files.example.com/a/../b?x=/..",
        "HTTPS://FILES.Example.com:443/a",
        "https://h:8443/team/a",
        "https://h:8443/team/a..b/c",
        "s3://bucket/team/a",
        "http://[fd00::1]/a",
    ],
)
def test_below(url: str) -> None:
    assert is_below(url, ALLOWED)


@pytest.mark.parametrize(
    "url",
    [
        "http://files.example.com/",
        "https://files.example.com.evil.org/",
        "https://evil.org/https://files.example.com/",
        "https://evil.org/?https://files.example.com/",
        "https://evil.org#https://files.example.com/",
        "https://files.example.com@evil.org/",
        "https://files.example.com\\.evil.org/",
        "https://files.example.com:8443/",
        "https://files.example.com:0/",
        "https://h/team/a",
        "https://h:8443/team",
        "https://h:8443/teammates/a",
        "https://h:8443/TEAM/a",
        "https://h:8443/team/../a",
        "https://h:8443/team/%2E%2e/a",
        "https://h:8443/team/..%2fa",
        "https://h:8443/team/..\\a",
        "https://h:8443//team/a",
        "s3://bucket/team",
        "s3://bucket/teammates/",
        "s3://BUCKET/team/a",
        "s3://bucket-evil/team/a",
        "s3://bucket:1/team/a",
    ],
)
def test_not_below(url: str) -> None:
    assert not is_below(url, ALLOWED)


def test_a_scheme_alone_is_every_host_of_it() -> None:
    assert is_below("s3://any/a", parse_prefixes("s3://"))
    assert not is_below("https://any/a", parse_prefixes("s3://"))


@pytest.mark.parametrize(
    "bad", ["files.example.com", "file:///a/", "https://u:p@h/", "https://h/?a", "https://h/a/../b", "https:///a"]
)
def test_a_prefix_that_is_none_is_a_sentence(bad: str) -> None:
    with pytest.raises(ValueError, match=rf"^'{re.escape(bad)}' (has|is) "):
        parse_prefixes(f"https://good/,{bad}")


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        (
            {"files": [{"url": "s3://bucket/team/a"}, {"url": "https://evil.org/files.example.com/a?sig=secret"}]},
            r"files\[1\]\.url",
        ),
        ({"manifest": {"url": "https://evil.org/m?sig=secret", "format": "csv"}}, r"manifest\.url"),
        ({"prefix": "s3://bucket/team"}, "prefix"),
        ({"prefix": "s3://bucket/team/../"}, "prefix"),
    ],
)
def test_a_message_may_name_allowed_urls_only(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(RequestRejected, match=rf"^{where}: ") as caught:
        parse(json.dumps(MESSAGE | fields), POLICY)
    assert "secret" not in caught.value.reason


@pytest.mark.parametrize(
    "fields",
    [
        {"files": [{"url": "https://files.example.com/a?sig=1"}]},
        {"manifest": {"url": "s3://bucket/team/m", "format": "csv"}},
        {"manifest": {"url": "file:///manifests/m", "format": "csv"}},
        {"prefix": "s3://bucket/team/"},
        {},
    ],
    ids=["file", "manifest", "manifest in a folder", "prefix", "the operator's catalog"],
)
def test_and_these_it_may(fields: dict[str, Any]) -> None:
    parse(json.dumps(MESSAGE | fields), POLICY)


@pytest.mark.parametrize(("host", "planned"), [("files.example.com", JobPlanned), ("files.example.com.evil.org", PlanFailed)])
async def test_a_manifest_may_name_allowed_urls_only(tmp_path: Path, host: str, planned: type) -> None:
    (tmp_path / "m.csv").write_text(f"url\nhttps://files.example.com/a\nhttps://{host}/b\n")
    message = MESSAGE | {"manifest": {"url": f"{tmp_path.as_uri()}/m.csv", "format": "csv"}}
    request = parse(json.dumps(message), POLICY).requested(Attempt(JOB, 1, ""), datetime.now(UTC), None)
    publisher, ledger, log, names = MemoryPublisher(), MemoryLedger(), structlog.get_logger(), topics(Settings())
    lists, pacer = FileLists(Sources({"file": LocalFiles(tmp_path)}), ledger, 10, log, ALLOWED), Pacer(log)
    pacer.hear(DownloadDemand(worker="w", read={0: 0}, window=10, waiting={}))
    window = AckWindow(1, lambda error: pytest.fail(str(error)))
    window.begin(Place("requests", 0), 0)
    entry = await window.admit(Place("requests", 0), 0)
    assert entry is not None
    assert await Planner(lists, ledger, publisher, names, pacer, tmp_path, log).plan(request, entry)
    outcome = planned.model_validate_json(publisher.values(names.results.name)[-1])  # type: ignore[attr-defined]
    if planned is PlanFailed:
        assert "m.csv, line 3: url: is not below one of EXPORT_DOWNLOAD_ALLOWED_URLS" in outcome.cause
        assert publisher.values(names.tasks.name) == []
