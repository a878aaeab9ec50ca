"""The console's parts without a browser: jobs in memory, pictures, what is masked, who may do what."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer
from aiokafka.protocol.admin import DescribeGroupsRequest_v3, DescribeGroupsResponse_v2

from export_service.cli.console import console
from export_service.console.app import Console
from export_service.console.costly import Costly
from export_service.console.histories import place
from export_service.console.now import Now
from export_service.console.pictures import MOST_CELLS, chart, grid, waterfall
from export_service.console.seen_jobs import PAGE, SeenJobs, Wanted
from export_service.console.sessions import Sessions, known_host, ours
from export_service.console.shown_records import shown
from export_service.failures import ExportError, SettingsError
from export_service.history.timeline import Stage
from export_service.messages import JobSnapshot, JobStatus
from export_service.settings import load
from export_service.shards import SHARD_TASKS, Shard
from export_service.verify.evidence import Bounds, Raw
from export_service.words import number, size, span
from streams.console_feed import ConsoleFeed
from streams.group_members import Place

NOW = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
TOKEN = "a-token-of-some-length"


def snapshot(number: int, status: JobStatus = JobStatus.RUNNING, **fields: Any) -> JobSnapshot:
    job = {"job_id": f"{number:08}-0000-4000-8000-000000000000", "user_id": f"user-{number % 3}", "export_id": f"export-{number}"}
    known = {"attempt": 1, "version": 1, "status": status, "updated_at": NOW + timedelta(seconds=number), "total_tasks": 10}
    return JobSnapshot(**job | known | fields)


def test_jobs_are_filtered_paged_and_the_last_moved_comes_first() -> None:
    jobs = SeenJobs(1000)
    for n in range(120):
        jobs.see(snapshot(n, JobStatus.COMPLETED if n % 2 else JobStatus.RUNNING))
    first = jobs.page(Wanted(), 1)
    assert (first.total, first.pages, len(first.rows)) == (120, 3, PAGE)
    assert first.rows[0].export_id == "export-119"
    assert jobs.page(Wanted(), 99).number == 3, "there is no page after the last"
    assert {job.status for job in jobs.page(Wanted(status="open"), 1).rows} == {JobStatus.RUNNING}
    assert jobs.page(Wanted(user="user-1"), 1).total == 40
    assert [job.export_id for job in jobs.page(Wanted(text="00000007-"), 1).rows] == ["export-7"]
    assert jobs.page(Wanted(text="export-119"), 1).total == 1


def test_an_older_snapshot_changes_nothing_and_only_what_moves_while_one_looks_has_a_rate() -> None:
    jobs = SeenJobs(1000)
    jobs.see(snapshot(1, version=5, completed_tasks=4, bytes=40))
    assert jobs.files == 0
    jobs.live = True
    jobs.see(snapshot(1, version=4, completed_tasks=3))
    found = jobs.get(snapshot(1).job_id)
    assert found is not None
    assert (found.version, jobs.changes) == (5, 1)
    jobs.see(snapshot(1, version=6, completed_tasks=6, failed_tasks=1, bytes=60))
    jobs.see(snapshot(1, attempt=2, version=7, completed_tasks=6, bytes=60))
    assert (jobs.files, jobs.bytes) == (3, 20), "what has failed is open again in the next run: nothing is undone"


def test_ended_jobs_are_forgotten_and_open_ones_are_not() -> None:
    jobs = SeenJobs(100)
    for n in range(300):
        jobs.see(snapshot(n, JobStatus.RUNNING if n < 20 else JobStatus.COMPLETED))
    assert len(jobs) <= 110
    assert len(list(jobs.open())) == 20
    assert jobs.get(snapshot(299).job_id) is not None
    assert jobs.dropped == 300 - len(jobs)
    files = jobs.files
    jobs.see(snapshot(21, JobStatus.COMPLETED, completed_tasks=9), moved=False)
    assert (jobs.get(snapshot(21).job_id) is not None, jobs.files) == (True, files), "one that is looked up has not moved"


def test_a_grid_of_few_tasks_has_a_cell_for_each() -> None:
    shard = Shard(succeeded=0b0111, failed=0b1000, cancelled=0b10000)
    found = grid(6, 1, lambda *_: shard)
    assert (found.tasks, dict(found.cells)) == (1, {"done": 3, "many": 1, "cancelled": 1, "none": 1})
    assert found.paths["done"] == "M0 0h3v1h-3z", "neighbours are one rectangle"


def test_a_grid_of_a_million_tasks_is_small_and_loses_no_failure() -> None:
    whole = (1 << SHARD_TASKS) - 1

    def shard(_run: int, number: int) -> Shard:
        return Shard(succeeded=whole & ~1, failed=1) if number == 77 else Shard(succeeded=whole)

    found = grid(1_000_000, 1, shard)
    assert (found.tasks, found.cells.total() <= MOST_CELLS) == (256, True)
    assert found.cells["few"] == 1
    assert found.cells["part"] + found.cells["none"] == 0, "the last cell is of the 64 tasks that there are"
    assert sum(map(len, found.paths.values())) < 5_000
    many = grid(5_000_000, 1, lambda *_: Shard())
    assert many.cells == {"none": many.cells.total()}
    assert many.cells.total() <= MOST_CELLS


def test_a_waterfall_shows_short_stages_and_keeps_within_its_field() -> None:
    def at(seconds: float) -> datetime:
        return NOW + timedelta(seconds=seconds)

    bars = waterfall([Stage("a", at(0), at(9.999)), Stage("b", at(9.999), at(10)), Stage("c", at(10), None)], at(10))
    assert [bar.open for bar in bars] == [False, False, True]
    assert all(bar.x >= 0 and bar.x + bar.width <= 1000 and bar.width >= 4 for bar in bars)
    assert waterfall([], NOW) == []


def test_rates_lag_and_age_come_from_offsets() -> None:
    now = Now(problem=None)
    for second, end in ((0, 100), (2, 150), (4, 300)):
        now.bounds = {Place("results", 0): Bounds(10, end, 90), Place("demand", 0): Bounds(0, 7)}
        now.sample(second, second * 5, second * 1000)
    now.ages = {Place("results", 0): 12.0}
    topic = now.topic("results")
    assert (topic.records, topic.lag, topic.age, topic.rate) == (290, 210, 12.0, 50.0)
    assert (now.files(), now.bytes()) == (5, 1000)
    assert now.topic("demand").lag is None, "nobody commits offsets of it"
    drawn = chart("lag", list(now.samples), [("results", [each.lag["results"] for each in now.samples])])
    assert drawn is not None
    assert (drawn.most, drawn.lines[0][1].split()[-1]) == (210, "1000,4.0")


def test_numbers_are_short() -> None:
    assert [number(None), number(1234567), number(0.25), number(12.6)] == ["–", "1,234,567", "0.2", "13"]
    assert [size(999), size(1_500), size(2_500_000_000)] == ["999 B", "1.5 KB", "2.5 GB"]
    assert [span(0.25), span(42), span(90), span(7200), span(200_000)] == ["0.25 s", "42 s", "1.5 min", "2.0 h", "2.3 d"]


def test_records_are_shown_without_secrets() -> None:
    value = {"type": "ExportRequested", "taskToken": "AAAAKgAAAAIAx", "files": [{"url": "https://h/a?sig=x", "query": "c2VhbGVk"}]}
    found = shown(Raw("requests", 0, 1, 0, b"k", json.dumps(value).encode()))
    assert (found.kind, found.at) == ("ExportRequested", "1970-01-01T00:00:00.000Z")
    assert not any(secret in found.text + found.brief for secret in ("AAAAKg", "sig=x", "c2VhbGVk"))
    assert shown(Raw("shards-changelog", 0, 1, 0, b"k/0", Shard(0b11, size=9).to_bytes())).brief.startswith("succeeded: 2")
    assert shown(Raw("results", 0, 1, 0, b"k", b"no json https://h/a?sig=x")).text == "no json https://h/a?(redacted)"
    assert shown(Raw("jobs-changelog", 0, 1, 0, b"k", None)).kind == "tombstone"
    assert "characters more" in shown(Raw("results", 0, 1, 0, b"k", json.dumps("x" * 30_000).encode())).text


def test_a_place_is_a_link_and_its_text_is_text() -> None:
    assert place("results:0:12-20") == '<a class="place" href="/topics/results?partition=0&amp;offset=12">results:0:12-20</a>'
    assert "<script>" not in place("<script>:0:1")


def test_a_session_begins_with_the_token_only_and_its_forms_are_its_own() -> None:
    sessions = Sessions(TOKEN)
    assert sessions.begin("another") is None
    session = sessions.begin(TOKEN)
    assert session is not None
    assert sessions.of({"export-console": session.id}) is session
    mine = {"csrf": session.csrf}
    assert ours(session, mine, {"Host": "h:1", "Origin": "http://h:1"})
    assert not ours(session, mine, {"Host": "h:1", "Origin": "http://other"})
    assert not ours(session, mine, {"Host": "h:1", "Sec-Fetch-Site": "cross-site"})
    assert not ours(session, {"csrf": "guess"}, {"Host": "h:1"})
    assert not ours(session, {}, {"Host": "h:1"})
    sessions.end(session)
    assert sessions.of({"export-console": session.id}) is None
    assert Sessions(None).begin("") is None


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:8780", True),
        ("localhost", True),
        ("[::1]:80", True),
        ("console.corp:80", True),
        ("evil.example:8780", False),
        ("localhost.evil.example", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_only_names_of_ours_are_answered(host: str, known: bool) -> None:
    assert known_host(host, ("console.corp",)) is known


async def test_what_costs_is_read_once_for_all_who_ask_and_failures_are_not_kept() -> None:
    read: list[str] = []
    gate = asyncio.Event()

    async def slow(key: str) -> str:
        read.append(key)
        await gate.wait()
        if len(read) == 1:
            raise ExportError("not now")
        return key.upper()

    costly = Costly(slow, seconds=60)
    both = [asyncio.create_task(costly.get("a")) for _ in range(2)]
    await asyncio.sleep(0)
    gate.set()
    assert [type(each) for each in await asyncio.gather(*both, return_exceptions=True)] == [ExportError, ExportError]
    assert [(await costly.get("a")).value, (await costly.get("a")).value] == ["A", "A"], "within its seconds it is good enough"
    assert read == ["a", "a"]
    costly.forget("a")
    await costly.get("a")
    assert len(read) == 3


async def test_what_was_read_after_a_job_had_settled_is_good_for_ever() -> None:
    read: list[str] = []

    async def quick(key: str) -> str:
        read.append(key)
        return key

    costly = Costly(quick, seconds=0)
    found = await costly.get("a")
    await asyncio.sleep(11 * (found.until - found.at) / 10 + 0.001)
    assert (await costly.get("a", found.at)) is found
    assert (await costly.get("a", found.at + 0.0001)) is not found
    assert len(read) == 2


@pytest.fixture
async def feed(monkeypatch: pytest.MonkeyPatch) -> ConsoleFeed:
    """As it is when it has read a little; it reads no more."""
    monkeypatch.setenv("EXPORT_CONSOLE_TOKEN", TOKEN)
    found = ConsoleFeed(load(), structlog.get_logger())
    found.now.problem = None
    found.now.bounds = {Place("results", 0): Bounds(0, 5, 5), Place("snapshots", 0): Bounds(0, 5, 5)}
    for n in range(60):
        found.jobs.see(snapshot(n, cause="see https://h/a?signature=secret <script>alert(1)</script>", error="E"))
    return found


@pytest.fixture
async def client(feed: ConsoleFeed) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(Console(load(), feed, structlog.get_logger()).app())) as found:
        yield found


async def get(client: TestClient[Any, Any], path: str, status: int = 200, headers: dict[str, str] | None = None) -> str:
    async with client.get(path, headers=headers, allow_redirects=False) as answer:
        assert answer.status == status, await answer.text()
        return str(await answer.text())


async def test_pages_escape_what_people_write_and_hide_their_secrets(client: TestClient[Any, Any]) -> None:
    page = await get(client, f"/jobs/{snapshot(1).job_id}")
    assert "&lt;script&gt;alert(1)" in page
    assert "signature=secret" not in page
    for which in ("%C2%B2", "9" * 5000, "-1", "0"):
        assert "page 1 of 2" in await get(client, f"/jobs?page={which}")
    found = await get(client, "/jobs?q=%22%3E%3Cscript%3E&status=nonsense&page=x")
    assert '"><script>' not in found
    assert "No job is like that." in found
    assert await get(client, "/jobs/%3Cscript%3E") != ""
    for path in ("/", "/jobs?page=2", "/topics", "/workers", "/healthz", "/static/console.css"):
        await get(client, path)
    for path in ("/topics/nothing", "/static/..%2fapp.py", "/static/none.css", "/events?of=/nothing", "/nowhere"):
        await get(client, path, 404)
    await get(client, f"/jobs?q={'0' * 36}", 302)
    await get(client, "/", 421, {"Host": "evil.example"})


async def test_every_answer_has_the_policy_and_nothing_inline(client: TestClient[Any, Any]) -> None:
    for path in ("/", "/jobs", "/sign-in", "/nowhere"):
        async with client.get(path) as answer:
            policy, page = answer.headers["Content-Security-Policy"], await answer.text()
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert not any(inline in page for inline in (" style=", " onclick=", "<style", "<script>"))


async def test_nothing_is_read_for_an_id_that_somebody_has_made_up(client: TestClient[Any, Any]) -> None:
    """There is no Kafka here: reading would fail."""
    for part in ("grid", "history"):
        assert "No snapshot of it is known here" in await get(client, f"/jobs/{'0' * 36}/{part}")


async def test_a_defect_is_no_traceback_for_who_looks(client: TestClient[Any, Any], feed: ConsoleFeed) -> None:
    feed.now.ages = None  # type: ignore[assignment]
    async with client.get("/topics") as answer:
        assert (answer.status, "Content-Security-Policy" in answer.headers) == (500, True)
        page = await answer.text()
    assert "log says why" in page
    assert "TypeError" not in page


async def test_events_send_what_changed_to_all_who_look(client: TestClient[Any, Any], feed: ConsoleFeed) -> None:
    async def first_two(session: ClientSession) -> list[str]:
        path = f"/events?of=/jobs/{snapshot(1).job_id}"
        async with session.get(client.make_url(path)) as answer:
            assert answer.content_type == "text/event-stream"
            found: list[str] = []
            while len(found) < 2:
                event = await answer.content.readuntil(b"\n\n")
                if event.startswith(b"data:"):
                    found.append(event.decode())
                    seen.release()
            return found

    seen = asyncio.Semaphore(0)
    async with asyncio.timeout(20), ClientSession() as session:
        viewers = [asyncio.create_task(first_two(session)) for _ in range(3)]
        for _ in viewers:
            await seen.acquire()
        feed.jobs.see(snapshot(1, version=2, completed_tasks=9))
        await feed._tell()
        events = await asyncio.gather(*viewers)
    assert all("<dd>0</dd>" in one and "<dd>9</dd>" in other for one, other in events)


async def test_nothing_is_changed_without_signing_in(client: TestClient[Any, Any]) -> None:
    for path in ("/jobs/x/do/cancel", "/dead-letters/0:1/do/redrive"):
        await get(client, path, 403)
        async with client.post(path) as answer:
            assert answer.status == 403
    async with client.put("/jobs/x/do/cancel") as answer:
        assert answer.status == 405
    async with client.post("/sign-in", data={"token": TOKEN}, allow_redirects=False) as answer:
        assert answer.status == 303
        cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    held = {"Cookie": cookie.partition(";")[0]}
    assert "Sign out" in await get(client, "/", headers=held)
    assert "Cancel the job" in await get(client, f"/jobs/{snapshot(1).job_id}", headers=held)
    async with client.post("/jobs/x/do/cancel", data={"csrf": "guessed"}, headers=held) as answer:
        assert answer.status == 403


async def test_without_a_token_it_only_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPORT_CONSOLE_TOKEN", raising=False)
    settings = load()
    log = structlog.get_logger()
    async with TestClient(TestServer(Console(settings, ConsoleFeed(settings, log), log).app())) as client:
        page = await get(client, "/")
        assert "read-only" in page
        assert "Nothing new comes: Kafka has not answered yet" in page
        await get(client, "/sign-in", 404)
        await get(client, "/healthz", 503)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"TOKEN": "short-secret"}, "EXPORT_CONSOLE_TOKEN: it must have 16 characters or more"),
        ({"HOST": ""}, "EXPORT_CONSOLE_HOST='': "),
        ({"PORT": "eighty"}, "EXPORT_CONSOLE_PORT='eighty': "),
        ({"NAMES": "console.corp,http://b/"}, "EXPORT_CONSOLE_NAMES='console.corp,http://b/': give host names"),
    ],
)
def test_a_wrong_setting_is_named_and_a_token_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], said: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"EXPORT_CONSOLE_{name}", value)
    with pytest.raises(SettingsError) as raised:
        load()
    assert said in str(raised.value)
    assert "short-secret" not in str(raised.value)


def test_an_address_that_is_taken_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export_service.logs.configure", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ExportError) as raised:
        port = taken.getsockname()[1]
        console(port, None)
    assert str(raised.value) == f"cannot listen on 127.0.0.1:{port} (Address already in use); choose another --port or --host"


def test_everything_that_is_served_is_in_the_package() -> None:
    folder = Path("export_service/console/static")
    assert sorted(path.name for path in folder.iterdir()) == ["console.css", "console.js", "icon.svg"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 40_000


def test_aiokafka_still_reads_version_3_of_group_descriptions_as_version_2() -> None:
    """If this fails, `_DescribeGroups` in streams/group_members.py may go."""
    assert DescribeGroupsRequest_v3.RESPONSE_TYPE is DescribeGroupsResponse_v2
