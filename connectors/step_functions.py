"""Out: the answer to a waiting Step Functions state. Turns AWS's errors into what they mean for us (DESIGN §3.2)."""

from typing import Any

from botocore.exceptions import ClientError, ParamValidationError

from connectors.aws import AWS_ERRORS, AwsError, code_of, is_transient
from export_service.failures import CallbackDenied, CallbackError, CallbackInvalid, CallbackRefused, CallbackThrottled

_REFUSED = ("TaskTimedOut", "TaskDoesNotExist", "InvalidToken")
_INVALID = ("InvalidOutput", "ValidationException")


class StepFunctionsCallback:
    """The TaskCallback port over an aioboto3 Step Functions client."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def success(self, token: str, output: str) -> None:
        await self._call("send_task_success", taskToken=token, output=output)

    async def failure(self, token: str, error: str, cause: str) -> None:
        await self._call("send_task_failure", taskToken=token, error=error, cause=cause)

    async def heartbeat(self, token: str) -> None:
        await self._call("send_task_heartbeat", taskToken=token)

    async def _call(self, operation: str, **arguments: str) -> None:
        try:
            await getattr(self._client, operation)(**arguments)
        except AWS_ERRORS as error:
            # `from None`: botocore's exceptions may hold the request, and with it the token.
            raise _meaning(error) from None


def _meaning(error: AwsError) -> CallbackError:
    if not isinstance(error, ClientError):
        code = type(error).__name__
        if isinstance(error, ParamValidationError):
            return CallbackInvalid(code)
        return CallbackThrottled(code) if is_transient(error) else CallbackDenied(code)
    code = code_of(error)
    if code in _REFUSED:
        return CallbackRefused(code)
    if code in _INVALID:
        return CallbackInvalid(code)  # without AWS's message, which may quote the request and so the token
    if is_transient(error) or code == "KmsThrottlingException":
        return CallbackThrottled(code)
    return CallbackDenied(code)
