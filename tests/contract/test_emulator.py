"""What the AWS emulator would do otherwise than AWS, and the tests would blame the pipeline for."""

import http.client
import json
import socket
import uuid
from urllib.parse import urlsplit

import pytest

from export_service.devstack import aws
from export_service.devstack.stack import Stack

pytestmark = pytest.mark.broker


def test_a_message_is_not_given_to_a_receive_whose_caller_has_gone(stack: Stack) -> None:
    endpoint = stack.env["AWS_ENDPOINT"]
    sqs = aws.Aws(endpoint).client("sqs")
    url = sqs.create_queue(QueueName=f"q-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    gone = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=15)
    headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "AmazonSQS.ReceiveMessage"}
    gone.request("POST", "/", json.dumps({"QueueUrl": url, "WaitTimeSeconds": 20}), headers | _SIGNED)
    # Half closed, so that the answer tells when the emulator has noticed.
    gone.sock.shutdown(socket.SHUT_WR)
    assert gone.getresponse().status == 400
    gone.close()
    sqs.send_message(QueueUrl=url, MessageBody="export")
    assert [message["Body"] for message in sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]] == ["export"]
    sqs.close()


_SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0"}
