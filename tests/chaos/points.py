"""Points between two effects, and a worker that dies there: `python -m tests.chaos.points worker` with EXPORT_TEST_DIE_AT.

The service knows nothing of this: the methods between which it dies are wrapped here.
"""

import asyncio
import functools
import importlib
import os
import signal
from typing import Any

from export_service._app_path import make_importable

POINTS = {
    "attempt in the ledger, request not on Kafka": "connectors.dynamodb:DynamoTable.open_attempt:after:1",
    "request on Kafka, not marked in the ledger": "connectors.dynamodb:DynamoTable.mark_published:before:2",
    "marked in the ledger, message not deleted": "connectors.dynamodb:DynamoTable.mark_published:after:1",
    "message deleted": "connectors.sqs:SqsQueue.delete:after:2",
    "job accepted, no task out": "send:.results:after:1",
    "some tasks out": "send:.tasks:after:9",
    "all tasks out, plan not": "agents.plan:Planner._read_all:after:1",
    "plan out, request not committed": "agents.plan:Planner.plan:after:1",
    "files stored, outcomes not published": "agents.download:Downloader._done:after:12",
    "outcomes on their way, batch not acked": "agents.download:Downloader._publish:after:6",
    "jobs' changelog written, shards' not": "tables.confirmed:ConfirmedTable.flush:after:3",
    "changelogs written, results not acked": "tables.confirmed:ConfirmedTable.flush:after:4",
    "completion out, results not committed": "send:.completions:after:1",
    "report written, state not answered": "agents.report:Reporter.write:after:1",
    "answer claimed, not sent": "connectors.dynamodb:DynamoTable.claim:after:1",
    "answer accepted, not recorded": "connectors.step_functions:StepFunctionsCallback._call:after:1",
    "answer recorded, not published": "connectors.dynamodb:DynamoTable.record_answer:after:1",
    "answer published, completion not committed": "send:.callbacks:after:1",
    "snapshot in the table, record not committed": "connectors.dynamodb:DynamoTable.put:after:3",
    "before a commit of offsets": "streams.app:WindowConsumer.commit:before:4",
}
"""Name -> module:Class.method:before|after:how many calls, or send:topic's end:before|after:how many records."""
VARIABLE = "EXPORT_TEST_DIE_AT"


def arm(point: str) -> None:
    """SIGKILL to this process at the point."""
    where, method, moment, count = point.split(":")
    left = int(count)

    def passed(now: str) -> None:
        nonlocal left
        if now == moment:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    if where == "send":
        return _arm_send(method, passed)
    owner: Any = importlib.import_module(where)
    *path, name = method.split(".")
    for part in path:
        owner = getattr(owner, part)
    original = getattr(owner, name)

    @functools.wraps(original)
    async def waiting(*args: Any, **options: Any) -> Any:
        passed("before")
        value = await original(*args, **options)
        passed("after")
        return value

    @functools.wraps(original)
    def direct(*args: Any, **options: Any) -> Any:
        passed("before")
        value = original(*args, **options)
        passed("after")
        return value

    setattr(owner, name, waiting if asyncio.iscoroutinefunction(original) else direct)
    return None


def _arm_send(topic_end: str, passed: Any) -> None:
    """`after`: when the broker has confirmed the record."""
    from streams.publisher import KafkaPublisher

    original = KafkaPublisher.send

    async def send(self: KafkaPublisher, topic: str, *args: Any, **options: Any) -> Any:
        ours = topic.endswith(topic_end)
        if ours:
            passed("before")
        confirmed = await original(self, topic, *args, **options)
        if ours:
            confirmed.add_done_callback(lambda _: passed("after"))
        return confirmed

    KafkaPublisher.send = send  # type: ignore[method-assign]


if __name__ == "__main__":
    make_importable()
    if at := os.environ.get(VARIABLE):
        arm(at)
    from export_service.cli.main import run

    run()
