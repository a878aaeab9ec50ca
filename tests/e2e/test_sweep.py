"""A worker killed in the middle of an upload to S3: nothing of it is visible, a sweep aborts it, and leaves what is not ours."""

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from export_service.devstack import aws
from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e
MIB = 1024 * 1024


def test_the_upload_of_a_killed_worker_is_found_and_aborted(world: World) -> None:
    s3, prefix = world.aws.client("s3"), f"sweep-{uuid.uuid4().hex[:8]}"
    killed = threading.Event()
    body = bytes(range(256)) * (20 * MIB // 256)

    def stops_in_the_middle(handler: BaseHTTPRequestHandler, _: str, times: int) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: 18 * MIB] if times == 1 else body)
        if times == 1:
            killed.wait(60)
            handler.close_connection = True
        return True

    def uploads() -> list[dict[str, Any]]:
        return list(s3.list_multipart_uploads(Bucket=aws.BUCKET, Prefix=prefix).get("Uploads", ()))

    def has_a_part() -> bool:
        return any(
            len(s3.list_parts(Bucket=aws.BUCKET, Key=each["Key"], UploadId=each["UploadId"]).get("Parts", ())) >= 2
            for each in uploads()
        )

    def sweep(*options: str) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "export_service", "sweep", f"s3://{aws.BUCKET}/{prefix}", "--json", *options]
        done = subprocess.run(command, env=world.env, capture_output=True, text=True, check=True, timeout=60)
        return [json.loads(line) for line in done.stdout.splitlines()]

    world.files.misbehave = stops_in_the_middle
    world.catalog("large", ["large.bin"])
    own = {"EXPORT_DESTINATION": f"s3://{aws.BUCKET}/{prefix}/{{jobId}}/", "EXPORT_KAFKA_GROUP_INSTANCE_ID": "one"}
    worker = world.worker(**own)
    arn, job = world.execute("large")
    world.until(has_a_part, "a part is in S3")
    # All of it: a fetch process whose worker has gone aborts what it has under way.
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    killed.set()
    ours = f"{prefix}/{job}/large.bin"
    other = s3.create_multipart_upload(Bucket=aws.BUCKET, Key=f"{prefix}/other")
    s3.upload_part(**{name: other[name] for name in ("Bucket", "Key", "UploadId")}, PartNumber=1, Body=b"x" * 100)

    assert not s3.list_objects_v2(Bucket=aws.BUCKET, Prefix=prefix).get("Contents"), "nothing is visible"
    assert sweep("--older-than", "1h") == [], "it might be under way"
    (found,) = sweep("--older-than", "0s", "--dry-run")
    assert (found["uri"], found["removed"]) == (f"s3://{aws.BUCKET}/{ours}", False)
    assert {each["Key"] for each in uploads()} == {ours, other["Key"]}
    assert [each["removed"] for each in sweep("--older-than", "0s")] == [True]
    assert [each["Key"] for each in uploads()] == [other["Key"]], "another's is left alone"

    world.worker(**own)
    assert world.finished(arn)["status"] == "SUCCEEDED"
    assert s3.get_object(Bucket=aws.BUCKET, Key=ours)["Body"].read() == body
    assert [each["Key"] for each in uploads()] == [other["Key"]]
