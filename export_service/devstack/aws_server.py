"""The AWS emulator's process: `python -m export_service.devstack.aws_server PORT [HOST]`. SQS, Step Functions, DynamoDB, S3 by moto.

moto differs from AWS in two ways that a user of the demo would see; both are mended here, without touching what moto gets right:
its SendTaskFailure loses the cause, and a token that was used before is InvalidToken to it, where AWS says TaskTimedOut.
"""

import logging
import sys
import threading
from typing import Any


def _behave_like_aws() -> None:
    from moto.core.responses import EmptyResult
    from moto.stepfunctions.parser.api import InvalidToken, TaskTimedOut
    from moto.stepfunctions.responses import StepFunctionResponse

    used: set[str] = set()

    def answer(backend_call: Any, token: str, **arguments: str | None) -> Any:
        try:
            backend_call(token, **arguments)
        except InvalidToken:
            if token in used:
                raise TaskTimedOut("Task Timed Out: 'Provided task does not exist anymore'") from None
            raise
        used.add(token)
        return EmptyResult()

    def send_task_failure(self: Any) -> Any:
        error, cause = self._get_param("error"), self._get_param("cause")
        return answer(self.stepfunction_backend.send_task_failure, self._get_param("taskToken"), error=error, cause=cause)

    def send_task_success(self: Any) -> Any:
        output = self._get_param("output")
        return answer(self.stepfunction_backend.send_task_success, self._get_param("taskToken"), outcome=output)

    StepFunctionResponse.send_task_failure = send_task_failure
    StepFunctionResponse.send_task_success = send_task_success


def main(port: int, host: str = "127.0.0.1") -> None:
    from moto.core.config import default_user_config
    from moto.server import ThreadedMotoServer

    # Without this, moto accepts an execution and never runs its states.
    default_user_config["stepfunctions"] = {"execute_state_machine": True}
    _behave_like_aws()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    ThreadedMotoServer(ip_address=host, port=port, verbose=False).start()
    threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
