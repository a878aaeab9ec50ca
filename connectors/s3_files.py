"""Files and listings from S3."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from botocore.exceptions import BotoCoreError, ClientError

from connectors.aws import code_of, is_transient
from connectors.curl import Response
from connectors.http_files import read_blocks
from connectors.s3_client import BUSY, Object, S3Client, class_of, filled
from export_service.failures import PlanError, RangeRefused, TransferError


class S3Download:
    """The LargeDownload port over a GetObject answer."""

    def __init__(self, client: S3Client, what: Object, response: Response, close: Callable[[], None]) -> None:
        self._client, self._what, self._response = client, what, response
        self.size = response.content_length
        self.validator = response.header("etag")
        """S3's ETags are strong. Not the version id: to ask for one needs a right that readers may not have."""
        self.close = close

    async def chunks(self) -> AsyncIterator[bytes]:
        async for blocks in read_blocks(self._response, self._what.url):
            yield b"".join(blocks)

    def blocks(self) -> AsyncIterator[list[bytes]]:
        self._response.is_large()
        return read_blocks(self._response, self._what.url)

    @asynccontextmanager
    async def span(self, first: int, stop: int, validator: str) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        await self._client.reach(self._what.bucket)
        response = self._client.get_object(self._what, {"range": f"bytes={first}-{stop - 1}", "if-match": validator})
        response.is_large()
        try:
            await filled(response, self._what.url)
            self._check(response, f"bytes {first}-{stop - 1}/{self.size}", validator)
            yield read_blocks(response, self._what.url)
        finally:
            response.release()

    def _check(self, response: Response, span: str, validator: str) -> None:
        got = response.header("content-range"), response.header("etag")
        if response.status == 206 and got == (span, validator):
            return
        if response.status >= 300:
            failed = self._client.failure(response, self._what.url)
            if failed.retryable:
                raise failed
        text = f"{self._what.url} answered {response.status} with {got[0]} of {got[1]}, asked for {span} of {validator}"
        raise RangeRefused(text)


class S3Opening:
    """`async with` a GET, as http_files.Opening."""

    def __init__(self, client: S3Client, what: Object) -> None:
        self._client, self._what = client, what
        self._response: Response | None = None

    def begin(self, seconds: float, ready: Callable[[Response], None]) -> None:
        """The bucket has to be at hand."""
        response = self._response = self._client.get_object(self._what, seconds=seconds)
        response.on_filled = lambda: ready(response)

    def close(self) -> None:
        if self._response is not None:
            self._response.release()
            self._response = None

    async def __aenter__(self) -> S3Download:
        try:
            return await self._open()
        except BaseException:
            self.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def _open(self) -> S3Download:
        for again in (False, True):
            if self._response is None:
                await self._client.reach(self._what.bucket)
                self._response = self._client.get_object(self._what)
            response = self._response
            await filled(response, self._what.url)
            if response.status == 200:
                return S3Download(self._client, self._what, response, self.close)
            if again or not await self._client.moved(self._what.bucket, response):
                break
            self.close()
        failed = self._client.failure(response, self._what.url)
        failed.busy = failed.error in BUSY
        raise failed


class S3Files:
    """The FileSource port for s3://bucket/key."""

    def __init__(self, client: S3Client) -> None:
        self._client = client

    def open(self, url: str) -> S3Opening:
        return S3Opening(self._client, Object.at(url))

    def quick(self, url: str) -> S3Opening | None:
        """One that can `begin` now, if the bucket is at hand."""
        what = Object.at(url)
        return S3Opening(self._client, what) if self._client.at_hand(what.bucket) else None

    async def list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        bucket, key = Object.at(prefix)
        above = prefix if key or prefix.endswith("/") else prefix + "/"
        pages = self._client.boto.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        try:
            async for page in pages:
                for found in page.get("Contents", ()):
                    if not found["Key"].endswith("/"):  # the marker that consoles create for an empty folder
                        yield above + found["Key"].removeprefix(key).replace("%", "%25").replace("?", "%3F"), found["Size"]
        except (BotoCoreError, ClientError) as error:
            failed = _listing_failure(error, prefix)
            if failed.retryable:
                raise failed from None
            raise PlanError(f"prefix {prefix!r}: {failed}") from None


def _listing_failure(error: BotoCoreError | ClientError, prefix: str) -> TransferError:
    transient = is_transient(error)
    if isinstance(error, ClientError):
        code = code_of(error)
        return TransferError(class_of(code), f"S3 answered {code} for {prefix}", retryable=transient)
    return TransferError("ConnectionFailed", f"no connection for {prefix}: {type(error).__name__}", retryable=transient)
