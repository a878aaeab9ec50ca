"""The oracle beside a real pipeline: it says OK when all is well, and names a defect that is planted behind the pipeline's back."""

import hashlib
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.chaos.judging import broken, run, sources
from tests.chaos.oracle import Truth
from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e


def test_the_oracle_says_ok_to_a_healthy_run_and_names_what_is_broken_afterwards(world: World, tmp_path: Path) -> None:
    names = [f"folder-{n % 3}/file-{n}.txt" for n in range(40)]
    canary = f"canary-{uuid.uuid4()}"
    world.catalog("good", names)
    world.catalog("bad", [*names[:7], "missing/1", "missing/2", "missing/3"])
    world.files.missing = {"/missing/1", "/missing/2", "/missing/3"}
    world.worker()
    (good_arn, good), (bad_arn, bad), (lost_arn, lost) = world.execute("good"), world.execute("bad"), world.execute("no-manifest")
    quiet, signed = str(uuid.uuid4()), str(uuid.uuid4())
    world.send({"jobId": quiet, "exportId": "good", "userId": "user-1"})
    to_s3 = {"destination": f"s3://exports/{signed}/", "files": [{"url": f"{world.files.base}/a.txt?sig={canary}"}]}
    world.send({"jobId": signed, "exportId": "e", "userId": "user-1", **to_s3})
    refused = world.sqs.send_message(QueueUrl=world.queue, MessageBody="{not json")["MessageId"]
    for arn in (good_arn, bad_arn, lost_arn):
        world.finished(arn)
    for job in (quiet, signed):
        world.ended(job)

    truth = Truth(
        sources=sources(world, [*names, "a.txt"]),
        jobs=[good, bad, lost, quiet, signed],
        messages=[refused],
        secrets=[canary],
        logs=[str(path) for path in tmp_path.glob("worker-*.log")],
        executions=[good_arn, bad_arn, lost_arn],
    )
    oracle = ("-m", "tests.chaos.oracle", str(truth.save(tmp_path / "truth.json")))
    code, found = run(world, *oracle)
    assert (code, broken(found)) == (0, {})
    assert {name: each["notChecked"] for name, each in found.items() if each["notChecked"] and name not in ("I4", "I9")} == {}
    assert found["I4"]["notChecked"] == ["1 job: some source hashes are not known; compared with those on results"]

    cli = ("-m", "export_service", "verify")
    assert run(world, *cli, "--all", "--settled", "--sources", "--execution", good_arn)[0] == 0
    code, found = run(world, *cli, bad)
    assert (code, found["I7"]["verdict"], found["I4"]["verdict"]) == (0, "not checked", "OK")

    file = tmp_path / "out" / good / names[4]
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    world.table.delete_item(TableName=world.table_name, Key={"pk": {"S": f"JOB#{quiet}"}, "sk": {"S": "SNAPSHOT"}})
    world.aws.client("s3").create_multipart_upload(Bucket="exports", Key=f"{signed}/a.txt")
    code, found = run(world, *oracle)
    assert code == 1
    wrong = broken(found)
    assert list(wrong) == ["I4", "I5"]
    assert wrong["I4"][0] == f"job {good}, task 4: {names[4]!r} ({len(content)} bytes) is not what its source serves"
    assert "multipart upload of" in wrong["I4"][1]
    assert f"job {quiet}: its item in DynamoDB is missing" in wrong["I5"][0]
    assert run(world, *cli, bad)[0] == 0, "the job itself is fine"


def test_an_oracle_that_looks_at_the_wrong_place_says_so(world: World) -> None:
    world.env["EXPORT_TOPICS_PREFIX"] = "nothing-here."
    command = [sys.executable, "-m", "export_service", "verify", "--all"]
    ended = subprocess.run(command, env=os.environ | world.env, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (78, ""), ended.stderr
    assert "topics are missing: requests," in ended.stderr


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
