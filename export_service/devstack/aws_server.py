"""The AWS emulator's process: `python -m export_service.devstack.aws_server PORT`. SQS, Step Functions, DynamoDB and S3 by moto."""

import logging
import sys
import threading


def main(port: int) -> None:
    from moto.core.config import default_user_config
    from moto.server import ThreadedMotoServer

    # Without this, moto accepts an execution and never runs its states.
    default_user_config["stepfunctions"] = {"execute_state_machine": True}
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False).start()
    threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]))
