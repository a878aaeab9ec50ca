"""The ledger under races, expiry and mistakes; and what an item looks like to people with the AWS console."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connectors.aws import Clients
from connectors.dynamodb import DynamoTable
from connectors.memory import MemoryLedger
from export_service.devstack import aws
from export_service.devstack.stack import Stack
from export_service.failures import Unavailable
from export_service.messages import CallbackAnswered, CallbackOutcome, JobSnapshot, JobStatus
from export_service.ports import Ledger, Planned
from export_service.redaction import fingerprint
from export_service.settings import Aws

pytestmark = pytest.mark.broker
NOW = datetime(2026, 1, 1, tzinfo=UTC)
KINDS = pytest.mark.parametrize("kind", ["memory", "aws"])


@dataclass
class Dynamo:
    """An empty table: `tables` are two connectors' views of it, `admin` is boto3's."""

    tables: tuple[DynamoTable, DynamoTable]
    admin: Any
    name: str
    client: Any

    def items(self) -> list[dict[str, Any]]:
        return list(self.admin.scan(TableName=self.name)["Items"])


@pytest.fixture
async def dynamo(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Dynamo]:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "test")
    endpoint, name = stack.env["AWS_ENDPOINT"], f"t-{uuid.uuid4().hex[:8]}"
    admin = aws.Aws(endpoint).client("dynamodb")
    aws.create_table(admin, name)
    clients = Clients(Aws(endpoint=endpoint, region="us-east-1"))
    async with AsyncExitStack() as exits:
        one, two = [await exits.enter_async_context(clients.open("dynamodb")) for _ in range(2)]
        yield Dynamo((DynamoTable(one, name, timedelta(days=2)), DynamoTable(two, name, timedelta(days=2))), admin, name, one)
    admin.close()


def ledgers(kind: str, dynamo: Dynamo) -> tuple[Ledger, Ledger]:
    memory = MemoryLedger()
    return (memory, memory) if kind == "memory" else dynamo.tables


@KINDS
async def test_racing_connectors_give_each_token_one_number_and_the_job_one_key(dynamo: Dynamo, kind: str) -> None:
    one, two = ledgers(kind, dynamo)
    tokens = [f"token-{n % 5}" for n in range(20)]
    opened = await asyncio.gather(
        *((one, two)[n % 2].open_attempt("j", token, "d", bytes([n]) * 32, NOW) for n, token in enumerate(tokens))
    )
    numbers: dict[str, set[int]] = {}
    for token, attempt in zip(tokens, opened, strict=True):
        assert attempt.token == token
        numbers.setdefault(token, set()).add(attempt.number)
    assert sorted(numbers.values(), key=min) == [{1}, {2}, {3}, {4}, {5}]
    assert len({attempt.seal_key for attempt in opened}) == 1
    assert await one.seal_key("j") == opened[0].seal_key


@KINDS
async def test_a_token_finds_its_attempt_even_with_another_request(dynamo: Dynamo, kind: str) -> None:
    ledger, _ = ledgers(kind, dynamo)
    await ledger.open_attempt("j", None, "d", None, NOW)
    second = await ledger.open_attempt("j", "token", "d", None, NOW)
    assert await ledger.open_attempt("j", "token", "other", None, NOW) == second
    stranger = await ledger.open_attempt("j", "stranger", "other", None, NOW)
    assert (stranger.number, stranger.token, stranger.request_digest) == (1, None, "d")
    assert await ledger.attempt("j", 3) is None


@KINDS
async def test_how_far_a_plan_is_is_kept_with_its_attempt_and_an_end_stays(dynamo: Dynamo, kind: str) -> None:
    ledger, other = ledgers(kind, dynamo)
    assert await ledger.planned("j", 1) == Planned()
    await ledger.open_attempt("j", "token", "d", None, NOW)
    for planned in (Planned(128, None, so_far="d128"), Planned(64, "digest"), Planned(500, "digest", ended=True, so_far="d500")):
        await ledger.mark_planned("j", 1, planned)
        assert await other.planned("j", 1) == planned
    await other.mark_planned("j", 1, Planned(256, "digest"))
    assert (await ledger.planned("j", 1)).ended
    attempt = await ledger.attempt("j", 1)
    assert attempt is not None
    assert attempt.token == "token"
    await ledger.mark_planned("j", 2, Planned(1, "digest"))
    assert await ledger.attempt("j", 2) is None, "what has expired is not made again"


async def test_a_digest_of_another_place_than_the_plan_is_at_is_none(dynamo: Dynamo) -> None:
    """A worker of an earlier version has moved the plan on: it knows nothing of the digest, and leaves it."""
    ledger, _ = dynamo.tables
    await ledger.open_attempt("j", "token", "d", None, NOW)
    await ledger.mark_planned("j", 1, Planned(128, "digest", so_far="d128"))
    place = {"pk": {"S": "JOB#j"}, "sk": {"S": "ATTEMPT#0001"}}
    moved = {":through": {"N": "256"}}
    dynamo.admin.update_item(
        TableName=dynamo.name, Key=place, UpdateExpression="SET plannedThrough = :through", ExpressionAttributeValues=moved
    )
    assert await ledger.planned("j", 1) == Planned(256, "digest")


@KINDS
async def test_what_is_noted_of_an_expired_attempt_makes_no_new_one(dynamo: Dynamo, kind: str) -> None:
    ledger, _ = ledgers(kind, dynamo)
    await ledger.mark_published("j", 1)
    await ledger.record_answer(CallbackAnswered(job_id="j", attempt=1, outcome=CallbackOutcome.SENT, answered_at=NOW))
    assert await ledger.attempt("j", 1) is None
    assert (await ledger.open_attempt("j", "token", "d", None, NOW)).number == 1


async def test_a_new_attempt_is_found_when_the_first_has_expired(dynamo: Dynamo) -> None:
    ledger, _ = dynamo.tables
    for token in ("one", "two"):
        await ledger.open_attempt("j", token, "d", None, NOW)
    dynamo.admin.delete_item(TableName=dynamo.name, Key={"pk": {"S": "JOB#j"}, "sk": {"S": "ATTEMPT#0001"}})
    async with asyncio.timeout(10):
        assert (await ledger.open_attempt("j", "three", "d", None, NOW)).number == 3


async def test_items_are_as_documented_and_only_attempts_have_a_token(dynamo: Dynamo) -> None:
    table, _ = dynamo.tables
    snapshot = JobSnapshot(
        job_id="j", attempt=1, version=7, user_id="u", status=JobStatus.RUNNING, total_tasks=3, bytes=2**50, updated_at=NOW
    )
    await table.open_attempt("j", "token-canary", "d", b"k" * 32, NOW)
    await table.put(snapshot)
    (attempt, written) = sorted(dynamo.items(), key=lambda item: str(item["sk"]["S"]))
    expires = {"N": str(int((NOW + timedelta(days=2)).timestamp()))}
    assert attempt["pk"] == written["pk"] == {"S": "JOB#j"}
    assert (attempt["sk"], written["sk"]) == ({"S": "ATTEMPT#0001"}, {"S": "SNAPSHOT"})
    assert attempt["taskToken"] == {"S": "token-canary"}
    assert attempt["tokenFingerprint"] == {"S": fingerprint("token-canary")}
    assert attempt["expiresAt"] == written["expiresAt"] == expires
    assert "canary" not in str(written)
    assert written["totalTasks"] == {"N": "3"}
    assert "completedAt" not in written
    for index, field, value in (("by-user", "userId", "u"), ("by-status", "status", "RUNNING")):
        found = dynamo.admin.query(
            TableName=dynamo.name,
            IndexName=index,
            KeyConditionExpression="#f = :v AND updatedAt > :t",
            ExpressionAttributeNames={"#f": field},
            ExpressionAttributeValues={":v": {"S": value}, ":t": {"S": "2025"}},
        )["Items"]
        assert [item["jobId"] for item in found] == [{"S": "j"}], index


async def test_racing_snapshots_leave_the_newest(dynamo: Dynamo) -> None:
    versions = [3, 9, 1, 7, 9, 2, 8, 4]
    jobs = [f"j{n}" for n in range(10)]

    def snapshot(job: str, version: int) -> JobSnapshot:
        return JobSnapshot(job_id=job, attempt=1, version=version, status=JobStatus.RUNNING, updated_at=NOW)

    await asyncio.gather(*(dynamo.tables[n % 2].put(snapshot(job, v)) for job in jobs for n, v in enumerate(versions)))
    found = [await dynamo.tables[0].get(job) for job in jobs]
    assert [snapshot and snapshot.version for snapshot in found] == [9] * len(jobs)


async def test_a_missing_table_is_a_sentence_with_the_setting(dynamo: Dynamo) -> None:
    nowhere = DynamoTable(dynamo.client, "no-such-table", timedelta(days=1))
    with pytest.raises(Unavailable, match=r"DynamoDB does not answer \(ResourceNotFoundException\); check EXPORT_TABLE_NAME"):
        await nowhere.open_attempt("j", "token-canary", "d", None, NOW)


@KINDS
async def test_an_attempt_by_hand_has_the_jobs_next_number_and_is_nobodys_redelivery(dynamo: Dynamo, kind: str) -> None:
    ledger, other = ledgers(kind, dynamo)
    assert await ledger.add_attempt("j", 0, NOW) is None, "a job that is not known"
    await ledger.open_attempt("j", "token", "d", b"k" * 32, NOW)
    added = await asyncio.gather(*(one.add_attempt("j", 1, NOW) for one in (ledger, other, ledger)))
    assert sorted(attempt.number for attempt in added if attempt) == [2, 3, 4]
    for attempt in filter(None, added):
        assert (attempt.token, attempt.request_digest, attempt.seal_key, attempt.by_hand) == (None, "d", b"k" * 32, True)
    assert await ledger.claim("j", 2, NOW) is None, "nobody waits for it"
    after = await other.open_attempt("j", None, "d", None, NOW)
    assert (after.number, after.by_hand) == (5, False), "a message without a token is another attempt"
    assert (await ledger.open_attempt("j", "new", "d", None, NOW)).number == 6
    further = await ledger.add_attempt("j", 9, NOW)
    assert further is not None
    assert further.number == 10, "above what the tally has"


@KINDS
async def test_a_token_that_an_operator_overtook_before_it_was_published_gets_a_newer_number(dynamo: Dynamo, kind: str) -> None:
    ledger, other = ledgers(kind, dynamo)
    for token in ("one", "two", "three"):
        await ledger.open_attempt("j", token, "d", None, NOW)
    for published in (1, 2):
        await ledger.mark_published("j", published)
    await ledger.add_attempt("j", 1, NOW)
    assert (await ledger.open_attempt("j", "two", "d", None, NOW)).number == 2, "was published: a redelivery"
    assert await ledger.claim("j", 2, NOW) is not None
    again = await asyncio.gather(*(one.open_attempt("j", "three", "d", None, NOW) for one in (ledger, other, ledger)))
    assert {(attempt.number, attempt.token, attempt.begun) for attempt in again} == {(5, "three", True)}
    await ledger.mark_published("j", 5)
    await ledger.add_attempt("j", 5, NOW)
    assert (await other.open_attempt("j", "three", "d", None, NOW)).number == 5


async def test_attempts_are_told_without_their_tokens(dynamo: Dynamo) -> None:
    table, _ = dynamo.tables
    for token in ("one", "two"):
        await table.open_attempt("j", token, "d", None, NOW)
    assert await table.asked("j") == []
    await table.mark_published("j", 2)
    assert await table.asked("j") == [(2, NOW)]


async def test_jobs_are_found_by_status_and_by_user(dynamo: Dynamo) -> None:
    table, _ = dynamo.tables
    failed, done = JobStatus.COMPLETED_WITH_FAILURES, JobStatus.COMPLETED
    for number, (status, user) in enumerate([(failed, "u1"), (failed, "u2"), (done, "u1")]):
        when = NOW + timedelta(hours=number)
        await table.put(JobSnapshot(job_id=f"j{number}", attempt=1, version=1, user_id=user, status=status, updated_at=when))
    assert {each.job_id for each in await table.of_status(failed, NOW)} == {"j0", "j1"}
    assert {each.job_id for each in await table.of_status(failed, NOW + timedelta(minutes=1))} == {"j1"}
    assert {each.job_id for each in await table.of_user("u1", NOW)} == {"j0", "j2"}


async def test_the_newest_jobs_come_first_of_all_of_a_user_or_of_some_statuses(dynamo: Dynamo) -> None:
    table, _ = dynamo.tables
    kinds = tuple(JobStatus)
    for number in range(12):
        job = JobSnapshot(
            job_id=f"j{number:02}",
            attempt=1,
            version=1,
            user_id=f"u{number % 2}",
            status=kinds[number % len(kinds)],
            updated_at=NOW + timedelta(minutes=number),
        )
        await table.put(job)

    async def newest(most: int, *statuses: JobStatus, **more: Any) -> list[int]:
        return [int(each.job_id[1:]) for each in await table.newest(most, statuses or kinds, **more)]

    assert await newest(100) == list(range(11, -1, -1))
    assert await newest(3) == [11, 10, 9]
    assert await newest(3, JobStatus.PENDING, JobStatus.FAILED) == [10, 6, 4]
    assert await newest(100, user_id="u1") == [11, 9, 7, 5, 3, 1]
    assert await newest(1, JobStatus.RUNNING, user_id="u1") == [7]
    assert await newest(100, since=NOW + timedelta(minutes=10)) == [11, 10]
    assert await newest(5, user_id="nobody") == []
