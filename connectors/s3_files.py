"""Files and listings from S3."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from connectors.aws import code_of, is_transient
from export_service.bandwidth import Bandwidth
from export_service.failures import PlanError, RangeRefused, TransferError
from export_service.sealing import without_query

_CHUNK = 256 * 1024
_LARGE_CHUNK = 1024 * 1024
_CLASSES = {"NoSuchKey": "ObjectNotFound", "404": "ObjectNotFound", "NoSuchBucket": "BucketNotFound", "403": "AccessDenied"}
_BUSY = ("SlowDown", "ServiceUnavailable", "RequestLimitExceeded", "TooManyRequests", "503", "429")


class S3Download:
    """The LargeDownload port over a GetObject answer."""

    def __init__(self, client: Any, place: dict[str, str], answer: Any, url: str, bandwidth: Bandwidth) -> None:
        self._client, self._place, self._answer, self._shown = client, place, answer, without_query(url)
        self._bandwidth = bandwidth

    @property
    def size(self) -> int | None:
        return int(self._answer["ContentLength"])

    @property
    def validator(self) -> str | None:
        """S3's ETags are strong. Not the version id: to ask for one needs a right that readers may not have."""
        return self._answer.get("ETag")  # type: ignore[no-any-return]

    def chunks(self) -> AsyncIterator[bytes]:
        return self._chunks(self._answer, _CHUNK)

    def blocks(self) -> AsyncIterator[list[bytes]]:
        return self._blocks(self._answer)

    def close(self) -> None:
        self._answer["Body"].close()

    @asynccontextmanager
    async def span(self, first: int, stop: int, validator: str) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        span = f"bytes={first}-{stop - 1}"
        try:
            answer = await self._client.get_object(**self._place, Range=span, IfMatch=validator)
        except (BotoCoreError, ClientError) as error:
            failed = failure_of(error, self._shown)
            raise failed if failed.retryable else RangeRefused(f"{failed.message}, asked for {span} of {validator}") from None
        async with answer["Body"]:
            got = answer.get("ContentRange"), answer.get("ETag")
            if got != (f"bytes {first}-{stop - 1}/{self.size}", validator):
                raise RangeRefused(f"S3 sent {got[0]} of {got[1]} for {self._shown}, asked for {span} of {validator}")
            yield self._blocks(answer)

    async def _blocks(self, answer: Any) -> AsyncIterator[list[bytes]]:
        async for chunk in self._chunks(answer, _LARGE_CHUNK):
            yield [chunk]

    async def _chunks(self, answer: Any, size: int) -> AsyncIterator[bytes]:
        try:
            async for chunk in answer["Body"].iter_chunks(size):
                yield chunk
                await self._bandwidth.passed(len(chunk))
        except (BotoCoreError, ClientError, OSError, TimeoutError) as error:
            raise failure_of(error, self._shown) from None


class S3Files:
    """The FileSource port for s3://bucket/key, over an aioboto3 S3 client. `bandwidth`: of what is read; without it there is no limit."""

    def __init__(self, client: Any, bandwidth: Bandwidth | None = None) -> None:
        self._client, self._bandwidth = client, bandwidth or Bandwidth()

    @asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[S3Download]:
        bucket, key = bucket_and_key(url)
        place = {"Bucket": bucket, "Key": key}
        try:
            answer = await self._client.get_object(**place)
        except (BotoCoreError, ClientError) as error:
            failed = failure_of(error, without_query(url))
            failed.busy = failed.error in _BUSY
            raise failed from None
        async with answer["Body"]:
            yield S3Download(self._client, place, answer, url, self._bandwidth)

    async def list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        bucket, key = bucket_and_key(prefix)
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        try:
            async for page in pages:
                for found in page.get("Contents", ()):
                    if not found["Key"].endswith("/"):  # the marker that consoles create for an empty folder
                        yield f"s3://{bucket}/{found['Key']}", found["Size"]
        except (BotoCoreError, ClientError) as error:
            failed = failure_of(error, prefix)
            if failed.retryable:
                raise failed from None
            raise PlanError(f"prefix {prefix!r}: {failed}") from None


def bucket_and_key(url: str) -> tuple[str, str]:
    """s3://bucket/key -> (bucket, key). A key is taken as it is written; it may have a '?' only as %3F."""
    parts = urlsplit(url)
    key = parts.path.lstrip("/")
    return parts.netloc, unquote(key) if "%" in key else key


def failure_of(error: Exception, shown: str) -> TransferError:
    """The failure class of an S3 error; its message names the object, never the request."""
    if isinstance(error, ClientError):
        code = code_of(error)
        transient = is_transient(error)
        return TransferError(_CLASSES.get(code, code), f"S3 answered {code} for {shown}", retryable=transient)
    if isinstance(error, TimeoutError):
        return TransferError("Timeout", f"{shown} did not send anything in time", retryable=True)
    transient = not isinstance(error, BotoCoreError) or is_transient(error)
    return TransferError("ConnectionFailed", f"no connection for {shown}: {type(error).__name__}", retryable=transient)
