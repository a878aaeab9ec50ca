"""What each AWS port promises, said once, and held against the adapter in memory and the one for AWS (on the emulator)."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import pytest
import structlog

from connectors.aws import Clients
from connectors.curl import Curl
from connectors.destinations import StoreDestinations
from connectors.dynamodb import DynamoTable
from connectors.fetcher import open_lane
from connectors.large_files import LARGE
from connectors.memory import MemoryCallback, MemoryLedger, MemoryQueue, MemorySnapshots
from connectors.s3_client import S3Client
from connectors.s3_files import S3Files
from connectors.s3_uploads import PART
from connectors.sqs import open_queue
from connectors.step_functions import StepFunctionsCallback
from export_service.devstack import aws, processes
from export_service.devstack.stack import Stack
from export_service.failures import CallbackRefused, CallbackThrottled, RangeRefused, TransferError, Unavailable
from export_service.memory_share import MemoryShare
from export_service.messages import CallbackAnswered, CallbackOutcome, JobSnapshot, JobStatus, Outcome, Task, TaskResult
from export_service.ports import Destinations, Ledger, RequestQueue, SnapshotStore, TaskCallback
from export_service.settings import Aws, Download, load
from export_service.transfer import Busy

pytestmark = pytest.mark.broker
NOW = datetime(2026, 1, 1, tzinfo=UTC)
KINDS = pytest.mark.parametrize("kind", ["memory", "aws"])


class World:
    """Makes adapters of either kind."""

    def __init__(self, stack: Stack, exits: AsyncExitStack) -> None:
        self._exits = exits
        self.endpoint = stack.env["AWS_ENDPOINT"]
        self.admin = aws.Aws(self.endpoint)
        self.clients = Clients(Aws(endpoint=self.endpoint, region="us-east-1"))

    async def client(self, service: str) -> Any:
        return await self._exits.enter_async_context(self.clients.open(service))

    async def s3(self) -> S3Client:
        curl = await self._exits.enter_async_context(Curl(Download(), anywhere=True))
        return S3Client(curl, self.clients, await self.client("s3"))

    async def table(self) -> DynamoTable:
        name = f"t-{uuid.uuid4().hex[:8]}"
        aws.create_table(self.admin.client("dynamodb"), name)
        return DynamoTable(await self.client("dynamodb"), name, timedelta(days=1))

    async def ledger(self, kind: str) -> Ledger:
        return MemoryLedger() if kind == "memory" else await self.table()

    async def snapshots(self, kind: str) -> SnapshotStore:
        return MemorySnapshots() if kind == "memory" else await self.table()


@pytest.fixture
async def world(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    async with AsyncExitStack() as exits:
        yield World(stack, exits)


@KINDS
async def test_ledger_one_attempt_per_token_and_racing_callers_agree(world: World, kind: str) -> None:
    ledger = await world.ledger(kind)
    key = b"k" * 32
    opened = await asyncio.gather(*(ledger.open_attempt("j", "token-1", "d", key, NOW) for _ in range(4)))
    assert {(attempt.number, attempt.token, attempt.published) for attempt in opened} == {(1, "token-1", False)}
    await ledger.mark_published("j", 1)
    assert (await ledger.open_attempt("j", "token-1", "d", b"x" * 32, NOW)).published
    second = await ledger.open_attempt("j", "token-2", "d", b"x" * 32, NOW)
    assert (second.number, second.seal_key) == (2, key), "one key a job"
    assert (await ledger.open_attempt("j", None, "other", None, NOW)).request_digest == "d"
    assert await ledger.find_attempt("j", "token-2") == second
    assert await ledger.find_attempt("j", "token-3") is None
    assert await ledger.find_attempt("unknown", None) is None
    assert await ledger.seal_key("j") == key
    assert await ledger.seal_key("unknown") is None
    assert await ledger.attempt("j", 9) is None
    assert "token-1" not in repr(opened[0])


@KINDS
async def test_ledger_keeps_the_answer(world: World, kind: str) -> None:
    ledger = await world.ledger(kind)
    await ledger.open_attempt("j", "token", "d", None, NOW)
    answer = CallbackAnswered(job_id="j", attempt=1, call="SendTaskSuccess", outcome=CallbackOutcome.SENT, tries=1, answered_at=NOW)
    await ledger.record_answer(answer)
    found = await ledger.attempt("j", 1)
    assert found is not None
    assert (found.answer, found.token) == (answer, "token")
    refused = answer.model_copy(update={"outcome": CallbackOutcome.DUPLICATE, "error": "TaskTimedOut"})
    await ledger.record_answer(refused)
    again = await ledger.attempt("j", 1)
    assert again is not None
    assert again.answer == answer, "what was accepted stays"


@KINDS
async def test_ledger_says_whether_an_answer_was_on_its_way_before(world: World, kind: str) -> None:
    ledger = await world.ledger(kind)
    await ledger.open_attempt("j", "token", "d", None, NOW)
    await ledger.open_attempt("j", None, "d", None, NOW)
    claims = await asyncio.gather(*(ledger.claim("j", 1, NOW) for _ in range(3)))
    assert sorted(claim.claimed for claim in claims if claim) == [False, True, True]
    assert {claim.token for claim in claims if claim} == {"token"}
    assert await ledger.claim("j", 2, NOW) is None, "nobody waits for it"
    assert await ledger.claim("j", 3, NOW) is None
    assert await ledger.attempt("j", 3) is None, "a claim makes no attempt"


@KINDS
async def test_snapshots_only_go_forward(world: World, kind: str) -> None:
    store = await world.snapshots(kind)

    def snapshot(attempt: int, version: int) -> JobSnapshot:
        return JobSnapshot(
            job_id="j", attempt=attempt, version=version, user_id="u", status=JobStatus.RUNNING, bytes=2**40, updated_at=NOW
        )

    assert await store.get("j") is None
    written = [await store.put(snapshot(a, v)) for a, v in [(1, 5), (1, 5), (1, 4), (1, 6), (2, 1), (1, 9)]]
    assert written == [True, False, False, True, True, False]
    assert await store.get("j") == snapshot(2, 1)


@KINDS
async def test_queue_gives_deletes_and_takes_back(world: World, kind: str) -> None:
    if kind == "memory":
        memory = MemoryQueue()
        memory.send("one", {"a": "b"})
        await _queue(memory)
        return
    sqs = world.admin.client("sqs")
    url = sqs.create_queue(QueueName=f"q-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    attribute = {"a": {"DataType": "String", "StringValue": "b"}}
    sqs.send_message(QueueUrl=url, MessageBody="one", MessageAttributes=attribute)
    async with open_queue(await world.client("sqs"), url, 1, 8, structlog.get_logger()) as queue:
        await _queue(queue)


async def _queue(queue: RequestQueue) -> None:
    (message,) = await queue.receive()
    assert (message.body, message.receive_count, dict(message.attributes)) == ("one", 1, {"a": "b"})
    assert await queue.receive() == []
    await queue.release(message)
    (again,) = await queue.receive()
    assert (again.id, again.receive_count) == (message.id, 2)
    await queue.delete(again)
    assert await queue.receive() == []


async def test_a_fifo_queue_gives_each_group_in_order_also_what_comes_again(world: World) -> None:
    sqs = world.admin.client("sqs")
    name = f"q-{uuid.uuid4().hex[:8]}.fifo"
    url = sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true", "VisibilityTimeout": "2"})["QueueUrl"]
    for number, group in enumerate("aabab"):
        sqs.send_message(QueueUrl=url, MessageBody=str(number), MessageGroupId=group, MessageDeduplicationId=str(number))

    async def receive(queue: RequestQueue, count: int) -> list[tuple[str | None, str]]:
        found: list[tuple[str | None, str]] = []
        async with asyncio.timeout(20):
            while len(found) < count:
                messages = await queue.receive()
                found += [(message.group, message.body) for message in messages]
                for message in messages:
                    await queue.delete(message)
        return sorted(found, key=lambda each: str(each[0]))

    log = structlog.get_logger()
    client = await world.client("sqs")
    async with open_queue(client, url, 1, 8, log) as queue:
        messages = await queue.receive()
        # In this order the last of each group comes back last: as long as one is in flight, its group waits.
        for message in messages[:-1]:
            await queue.release(message)
    assert [message.body for message in messages] == list("01234")
    async with open_queue(client, url, 1, 8, log) as queue:
        assert await receive(queue, 5) == [("a", "0"), ("a", "1"), ("a", "3"), ("b", "2"), ("b", "4")]


@KINDS
async def test_callback_refuses_a_token_that_nobody_waits_for(world: World, kind: str) -> None:
    callback: TaskCallback
    if kind == "memory":

        def refuse(_: str) -> None:
            raise CallbackRefused("TaskDoesNotExist")

        callback = MemoryCallback(refuse=refuse)
    else:
        callback = StepFunctionsCallback(await world.client("stepfunctions"))
    with pytest.raises(CallbackRefused) as caught:
        await callback.success("A" * 100, "{}")
    assert caught.value.code in ("TaskDoesNotExist", "InvalidToken", "TaskTimedOut")
    assert "AAAA" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["file", "s3"])
@pytest.mark.parametrize("size", [0, 10, 3_000_000, 20_000_000])
async def test_a_destination_shows_a_file_whole_or_not_at_all(world: World, tmp_path: Path, scheme: str, size: int) -> None:
    s3 = world.admin.client("s3")
    prefix = f"{uuid.uuid4().hex}/"
    content = (b"0123456789" * (size // 10 + 1))[:size]

    def stored() -> dict[str, bytes]:
        if scheme == "file":
            return {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        keys = [found["Key"] for found in s3.list_objects_v2(Bucket=aws.BUCKET, Prefix=prefix).get("Contents", ())]
        return {key.removeprefix(prefix): s3.get_object(Bucket=aws.BUCKET, Key=key)["Body"].read() for key in keys}

    with ThreadPoolExecutor(2) as pool:
        destinations: Destinations = StoreDestinations(await world.s3(), pool, MemoryShare(2 * PART))
        at = destinations.at(tmp_path.as_uri() + "/" if scheme == "file" else f"s3://{aws.BUCKET}/{prefix}")
        for _ in range(2):
            async with at.create("a/ä b.bin", size) as sink:
                for start in range(0, size, 700_000):
                    await sink.write(content[start : start + 700_000])
                assert stored().get("a/ä b.bin") in (None, content)
        with pytest.raises(RuntimeError, match="broke off"):
            async with at.create("broken", size) as sink:
                await sink.write(content)
                raise RuntimeError("broke off")
    assert stored() == {"a/ä b.bin": content}
    uploads = s3.list_multipart_uploads(Bucket=aws.BUCKET).get("Uploads", ())
    assert not [upload for upload in uploads if upload["Key"].startswith(prefix)]


def test_an_unknown_destination_is_named() -> None:
    with pytest.raises(TransferError, match="neither file: nor s3"):
        StoreDestinations(cast("Any", None), ThreadPoolExecutor(1), MemoryShare(0)).at("ftp://h/x/")


async def test_aws_that_does_not_answer_is_a_sentence_with_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    clients = Clients(Aws(endpoint=f"http://127.0.0.1:{processes.free_port()}", region="us-east-1"))
    async with clients.open("dynamodb") as dynamodb, clients.open("sqs") as sqs, clients.open("stepfunctions") as machine:
        with pytest.raises(Unavailable, match=r"DynamoDB does not answer .* check AWS_ENDPOINT_URL_DYNAMODB or AWS_ENDPOINT"):
            await DynamoTable(dynamodb, "t", timedelta(days=1)).get("j")
        async with open_queue(sqs, "http://127.0.0.1:1/1/q", 0, 8, structlog.get_logger()) as queue:
            with pytest.raises(Unavailable, match=r"SQS does not answer .* check "):
                await queue.receive()
        with pytest.raises(CallbackThrottled):
            await StepFunctionsCallback(machine).success("token", "{}")


async def test_parts_of_an_s3_object_are_of_the_version_that_was_opened(world: World) -> None:
    body, s3 = os.urandom(3_000_000), world.admin.client("s3")
    key = f"t-{uuid.uuid4().hex[:8]}"
    s3.put_object(Bucket=aws.BUCKET, Key=key, Body=body)
    files = S3Files(await world.s3())
    async with files.open(f"s3://{aws.BUCKET}/{key}") as download:
        assert download.size == len(body)
        assert download.validator is not None
        download.close()
        async with download.span(1_000_000, 2_500_000, download.validator) as blocks:
            assert b"".join([block async for some in blocks for block in some]) == body[1_000_000:2_500_000]
        s3.put_object(Bucket=aws.BUCKET, Key=key, Body=body[::-1])
        with pytest.raises(RangeRefused, match=key):
            async with download.span(0, 1_000, download.validator):
                pass
    async with files.open(f"s3://{aws.BUCKET}/{key}") as download:
        assert b"".join([block async for some in download.blocks() for block in some]) == body[::-1]


async def test_what_a_listing_names_is_what_is_read_whatever_its_key_has(world: World) -> None:
    s3, files, folder = world.admin.client("s3"), S3Files(await world.s3()), f"odd#{uuid.uuid4().hex[:8]}/"
    keys = [folder + name for name in ("a", "a#b.txt", "a?b=c", "a%41", "100 %", "ä/ö", "a+b&c")]
    for key in keys:
        s3.put_object(Bucket=aws.BUCKET, Key=key, Body=key.encode())
    prefix = f"s3://{aws.BUCKET}/{folder}"
    found = [url async for url, _ in files.list(prefix)]
    assert sorted(unquote(url.removeprefix(prefix)) for url in found) == sorted(key.removeprefix(folder) for key in keys)
    for url in found:
        async with files.open(url) as download:
            assert b"".join([chunk async for chunk in download.chunks()]).decode() == folder + unquote(url.removeprefix(prefix))


async def test_a_large_object_comes_to_a_folder_as_the_download_step_fetches_it(world: World, tmp_path: Path) -> None:
    """Through all that lies between: what counts bytes once hid that an object can be had in parts."""
    body, key = os.urandom(LARGE + 1_000_000), f"t-{uuid.uuid4().hex[:8]}"
    world.admin.client("s3").put_object(Bucket=aws.BUCKET, Key=key, Body=body)
    failures: list[BaseException] = []
    async with AsyncExitStack() as stack:
        lane = await open_lane(load(aws={"endpoint": world.endpoint, "region": "us-east-1"}), stack, failures.append)
        ended: asyncio.Future[TaskResult | Busy] = asyncio.get_running_loop().create_future()
        url = f"s3://{aws.BUCKET}/{key}"
        lane.start(tmp_path.as_uri() + "/", Task(index=0, url=url, name="large"), url, ended.set_result)
        await asyncio.wait([ended], timeout=60)
        await lane.stop()
    assert not failures
    result = ended.result()
    assert isinstance(result, TaskResult)
    assert (result.outcome, result.bytes, result.error) == (Outcome.SUCCEEDED, len(body), None)
    assert (tmp_path / "large").read_bytes() == body
