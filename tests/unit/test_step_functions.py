"""What each answer of Step Functions means for us (DESIGN §3.2), and that no answer shows the token."""

from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError, ParamValidationError
from botocore.exceptions import ReadTimeoutError as Timeout

from connectors.step_functions import StepFunctionsCallback
from export_service.failures import CallbackDenied, CallbackError, CallbackInvalid, CallbackRefused, CallbackThrottled

TOKEN = "AAAAKgAAAAIAAAAAcanary"


class Answering:
    """A Step Functions client whose every call ends with `error`."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def send_task_success(self, **_: Any) -> None:
        raise self._error

    send_task_failure = send_task_success


def aws(code: str, status: int = 400) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": f"about {TOKEN}"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "x")


def no_connection() -> list[BotoCoreError]:
    return [EndpointConnectionError(endpoint_url="http://h"), Timeout(endpoint_url="http://h")]


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        *((aws(code), CallbackRefused) for code in ("TaskTimedOut", "TaskDoesNotExist", "InvalidToken")),
        (aws("com.amazonaws.swf.service.v2.model#TaskTimedOut"), CallbackRefused),
        *((aws(code), CallbackInvalid) for code in ("InvalidOutput", "ValidationException")),
        (ParamValidationError(report=f"bad {TOKEN}"), CallbackInvalid),
        *((aws(code), CallbackThrottled) for code in ("ThrottlingException", "KmsThrottlingException", "TooManyRequestsException")),
        (aws("Anything", 429), CallbackThrottled),
        *((aws("InternalFailure", status), CallbackThrottled) for status in (500, 503)),
        *((error, CallbackThrottled) for error in no_connection()),
        *((aws(code), CallbackDenied) for code in ("AccessDeniedException", "ExpiredTokenException", "KmsAccessDeniedException")),
        (NoCredentialsError(), CallbackDenied),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, Exception) else None,
)
@pytest.mark.parametrize("answer", ["success", "failure"])
async def test_meaning_of_an_error(error: Exception, meaning: type[CallbackError], answer: str) -> None:
    callback = StepFunctionsCallback(Answering(error))
    with pytest.raises(CallbackError) as caught:
        await (callback.success(TOKEN, "{}") if answer == "success" else callback.failure(TOKEN, "E", "{}"))
    assert type(caught.value) is meaning
    assert "canary" not in f"{caught.value!r} {caught.value} {caught.value.code}"
    assert caught.value.__suppress_context__, "the context may hold the request, and with it the token"
