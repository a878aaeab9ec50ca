"""Gathers the evidence, in an order in which a running system cannot look broken: commits before ends, causes after effects."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from export_service.settings import Settings
from export_service.verify import outside
from export_service.verify.evidence import READERS, TOPICS, Destination, Evidence
from export_service.verify.history import History
from export_service.verify.topics import Progress, TopicReader

_OF_ALL = "is about the whole system, not about one job"


@dataclass(frozen=True)
class Scope:
    """What to look at.

    Attributes:
        job_id: one job, or None for all.
        since_ms: only jobs that were asked for from then on; ms since the epoch.
        wait_seconds: how long lag and queue may take to get to 0 before they are looked at.
        executions: ARNs.
        fetch_sources: read the http(s) sources again, those without a query.
    """

    job_id: str | None = None
    wait_seconds: float = 0
    table: bool = True
    files: bool = True
    fetch_sources: bool = False
    executions: tuple[str, ...] = ()
    since_ms: int = 0


@dataclass(frozen=True)
class Access:
    """How to reach things.

    Attributes:
        kafka: keyword arguments that connect an aiokafka client.
        client: opens an aioboto3 client of a service.
    """

    kafka: Mapping[str, Any]
    client: Callable[[str], AbstractAsyncContextManager[Any]]


async def gather(settings: Settings, access: Access, scope: Scope, known: Evidence, progress: Progress) -> Evidence:
    """`known`: what the caller alone knows (settled, sources, secrets, logs, …). Raises what aiokafka, boto and the file system raise."""
    async with AsyncExitStack() as stack:
        names = {topic: settings.topics.prefix + topic for topic in TOPICS if "changelog" not in topic}
        names |= {f"{table}-changelog": f"{settings.app_id}-tally-{table}-changelog" for table in ("jobs", "shards")}
        reader = await stack.enter_async_context(TopicReader(access.kafka, names, lambda role: f"{settings.app_id}-{role}"))
        queue = await stack.enter_async_context(access.client("sqs")) if settings.queue.url else None
        deadline = time.monotonic() + scope.wait_seconds
        while True:
            left = await outside.messages_left(queue, settings.queue.url or "") if queue else None
            bounds = await reader.bounds()
            lag = sum(each.lag for (topic, _), each in bounds.items() if topic in READERS)
            if not (lag or left) or time.monotonic() >= deadline:
                break
            progress("waiting for lag 0", 0, lag + (left or 0))
            await asyncio.sleep(0.5)
        if scope.since_ms:
            bounds = await reader.from_then(bounds, scope.since_ms)
        records, since = await reader.read(bounds, (scope.job_id or "").encode(), progress)
        partitions = {place: replace(each, since=each.since or since.get(place)) for place, each in bounds.items()}
        found = replace(known, partitions=partitions, records=records, queue_left=left, now_ms=round(time.time() * 1000))
        found = replace(found, since_ms=scope.since_ms)
        found = replace(found, ttl_ms=settings.table.ttl_days * 86_400_000, missing={**known.missing, **_missing(scope)})
        if scope.table:
            client = await stack.enter_async_context(access.client("dynamodb"))
            snapshots, ledger = await outside.table(client, settings.table.name, scope.job_id)
            found = replace(found, snapshots=snapshots, ledger=ledger)
        if scope.executions:
            client = await stack.enter_async_context(access.client("stepfunctions"))
            executions = [await outside.execution(client, arn) for arn in scope.executions]
            found = replace(found, executions=tuple(executions))
        return await _with_files(found, access, scope, progress) if scope.files else found


def _missing(scope: Scope) -> dict[str, str]:
    missing = {"I7": _OF_ALL, "I9": _OF_ALL} if scope.job_id else {}
    if not scope.table:
        missing["table"] = "the DynamoDB table was not read"
    if not scope.files:
        missing["I4"] = "the destinations were not read"
    return missing


async def _with_files(found: Evidence, access: Access, scope: Scope, progress: Progress) -> Evidence:
    wanted: dict[str, set[str]] = defaultdict(set)
    urls: set[str] = set()
    sealed: set[str] = set()
    for job in History(found).jobs.values():
        if job.destination is not None:
            wanted[job.destination] |= {name for name, _ in job.files().values()}
            for _, task in job.tasks():
                (sealed if "query" in task else urls).add(str(task["url"]))
    destinations: dict[str, Destination] = {}
    missing = dict(found.missing)
    async with AsyncExitStack() as stack:
        s3: Any = None
        for number, (uri, names) in enumerate(wanted.items(), start=1):
            if uri.startswith("s3:"):
                s3 = s3 or await stack.enter_async_context(access.client("s3"))
                destinations[uri] = await outside.prefix(s3, uri, names)
            elif (here := await outside.folder(uri, names)) is not None or found.settled:
                destinations[uri] = here or Destination({})
            else:
                missing[uri] = f"{uri} is not on this machine"
            progress("destinations", number, len(wanted))
    sources = {**(await outside.sources(urls - sealed) if scope.fetch_sources else {}), **found.sources}
    return replace(found, destinations=destinations, missing=missing, sources=sources)
