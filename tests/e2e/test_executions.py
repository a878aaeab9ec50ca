"""From a Step Functions state to the files on disk and back, through a worker process that knows only its settings."""

import asyncio
import base64
import json
import signal
import uuid
from typing import Any

import pytest

from tests.e2e.conftest import FileServer, World
from tests.kafka import records

pytestmark = pytest.mark.e2e


def names(count: int) -> list[str]:
    return [f"folder-{n % 3}/file-{n}.txt" for n in range(count)]


def expect_files(world: World, job_id: str, wanted: list[str]) -> None:
    found = world.output(job_id)
    found.pop("_report.jsonl", None)
    assert found == {name: FileServer.content(f"/{name}") for name in wanted}


def report(world: World, job_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in world.output(job_id)["_report.jsonl"].splitlines()]


def read_topic(world: World, topic: str) -> list[bytes]:
    """Everything on a topic but tombstones."""
    found = asyncio.run(records(world.env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"], topic))
    return [record.value for record in found if record.value is not None]


def test_three_executions_all_files_three_of_ten_fail_and_no_token(world: World) -> None:
    all_good, three_bad = names(10), names(10)
    world.catalog("good", all_good)
    world.catalog("bad", [*three_bad[:7], "missing/1", "missing/2", "missing/3"])
    world.files.missing = {"/missing/1", "/missing/2", "/missing/3"}
    world.worker()
    good_arn, good_job = world.execute("good")
    bad_arn, bad_job = world.execute("bad")
    no_token = str(uuid.uuid4())
    world.send({"jobId": no_token, "exportId": "good", "userId": "user-1"})

    good = world.finished(good_arn)
    assert good["status"] == "SUCCEEDED"
    output = json.loads(good["output"])["export"]
    expected = {"jobId": good_job, "exportId": "good", "userId": "user-1", "status": "COMPLETED", "totalTasks": 10}
    assert output.items() >= (expected | {"completedTasks": 10, "failedTasks": 0}).items()
    assert output["durationMs"] >= 0
    assert output["completedAt"].endswith("Z")
    expect_files(world, good_job, all_good)
    assert [line["index"] for line in report(world, good_job)] == list(range(10))

    bad = world.finished(bad_arn)
    assert bad["status"] == "SUCCEEDED", "the state machine went on with HandlePartialFailure"
    error = json.loads(bad["output"])["error"]
    assert error["Error"] == "JobCompletedWithFailures"
    cause = json.loads(error["Cause"])
    counts = {"jobId": bad_job, "exportId": "bad", "totalTasks": 10, "completedTasks": 7, "failedTasks": 3}
    assert cause.items() >= (counts | {"cause": "Job completed with 3 failed tasks out of 10 total"}).items()
    expect_files(world, bad_job, three_bad[:7])
    assert [line["error"] for line in report(world, bad_job) if line["outcome"] == "FAILED"] == ["HttpNotFound"] * 3

    snapshot = world.ended(no_token)
    assert (snapshot["status"], snapshot["completedTasks"]) == ("COMPLETED", "10")
    assert not snapshot["hasTaskToken"]
    expect_files(world, no_token, all_good)
    assert world.queue_is_empty()

    logs = world.logs()
    started = {line["jobId"]: line["hasTaskToken"] for line in logs if line["msg"] == "Processing export job"}
    assert started == {good_job: True, bad_job: True, no_token: False}
    (sent,) = [line for line in logs if line["msg"] == f"Sent Step Functions success callback for job {good_job}"]
    assert sent["level"] == "info"
    assert "...********..." in sent["taskToken"]
    key = {"pk": {"S": f"JOB#{good_job}"}, "sk": {"S": "ATTEMPT#0001"}}
    item = world.table.get_item(TableName=world.table_name, Key=key)["Item"]
    token, answer = item["taskToken"]["S"], json.loads(item["callback"]["S"])
    assert (answer["outcome"], item["callbackOutcome"]["S"]) == ("SENT", "SENT")
    prefix = world.env["EXPORT_TOPICS_PREFIX"]
    topics = ("requests", "tasks", "results", "snapshots", "completions", "callbacks")
    everything = b"".join(b"".join(read_topic(world, prefix + topic)) for topic in topics)
    assert token.encode() not in everything, "a token is in DynamoDB and nowhere else"
    assert token not in json.dumps(logs)


def test_bad_messages_are_dead_letters_their_states_are_told_and_the_queue_stays_healthy(world: World) -> None:
    world.worker()
    good = str(uuid.uuid4())
    ids = {"exportId": "e", "userId": "u"}
    url = f"{world.files.base}/a.txt"
    bad: dict[str, str | dict[str, Any]] = {
        "not JSON": '{not json, {"taskToken": "sekret-token-1"',
        "exportId": {"jobId": str(uuid.uuid4()), "userId": "u"},
        "jobId": {"jobId": "17", **ids},
        "files and prefix": {"jobId": str(uuid.uuid4()), **ids, "files": [], "prefix": "s3://b/p/"},
        "scheme": {"jobId": str(uuid.uuid4()), **ids, "files": [{"url": "ftp://h/f"}]},
        "'..'": {"jobId": str(uuid.uuid4()), **ids, "files": [{"url": url, "name": "../../etc/passwd"}]},
        "absolute": {"jobId": str(uuid.uuid4()), **ids, "files": [{"url": url, "name": "/etc/passwd"}]},
        "is the name of files[0] too": {"jobId": str(uuid.uuid4()), **ids, "files": [{"url": url}, {"url": url}]},
        "taskToken": {"jobId": str(uuid.uuid4()), **ids, "taskToken": "t" * 2049, "files": [{"url": url}]},
    }
    for body in bad.values():
        world.send(body)
    # A whole SQS message of 1 MiB that is wrong must fit the dead letters, quotes and all.
    world.send('"' * 1_048_576)
    world.send({"jobId": good, **ids, "files": [{"url": url}]})
    assert world.ended(good)["status"] == "COMPLETED"
    world.until(world.queue_is_empty, "the queue is empty")
    letters = [json.loads(value) for value in read_topic(world, world.env["EXPORT_TOPICS_PREFIX"] + "dead-letters")]
    assert len(letters) == len(bad) + 1
    for word in bad:
        assert any(word in letter["reason"] for letter in letters), word
    assert max(len(letter["body"]) for letter in letters) == 1_048_576
    assert "sekret-token-1" not in json.dumps(letters)


def test_a_rejected_request_with_a_usable_token_tells_its_state_at_once(world: World) -> None:
    world.worker(EXPORT_CATALOG="")
    arn, job_id = world.execute("anything")
    told = world.finished(arn)
    assert (told["status"], told["error"]) == ("FAILED", "ExportJobFailed")
    history = world.machine.get_execution_history(executionArn=arn)["events"]
    (failed,) = [event["taskFailedEventDetails"] for event in history if "taskFailedEventDetails" in event]
    assert failed["error"] == "ExportRejected"
    assert json.loads(failed["cause"])["jobId"] == job_id
    assert "EXPORT_CATALOG" in json.loads(failed["cause"])["cause"]


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (None, "NoSuchKey"),
        ('{"url": "http://h/a"}\n{"url": 5}\n', "line 2: url"),
        ('{"url": "http://h/a"}\n{"url": "http://g/a"}\n', "line 2: name 'a' is used twice"),
        ('{"url": "http://h/a", "name": "../a"}\n', "line 1: name"),
        ('{"url": "gopher://h/a"}\n', "line 1: url: has the scheme 'gopher'"),
    ],
)
def test_a_bad_manifest_fails_the_job_and_names_the_line(world: World, manifest: str | None, reason: str) -> None:
    world.worker()
    if manifest is not None:
        world.aws.client("s3").put_object(
            Bucket="exports", Key=world.env["EXPORT_CATALOG"].split("/", 3)[3].format(exportId="m"), Body=manifest.encode()
        )
    arn, job_id = world.execute("m")
    assert world.finished(arn)["status"] == "FAILED"
    history = world.machine.get_execution_history(executionArn=arn)["events"]
    (failed,) = [event["taskFailedEventDetails"] for event in history if "taskFailedEventDetails" in event]
    assert failed["error"] == "ExportPlanFailed"
    assert reason in json.loads(failed["cause"])["cause"]
    assert world.ended(job_id)["status"] == "FAILED"


def test_an_empty_manifest_is_a_success_of_zero_tasks(world: World) -> None:
    world.catalog("empty", [])
    world.worker()
    arn, _ = world.execute("empty")
    done = world.finished(arn)
    assert done["status"] == "SUCCEEDED"
    assert json.loads(done["output"])["export"]["totalTasks"] == 0


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_that_ends_in_mid_download_loses_nothing_and_counts_nothing_twice(world: World, ending: signal.Signals) -> None:
    wanted = names(120)
    world.catalog("long", wanted)
    first = world.worker(EXPORT_DOWNLOAD_CONCURRENCY="8")
    world.files.gate.clear()
    arn, job_id = world.execute("long")
    world.until(lambda: sum(world.files.requests.values()) >= 8, "downloads are under way")
    first.send_signal(ending)
    code = first.wait(timeout=30)
    assert code == (0 if ending == signal.SIGTERM else -signal.SIGKILL)
    world.files.gate.set()
    world.worker()
    done = world.finished(arn)
    assert done["status"] == "SUCCEEDED"
    output = json.loads(done["output"])["export"]
    assert (output["totalTasks"], output["completedTasks"], output["failedTasks"]) == (120, 120, 0)
    expect_files(world, job_id, wanted)
    assert [line["index"] for line in report(world, job_id)] == list(range(120))


def test_a_signed_query_reaches_the_source_and_no_topic_log_or_report(world: World) -> None:
    world.worker()
    job_id = str(uuid.uuid4())
    canary = base64.urlsafe_b64encode(b"signature-that-nobody-may-see").decode()
    body = {"jobId": job_id, "exportId": "e", "userId": "u", "files": [{"url": f"{world.files.base}/a.txt?sig={canary}%2F"}]}
    world.send(body)
    assert world.ended(job_id)["status"] == "COMPLETED"
    # Nobody waits for this job, so its report may come after the snapshot of its end.
    world.until(lambda: "_report.jsonl" in world.output(job_id), "the report is there")
    assert world.files.requests[f"/a.txt?sig={canary}%2F"] == 1
    prefix = world.env["EXPORT_TOPICS_PREFIX"]
    topics = ("requests", "tasks", "results", "snapshots", "completions")
    seen = b"".join(b"".join(read_topic(world, prefix + topic)) for topic in topics)
    seen += json.dumps(world.logs()).encode() + world.output(job_id)["_report.jsonl"]
    assert canary.encode() not in seen
