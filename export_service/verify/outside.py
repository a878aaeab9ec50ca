"""Reads what is not Kafka: the table, executions, destinations, sources. Raises what boto and the file system raise."""

import asyncio
import hashlib
import json
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from boto3.dynamodb.types import TypeDeserializer

from export_service.verify.evidence import Destination, Execution, Stored

_CHUNK = 1024 * 1024
_AT_A_TIME = 16
_REPORTS = ("_report.jsonl", "_report.csv")
_deserialize = TypeDeserializer().deserialize


async def table(
    client: Any, name: str, job_id: str | None
) -> tuple[dict[str, dict[str, Any]], dict[tuple[str, int], dict[str, Any]]]:
    """Snapshots by job, and attempts by (job, number): of one job, or of the whole table."""
    operation, more = "scan", {}
    if job_id is not None:
        operation = "query"
        more = {"KeyConditionExpression": "pk = :pk", "ExpressionAttributeValues": {":pk": {"S": f"JOB#{job_id}"}}}
    snapshots: dict[str, dict[str, Any]] = {}
    attempts: dict[tuple[str, int], dict[str, Any]] = {}
    async for page in client.get_paginator(operation).paginate(TableName=name, ConsistentRead=True, **more):
        for raw in page["Items"]:
            item = {key: _plain(_deserialize(value)) for key, value in raw.items()}
            job, kind = item["pk"].removeprefix("JOB#"), item["sk"]
            if kind == "SNAPSHOT":
                snapshots[job] = item
            elif kind.startswith("ATTEMPT#"):
                attempts[job, int(kind.removeprefix("ATTEMPT#"))] = item
    return snapshots, attempts


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, Decimal) else value


async def messages_left(client: Any, queue_url: str) -> int:
    """On the queue, in flight and delayed ones included."""
    names = [f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible", "Delayed")]
    found = await client.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)
    return sum(int(found["Attributes"].get(name, 0)) for name in names)


async def execution(client: Any, arn: str) -> Execution:
    about = await client.describe_execution(executionArn=arn)
    events: list[Any] = []
    async for page in client.get_paginator("get_execution_history").paginate(executionArn=arn):
        events += page["events"]
    job_id = json.loads(about.get("input", "{}")).get("jobId")
    return Execution(arn, about["status"], job_id, tuple(events))


async def folder(uri: str, names: set[str]) -> Destination | None:
    """What is in a local folder; None if there is none. Only `names` and reports are read, other files are just listed."""
    root = Path(unquote(urlsplit(uri).path))
    return await asyncio.to_thread(_folder, root, names) if root.is_dir() else None


def _folder(root: Path, names: set[str]) -> Destination:
    files: dict[str, Stored] = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        # A file that is being written may be gone, or have its final name, by the time we look at it.
        with suppress(FileNotFoundError):
            if path.is_file():
                files[name] = Stored(path.stat().st_size, _sha256(path) if name in names else "")
    return Destination(files, (), {name: (root / name).read_bytes() for name in _REPORTS if name in files})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def prefix(client: Any, uri: str, names: set[str]) -> Destination:
    """The same of `s3://bucket/prefix/`, and multipart uploads that nobody completed."""
    bucket, root = urlsplit(uri).netloc, urlsplit(uri).path.lstrip("/")
    root = root if not root or root.endswith("/") else root + "/"
    sizes: dict[str, int] = {}
    async for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=root):
        sizes |= {each["Key"].removeprefix(root): each["Size"] for each in page.get("Contents", ())}
    slots = asyncio.Semaphore(_AT_A_TIME)

    async def read(name: str) -> str:
        async with slots:
            return await object_sha256(client, bucket, root + name)

    wanted = [name for name in sizes if name in names]
    hashes = dict(zip(wanted, await asyncio.gather(*map(read, wanted)), strict=True))
    uploads: list[str] = []
    async for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=root):
        uploads += [each["Key"] for each in page.get("Uploads", ())]
    reports = {}
    for name in filter(sizes.__contains__, _REPORTS):
        answer = await client.get_object(Bucket=bucket, Key=root + name)
        async with answer["Body"]:
            reports[name] = await answer["Body"].read()
    return Destination({name: Stored(size, hashes.get(name, "")) for name, size in sizes.items()}, tuple(uploads), reports)


async def object_sha256(client: Any, bucket: str, key: str) -> str:
    digest = hashlib.sha256()
    answer = await client.get_object(Bucket=bucket, Key=key)
    async with answer["Body"]:
        async for chunk in answer["Body"].iter_chunks(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


async def sources(urls: Iterable[str]) -> Mapping[str, str]:
    """URL -> SHA-256 of what it serves now. Those that cannot be read are left out; so are URLs of other schemes than http(s)."""
    slots = asyncio.Semaphore(_AT_A_TIME)

    async def read(url: str) -> tuple[str, str | None]:
        async with slots:
            return url, await asyncio.to_thread(_fetch, url)

    found = await asyncio.gather(*(read(url) for url in urls if url.startswith(("http://", "https://"))))
    return {url: digest for url, digest in found if digest is not None}


def _fetch(url: str) -> str | None:
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            while chunk := answer.read(_CHUNK):
                digest.update(chunk)
    except (OSError, ValueError):
        return None
    return digest.hexdigest()
