"""The AWS emulator's process: `python -m export_service.devstack.aws_server PORT [HOST]`. SQS, Step Functions, DynamoDB, S3 by moto.

moto differs from AWS in six ways that a user would see; all are mended here, without touching what moto gets right:
its SendTaskFailure loses the cause; a token that was used before, or whose execution has ended, is InvalidToken to it, where AWS says
TaskTimedOut; so is the heartbeat of a state that has no HeartbeatSeconds, which AWS takes; and of a FIFO queue's messages that come
again when their visibility timeout is over, it gives the last of a group first. It gives messages to a receive whose caller has gone
while it waited, and then nobody has them until the visibility timeout is over. Two conditional writes at a time to DynamoDB may both go
by what was there before either.
"""

import functools
import logging
import socket
import sys
import threading
from typing import Any


def _write_one_at_a_time() -> None:
    from moto.dynamodb.models import DynamoDBBackend

    writing = threading.RLock()  # a batch and a transaction call the single writes

    def alone(write: Any) -> Any:
        @functools.wraps(write)
        def written(*arguments: Any, **named: Any) -> Any:
            with writing:
                return write(*arguments, **named)

        return written

    for name in ("put_item", "update_item", "delete_item", "batch_write_item", "transact_write_items", "execute_transaction"):
        setattr(DynamoDBBackend, name, alone(getattr(DynamoDBBackend, name)))


def _give_nothing_to_who_has_gone() -> None:
    from flask import request
    from moto.sqs.models import Queue
    from werkzeug.exceptions import ClientDisconnected

    wait = Queue.wait_for_messages

    def wait_for_messages(self: Any, timeout: int) -> None:
        wait(self, timeout)
        try:
            gone = not request.environ["werkzeug.socket"].recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return  # alive, and says nothing
        except OSError:
            gone = True
        if gone:
            raise ClientDisconnected

    Queue.wait_for_messages = wait_for_messages


def _behave_like_aws() -> None:
    from moto.core.responses import EmptyResult
    from moto.sqs.models import Queue
    from moto.stepfunctions.parser.api import ExecutionStatus, InvalidToken, TaskDoesNotExist, TaskTimedOut
    from moto.stepfunctions.parser.asl.eval.callback.callback import CallbackPoolManager
    from moto.stepfunctions.responses import StepFunctionResponse

    def in_flight(self: Any) -> Any:
        # moto forgets one of them after the other, each when it comes past it, and takes a group for free with the last.
        for message in list(self._pending_messages):
            if message.visible:
                self._pending_messages.discard(message)
        return self._pending_messages

    Queue.pending_messages = property(in_flight)
    Queue.pending_message_groups = property(lambda self: {message.group_id for message in in_flight(self)} - {None})

    issued: set[str] = set()
    answered: set[str] = set()
    closed = (TaskDoesNotExist, TaskTimedOut)
    issue = CallbackPoolManager.add

    def add(self: Any, callback_id: str) -> Any:
        issued.add(callback_id)
        return issue(self, callback_id)

    def gone() -> TaskTimedOut:
        # The name too: moto's own exception has none, and then the answer has an error of no name.
        return TaskTimedOut("Task Timed Out: 'Provided task does not exist anymore'", "TaskTimedOut")

    def answer(backend_call: Any, token: str, **arguments: str | None) -> Any:
        if token in answered:
            raise gone()
        try:
            backend_call(token, **arguments)
        except (InvalidToken, *closed):
            if token in issued:
                raise gone() from None
            raise
        answered.add(token)
        return EmptyResult()

    def send_task_heartbeat(self: Any) -> Any:
        token = self._get_param("taskToken")
        if token in answered:
            raise gone()
        try:
            self.stepfunction_backend.send_task_heartbeat(token)
        except closed:
            raise gone() from None
        except InvalidToken:
            if token not in issued:
                raise
            if not any(
                execution.exec_worker.env.callback_pool_manager.get(token)
                for execution in self.stepfunction_backend._get_executions(ExecutionStatus.RUNNING)
            ):
                raise gone() from None
        return EmptyResult()

    def send_task_failure(self: Any) -> Any:
        error, cause = self._get_param("error"), self._get_param("cause")
        return answer(self.stepfunction_backend.send_task_failure, self._get_param("taskToken"), error=error, cause=cause)

    def send_task_success(self: Any) -> Any:
        output = self._get_param("output")
        return answer(self.stepfunction_backend.send_task_success, self._get_param("taskToken"), outcome=output)

    StepFunctionResponse.send_task_failure = send_task_failure
    StepFunctionResponse.send_task_success = send_task_success
    StepFunctionResponse.send_task_heartbeat = send_task_heartbeat
    CallbackPoolManager.add = add


def main(port: int, host: str = "127.0.0.1") -> None:
    from moto.core.config import default_user_config
    from moto.server import ThreadedMotoServer

    # Without this, moto accepts an execution and never runs its states.
    default_user_config["stepfunctions"] = {"execute_state_machine": True}
    _write_one_at_a_time()
    _give_nothing_to_who_has_gone()
    _behave_like_aws()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    ThreadedMotoServer(ip_address=host, port=port, verbose=False).start()
    threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
