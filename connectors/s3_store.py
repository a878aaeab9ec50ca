"""An S3 prefix as destination: one PutObject for small files, a multipart upload for large ones. Either is atomic."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from connectors.s3_files import failure_of
from export_service.failures import TransferError

_PART = 8 * 1024 * 1024
_MAX_PARTS = 10_000
"""S3's limits: parts of 5 MiB or more but for the last, at most 10,000 of them."""


class _S3Sink:
    def __init__(self, client: Any, bucket: str, key: str, part: int) -> None:
        self._client, self._place, self._part = client, {"Bucket": bucket, "Key": key}, part
        self._waiting = bytearray()
        self._upload: str | None = None
        self._parts: list[dict[str, Any]] = []

    async def write(self, chunk: bytes) -> None:
        self._waiting += chunk
        while len(self._waiting) >= self._part:
            body = bytes(self._waiting[: self._part])
            del self._waiting[: self._part]
            await self._send_part(body)

    async def finish(self) -> None:
        if self._upload is None:
            await self._client.put_object(**self._place, Body=bytes(self._waiting))
            return
        if self._waiting:
            await self._send_part(bytes(self._waiting))
        # S3 may answer 200 with an error in the body; botocore raises that as ClientError.
        await self._client.complete_multipart_upload(**self._place, UploadId=self._upload, MultipartUpload={"Parts": self._parts})
        self._upload = None

    async def abort(self) -> None:
        if self._upload is not None:
            with suppress(BotoCoreError, ClientError):
                await self._client.abort_multipart_upload(**self._place, UploadId=self._upload)

    async def _send_part(self, body: bytes) -> None:
        if self._upload is None:
            self._upload = (await self._client.create_multipart_upload(**self._place))["UploadId"]
        number = len(self._parts) + 1
        answer = await self._client.upload_part(**self._place, UploadId=self._upload, PartNumber=number, Body=body)
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})


class S3Prefix:
    """The Destination port for s3://bucket/prefix/."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self._client, self._bucket, self._prefix = client, bucket, prefix

    def uri(self, name: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{name}"

    @asynccontextmanager
    async def create(self, name: str, size: int | None = None) -> AsyncIterator[_S3Sink]:
        if len((self._prefix + name).encode()) > 1024:
            raise TransferError("DestinationDenied", f"{self.uri(name)!r}: S3 keys have at most 1,024 bytes", retryable=False)
        sink = _S3Sink(self._client, self._bucket, self._prefix + name, max(_PART, (size or 0) // _MAX_PARTS + 1))
        try:
            yield sink
            await sink.finish()
        except BaseException as error:
            # Parts are billed until the upload is aborted, also when we are being cancelled.
            await asyncio.shield(sink.abort())
            if isinstance(error, BotoCoreError | ClientError):
                raise failure_of(error, self.uri(name)) from None
            raise
