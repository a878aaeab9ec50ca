"""One way to make AWS clients, and one way to say that AWS does not answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)

from export_service.failures import Unavailable
from export_service.settings import Aws

_SETTING = {
    "sqs": "AWS_ENDPOINT_URL_SQS",
    "stepfunctions": "AWS_ENDPOINT_URL_SFN",
    "dynamodb": "AWS_ENDPOINT_URL_DYNAMODB",
    "s3": "AWS_ENDPOINT_URL_S3",
}
_NAME = {"sqs": "SQS", "stepfunctions": "Step Functions", "dynamodb": "DynamoDB", "s3": "S3"}
_THROTTLED = ("Throttling", "ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded", "SlowDown")


class Clients:
    """Opens clients; each is a context manager of its own."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._session = aioboto3.Session(region_name=aws.region_name)

    @asynccontextmanager
    async def open(self, service: str, connections: int = 32) -> AsyncIterator[Any]:
        """A client of `sqs`, `stepfunctions`, `dynamodb` or `s3`."""
        config = AioConfig(
            connect_timeout=5,
            # Longer than SQS's longest poll, 20 s.
            read_timeout=30,
            max_pool_connections=connections,
            # Two quick tries; after that the caller decides, because it knows what waits meanwhile.
            retries={"mode": "standard", "total_max_attempts": 2},
        )
        async with self._session.client(service, endpoint_url=self._aws.endpoint_for(service), config=config) as client:
            yield client


def code_of(error: ClientError) -> str:
    """AWS's error name, without the `com.amazonaws…#` that some services put before it."""
    return str(error.response.get("Error", {}).get("Code", "Unknown")).rsplit("#", 1)[-1]


def is_transient(error: BotoCoreError | ClientError) -> bool:
    """Whether the same call may work later without anybody changing anything."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or code_of(error).startswith(_THROTTLED)
    return isinstance(error, ConnectionError | HTTPClientError)


def unavailable(service: str, error: BotoCoreError | ClientError, setting: str | None = None) -> Unavailable:
    """The error as a sentence that names the setting to look at."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        return Unavailable(_NAME[service], "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role", "no credentials")
    if isinstance(error, ClientError):
        return Unavailable(_NAME[service], setting or "AWS_REGION and the role's permissions", code_of(error))
    endpoint = getattr(error, "kwargs", {}).get("endpoint_url")
    detail = type(error).__name__ + (f" {endpoint.split('?')[0]}" if endpoint else "")
    return Unavailable(_NAME[service], f"{_SETTING[service]} or AWS_ENDPOINT, or AWS_REGION", detail)
