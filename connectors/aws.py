"""One way to make AWS clients, and one way to say that AWS does not answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias

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
from botocore.parsers import ResponseParserError

from export_service.failures import SettingsError, Unavailable
from export_service.settings import Aws

AWS_ERRORS = (BotoCoreError, ClientError, ResponseParserError)
"""What a call may raise. The last one, which is not a BotoCoreError, means that something else than AWS answered."""
AwsError: TypeAlias = BotoCoreError | ClientError | ResponseParserError

_SETTING = {
    "sqs": "AWS_ENDPOINT_URL_SQS",
    "stepfunctions": "AWS_ENDPOINT_URL_SFN",
    "dynamodb": "AWS_ENDPOINT_URL_DYNAMODB",
    "s3": "AWS_ENDPOINT_URL_S3",
}
_NAME = {"sqs": "SQS", "stepfunctions": "Step Functions", "dynamodb": "DynamoDB", "s3": "S3"}
THROTTLED = (
    "Throttling",
    "Throttled",
    "RequestThrottled",
    "TooManyRequests",
    "ProvisionedThroughputExceeded",
    "RequestLimitExceeded",
    "LimitExceeded",
    "SlowDown",
)
_DENIED = (
    "AccessDenied",
    "UnrecognizedClient",
    "InvalidClientTokenId",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidSignature",
    "IncompleteSignature",
    "ExpiredToken",
    "MissingAuthenticationToken",
    "AuthFailure",
    "OptInRequired",
)
"""Error names begin with these; some services add `Exception`."""
_CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role and its permissions, and AWS_REGION"


class Clients:
    """Opens clients; each is a context manager of its own."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._session = aioboto3.Session(region_name=aws.region_name)

    async def credentials(self) -> Any:
        """botocore's, frozen: those that are valid now. Raises BotoCoreError."""
        found = await self._session.get_credentials()
        if found is None:
            raise NoCredentialsError
        return await found.get_frozen_credentials()

    @asynccontextmanager
    async def open(self, service: str, connections: int = 32, region: str | None = None) -> AsyncIterator[Any]:
        """A client of `sqs`, `stepfunctions`, `dynamodb` or `s3`. Raises SettingsError if endpoint or region cannot be right."""
        config = AioConfig(
            signature_version="s3v4" if service == "s3" else None,
            connect_timeout=5,
            # Longer than SQS's longest poll, 20 s.
            read_timeout=30,
            max_pool_connections=connections,
            # Two quick tries; after that the caller decides, because it knows what waits meanwhile. One for Step Functions: a second
            # try of a call whose reply was lost would be refused, and the caller could not know that it had been accepted.
            retries={"mode": "standard", "total_max_attempts": 1 if service == "stepfunctions" else 2},
        )
        endpoint = self._aws.endpoint_for(service)
        async with AsyncExitStack() as stack:
            try:
                client = await stack.enter_async_context(
                    self._session.client(service, region, endpoint_url=endpoint, config=config)
                )
            except ValueError as error:
                # botocore's own words for both; it may quote an endpoint with a password.
                if endpoint is None or "endpoint" not in str(error).lower():
                    raise SettingsError(f"AWS_REGION={self._aws.region_name}: is not a region, e.g. eu-central-1") from None
                raise SettingsError(
                    f"{_SETTING[service]} or AWS_ENDPOINT={_address(endpoint)}: is not a URL, e.g. http://localhost:4566"
                ) from None
            yield client

    def later(self, service: str, stack: AsyncExitStack, connections: int = 32) -> "LaterClient":
        """A client that is opened by its first call, for who may never need it: opening one takes half a second of processor time."""
        return LaterClient(lambda: stack.enter_async_context(self.open(service, connections)))


class LaterClient:
    """Calls of a client that is not open yet."""

    def __init__(self, open_client: Callable[[], Awaitable[Any]]) -> None:
        self._open, self._opening = open_client, asyncio.Lock()
        self._client: Any = None

    def __getattr__(self, operation: str) -> Any:
        async def call(**arguments: Any) -> Any:
            async with self._opening:
                self._client = self._client or await self._open()
            return await getattr(self._client, operation)(**arguments)

        return call


def code_of(error: ClientError) -> str:
    """AWS's error name, without the `com.amazonaws…#` that some services put before it."""
    return str(error.response.get("Error", {}).get("Code", "Unknown")).rsplit("#", 1)[-1]


def is_denied(code: str) -> bool:
    """Whether an error of this name is about who asks."""
    return code.startswith(_DENIED) or code == "403"


def is_transient(error: AwsError) -> bool:
    """Whether the same call may work later without anybody changing anything."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429 or code_of(error).startswith(THROTTLED)
    return isinstance(error, ConnectionError | HTTPClientError | ResponseParserError)


def unavailable(service: str, error: AwsError, setting: str | None = None) -> Unavailable:
    """The error as a sentence without secrets. `setting` names the resource, e.g. `EXPORT_QUEUE_URL`, for errors of the resource."""
    name, endpoint_setting = _NAME[service], f"{_SETTING[service]} or AWS_ENDPOINT, or AWS_REGION"
    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        return Unavailable(name, _CREDENTIALS, f"no credentials: {type(error).__name__}")
    if isinstance(error, ClientError):
        code = code_of(error)
        if code.startswith(_DENIED):
            return Unavailable(name, _CREDENTIALS, code)
        return Unavailable(name, setting or endpoint_setting, code)
    endpoint = getattr(error, "kwargs", {}).get("endpoint_url")
    return Unavailable(name, endpoint_setting, type(error).__name__ + (f" {_address(endpoint)}" if endpoint else ""))


def _address(endpoint: str) -> str:
    """Scheme, host and port alone: an endpoint may have a password before, and a token behind them."""
    scheme, _, rest = endpoint.rpartition("://")
    host = rest.split("/", 1)[0].split("?", 1)[0].rpartition("@")[2]
    return f"{scheme}://{host}" if scheme else host
