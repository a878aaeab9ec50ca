"""Records that nobody can read, in all forms, for topics that anybody may write to by mistake."""

import asyncio
import json
import random
import uuid
from typing import Any

from aiokafka import AIOKafkaProducer

TOPICS = ("requests", "tasks", "results", "completions", "snapshots", "cancellations")
_COMPACTED = ("snapshots", "cancellations")


def records(rng: random.Random) -> list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]]:
    """Key, value, headers of each."""
    job = str(uuid.UUID(int=rng.getrandbits(128)))
    info = {
        "v": 1,
        "jobId": job,
        "exportId": "e",
        "userId": "u",
        "requestedAt": "2025-01-01T00:00:00.000Z",
        "destination": "file:///nowhere/",
    }
    wrong: list[Any] = [
        {"type": "JobPlanned", "v": 2, "job": info, "totalTasks": 1},  # a version from the future
        {"type": "SomethingNew", "v": 1, "jobId": job},
        {"type": "JobPlanned", "v": 1, "job": info, "totalTasks": "many"},
        {"type": "TaskResults", "v": 1, "jobId": job, "attempt": 1, "results": [{"v": 1, "index": -1, "outcome": "SUCCEEDED"}]},
        {"v": 1, "jobId": job, "tasks": [{"v": 1, "index": 0}]},
        [],
        7,
        "text",
        {},
    ]
    values = [json.dumps(each).encode() for each in wrong]
    values += [b"", b"{", b"\xff\xfe\x00", rng.randbytes(300), b'{"v":1,"x":"' + b"x" * 900_000 + b'"}', b"[" * 5_000]
    found: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]] = [(job.encode(), value, []) for value in values]
    found += [(None, b"no key", []), (b"", b"empty key", []), (b"\xff\xff", b"{}", []), (job.encode(), None, [])]
    return [*found, (job.encode(), b"bad headers", [("", b""), ("x" * 300, b"\xff"), ("traceparent", b"\x00")])]


async def pour(bootstrap: str, prefix: str, rng: random.Random) -> int:
    """All of them onto each topic; how many. A compacted topic takes none without a key."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    sent = []
    try:
        for topic in TOPICS:
            for key, value, headers in records(rng):
                if topic not in _COMPACTED or key is not None:
                    sent.append(await producer.send(prefix + topic, value, key=key, headers=headers))
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
    return len(sent)
