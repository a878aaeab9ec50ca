"""A FIFO queue whose worker is killed in the middle, and a message that brings each worker down that takes it."""

import asyncio
import json
import signal
import uuid

import pytest
from aiohttp import web

from export_service.devstack import aws
from tests.chaos.aws_faults import AwsFaults
from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e


class Ledger(AwsFaults):
    """Answers after a random time, so that what is not kept in order gets out of it, and holds back updates until `gate` is open."""

    def __init__(self, target: str) -> None:
        super().__init__(target, 1)
        self.gate = asyncio.Event()

    async def forward(self, request: web.Request, operation: str, body: bytes) -> web.Response:
        await asyncio.sleep(self._random.uniform(0, 0.3))
        self.done[operation] += 1
        if operation == "UpdateItem":
            await self.gate.wait()
        return await super().forward(request, operation, body)

    def open(self) -> None:
        self._loop.call_soon_threadsafe(self.gate.set)


def fifo_machine(world: World) -> str:
    """As the guide has it."""
    definition = json.loads(aws.state_machine_definition().replace("${QueueUrl}", world.queue))
    parameters = definition["States"]["StartExportJob"]["Parameters"]
    parameters["MessageGroupId.$"] = "$.jobId"
    parameters["MessageDeduplicationId.$"] = "States.Hash($$.Task.Token, 'SHA-256')"
    role = "arn:aws:iam::123456789012:role/export-state-machine"
    made = world.machine.create_state_machine(name=f"m-{uuid.uuid4().hex[:8]}", definition=json.dumps(definition), roleArn=role)
    return str(made["stateMachineArn"])


@pytest.mark.timeout(300)
def test_a_jobs_attempts_are_in_the_order_sent_although_the_worker_is_killed(world: World) -> None:
    name = f"q-{uuid.uuid4().hex[:8]}.fifo"
    attributes = {"FifoQueue": "true", "VisibilityTimeout": "8"}
    world.queue = world.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    world.env["EXPORT_QUEUE_URL"] = world.queue
    world.catalog("fifo", ["a.txt"])
    jobs = [str(uuid.uuid4()) for _ in range(2)]
    tokens = {job: [f"{n}-{uuid.uuid4()}" for n in range(4)] for job in jobs}

    def send(job: str, token: str) -> None:
        body = {"jobId": job, "exportId": "fifo", "userId": "u", "taskToken": token}
        world.sqs.send_message(QueueUrl=world.queue, MessageBody=json.dumps(body), MessageGroupId=job, MessageDeduplicationId=token)

    for number in range(4):
        for job in jobs:
            send(job, tokens[job][number])
    arn, other = world.execute("fifo", machine=fifo_machine(world))
    ledger = Ledger(world.env["AWS_ENDPOINT"])
    own = {"AWS_ENDPOINT_URL_DYNAMODB": ledger.start()}
    try:
        first = world.worker(**own)
        world.until(lambda: all(world.attempt(job, 1) for job in [*jobs, other]), "the first of each group is in work")
        first.send_signal(signal.SIGKILL)
        assert not any(world.attempt(job, 2) for job in jobs), "the second of a group waits for the delete of the first"
        first.wait()
        ledger.open()
        world.worker(**own)
        world.until(world.queue_is_empty, "the queue is empty", 120)
        for job in jobs:
            assert [world.attempt(job, n).get("taskToken") for n in range(1, 6)] == [*tokens[job], None]
            assert world.ended(job)["status"] == "COMPLETED"
        assert world.finished(arn)["status"] == "SUCCEEDED"
        assert world.ended(other)["status"] == "COMPLETED"
    finally:
        ledger.open()
        ledger.close()


def test_a_message_that_brings_each_worker_down_is_put_away_and_the_others_run(world: World) -> None:
    world.env |= {"EXPORT_QUEUE_MAX_RECEIVES": "2"}
    world.sqs.set_queue_attributes(QueueUrl=world.queue, Attributes={"VisibilityTimeout": "3"})
    world.catalog("good", ["a.txt"])
    poison = str(uuid.uuid4())
    broken = {"pk": {"S": f"JOB#{poison}"}, "sk": {"S": "ATTEMPT#0001"}, "taskToken": {"S": "t"}}
    world.table.put_item(TableName=world.table_name, Item=broken)
    world.send({"jobId": poison, "exportId": "good", "userId": "u", "taskToken": "t"})
    arn, _ = world.execute("good")
    first = world.launch()
    world.until(lambda: first.poll() is not None, "the first worker ends")
    assert first.returncode == 1
    second = world.worker()
    assert world.finished(arn)["status"] == "SUCCEEDED"
    world.until(world.queue_is_empty, "the queue is empty")
    assert second.poll() is None
    (rejected,) = [line for line in world.logs() if line["msg"] == "Rejected export request"]
    assert rejected["jobId"] == poison
    assert "KeyError in _attempt" in rejected["reason"]
    assert "received 2 times" in rejected["reason"]
