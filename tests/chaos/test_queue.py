"""SQS as it is on a bad day: a ledger that takes longer than the visibility timeout, and deletes that are half refused."""

import asyncio
import json
import uuid
from collections import Counter

import pytest
from aiohttp import web

from tests.chaos.aws_faults import AwsFaults
from tests.chaos.judging import judge
from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e


class SlowQueries(AwsFaults):
    async def forward(self, request: web.Request, operation: str, body: bytes) -> web.Response:
        if operation == "Query":
            self.done["Query"] += 1
            await asyncio.sleep(5)  # the fault itself
        return await super().forward(request, operation, body)


class HalfDeletes(AwsFaults):
    """Of the first batches one entry each is refused, as SQS does it: with HTTP 200."""

    left = 3

    async def forward(self, request: web.Request, operation: str, body: bytes) -> web.Response:
        if operation != "DeleteMessageBatch" or not self.left:
            return await super().forward(request, operation, body)
        self.left -= 1
        asked = json.loads(body)
        refused, *others = asked["Entries"]
        said = {"Successful": [{"Id": entry["Id"]} for entry in others]}
        if others:
            self.done["beside others"] += 1
            answer = await super().forward(request, operation, json.dumps(asked | {"Entries": others}).encode())
            said = json.loads(answer.body)  # type: ignore[arg-type]
        failed = {"Id": refused["Id"], "SenderFault": False, "Code": "InternalError", "Message": "later"}
        return web.json_response(said | {"Failed": [failed]})


def taken(world: World) -> Counter[str]:
    """How often each job's message was handled, whatever came of it."""
    said = ("Processing export job", "Request came again")
    return Counter(line["jobId"] for line in world.logs() if line["msg"] in said)


def test_a_message_that_is_longer_in_work_than_its_visibility_timeout_comes_once(world: World) -> None:
    world.sqs.set_queue_attributes(QueueUrl=world.queue, Attributes={"VisibilityTimeout": "2"})
    world.catalog("slow", ["a.txt"])
    faults = SlowQueries(world.env["AWS_ENDPOINT"], 1)
    try:
        world.worker(AWS_ENDPOINT_URL_DYNAMODB=faults.start())
        arn, job = world.execute("slow")
        assert world.finished(arn)["status"] == "SUCCEEDED"
        world.until(world.queue_is_empty, "the queue is empty")
    finally:
        faults.close()
    assert faults.done["Query"] == 1, "each message that comes is looked up"
    assert taken(world) == {job: 1}
    judge(world, ["a.txt"], [job], [arn])


def test_deletes_that_are_half_refused_are_asked_again_and_no_job_runs_twice(world: World) -> None:
    world.catalog("halves", ["a.txt"])
    faults = HalfDeletes(world.env["AWS_ENDPOINT"], 1)
    jobs = [str(uuid.uuid4()) for _ in range(8)]
    for job in jobs:
        world.send({"jobId": job, "exportId": "halves", "userId": "u"})
    try:
        world.worker(AWS_ENDPOINT_URL_SQS=faults.start())
        for job in jobs:
            assert world.ended(job)["status"] == "COMPLETED"
        world.until(world.queue_is_empty, "the queue is empty")
    finally:
        faults.close()
    assert faults.left == 0
    assert faults.done["beside others"] > 0
    assert taken(world) == dict.fromkeys(jobs, 1)
    assert world.files.requests["/a.txt"] == len(jobs)
    judge(world, ["a.txt"], jobs, [])
