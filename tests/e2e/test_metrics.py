"""What a worker says on /metrics, against what the ledger and the topic `callbacks` say."""

import json
import socket
import urllib.error
import urllib.request
import uuid
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from export_service.cli.main import EXIT_SETTINGS
from export_service.devstack import processes
from export_service.emf import NAMES
from export_service.metric_names import ALL
from tests.e2e.conftest import WORKER, World
from tests.e2e.test_executions import names, read_topic
from tests.unit.test_metrics import counted

EXACT = (
    "export_jobs_accepted",
    "export_requests",
    "export_callback",
    "export_heartbeats",
    "export_jobs_ended",
    "export_dead_letters",
)
"""What is counted once for each job."""
pytestmark = pytest.mark.e2e


def test_the_numbers_are_those_of_the_ledger_and_of_the_topic(world: World) -> None:
    world.catalog("good", names(3))
    world.catalog("bad", ["a.txt", "missing"])
    world.files.missing = {"/missing"}
    port = processes.free_port()
    world.worker(EXPORT_METRICS_PORT=str(port))

    def page() -> dict[str, float]:
        found = counted(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode())
        return {name: value for name, value in found.items() if name.startswith(EXACT)}

    assert page() == {}
    executions = [world.execute("good"), world.execute("bad"), world.execute("good")]
    tokenless, orphan = str(uuid.uuid4()), str(uuid.uuid4())
    for job, fields in ((tokenless, {}), (orphan, {"taskToken": "a token of no execution"})):
        world.send({"jobId": job, "exportId": "good", "userId": "u", **fields})
    world.send({"jobId": "no UUID", "exportId": "good", "userId": "u"})
    for arn, _ in executions:
        world.finished(arn)
    world.ended(tokenless)
    jobs = [job for _, job in executions] + [orphan]
    world.until(lambda: all("callback" in world.attempt(job, 1) for job in jobs), "every token has its answer in the ledger")
    world.until(lambda: sum(value for name, value in page().items() if name.startswith("export_callbacks_total")) == 4, "4 answers")

    ledger = {job: world.attempt(job, 1) for job in (*jobs, tokenless)}
    answers = [json.loads(value) for value in read_topic(world, world.env["EXPORT_TOPICS_PREFIX"] + "callbacks")]
    assert sorted(map(json.dumps, answers)) == sorted(json.dumps(json.loads(ledger[job]["callback"])) for job in jobs)
    sent = [answer for answer in answers if answer["outcome"] == "SENT"]
    found = page()
    assert found.pop("export_callback_latency_seconds_sum") == pytest.approx(sum(each["latencyMs"] for each in sent) / 1000)
    outcomes = Counter(item["callbackOutcome"] for item in ledger.values() if "taskToken" in item)
    assert outcomes == {"SENT": 3, "ORPHANED": 1}
    assert found == {
        **{f"export_callbacks_total {outcome}": count for outcome, count in outcomes.items()},
        **{f"export_callback_errors_total {each['error']} refused": 1 for each in answers if "error" in each},
        "export_callback_latency_seconds_count": len(sent),
        "export_jobs_accepted_total true": sum("taskToken" in item for item in ledger.values()),
        "export_jobs_accepted_total false": sum("taskToken" not in item for item in ledger.values()),
        "export_requests_rejected_total no_token": 1,
        "export_dead_letters_total sqs": 1,
        "export_jobs_ended_total COMPLETED": 4,
        "export_jobs_ended_total COMPLETED_WITH_FAILURES": 1,
    }


def test_a_port_that_is_taken_is_a_mistake_in_the_settings(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        child = world.launch(EXPORT_METRICS_PORT=str(port))
        assert child.wait(timeout=60) == EXIT_SETTINGS
    log = (world.folder / "worker-0.log").read_text()
    assert f"EXPORT_METRICS_PORT={port}: cannot listen on 127.0.0.1: Address already in use; choose another port" in log
    assert "Traceback" not in log


def test_every_metric_of_the_list_is_there_and_says_what_the_topics_say(world: World) -> None:
    """Downloads, records, lag and health of a worker with all roles; then of one whose tally is missing."""
    world.catalog("some", ["a.txt", "b.txt", "missing"])
    world.files.missing = {"/missing"}
    port = processes.free_port()

    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def page() -> dict[str, float]:
        return counted(get("/metrics")[1])

    settings = {"EXPORT_METRICS_PORT": str(port), "EXPORT_METRICS_LAG_SECONDS": "0.5", "EXPORT_METRICS_EMF_SECONDS": "1"}
    world.worker(**settings)
    world.until(lambda: get("/readyz")[0] == 200, "the worker is ready")
    assert (get("/livez")[0], get("/startupz")[0]) == (200, 200)
    arn, job = world.execute("some")
    world.finished(arn)
    world.until(lambda: page().get("export_callbacks_total SENT") == 1, "the answer is counted")
    found, output = page(), world.output(job)
    assert found["export_downloads_total  http SUCCEEDED"] == 2
    assert found["export_downloads_total HttpNotFound http FAILED"] == 1
    assert found["export_download_bytes_total http"] == len(output["a.txt"]) + len(output["b.txt"])
    assert found["export_tasks_planned_total"] == found["export_tally_outcomes_total"] == 3
    for topic in ("requests", "results", "completions"):
        records = read_topic(world, world.env["EXPORT_TOPICS_PREFIX"] + topic)
        assert found[f"export_topic_records_in_total {topic}"] == found[f"export_topic_records_out_total {topic}"] == len(records)
        assert found[f"export_topic_bytes_in_total {topic}"] == found[f"export_topic_bytes_out_total {topic}"]
        assert found[f"export_topic_bytes_in_total {topic}"] >= sum(map(len, records))
    families = {family.name for family in text_string_to_metric_families(get("/metrics")[1]) if family.samples}
    assert {metric.name for metric in ALL if metric.name.removesuffix("_total") not in families} == set()

    def emf() -> list[str]:
        return [line for line in (world.folder / "worker-0.log").read_text().splitlines() if '"_aws"' in line]

    world.until(lambda: bool(emf()), "a line for CloudWatch")
    world.until(lambda: json.loads(emf()[-1]).keys() - {"_aws"} == NAMES, "one with all of its metrics")
    world.workers[0].terminate()
    assert world.workers[0].wait(timeout=60) == 0
    # Nobody tallies: what waits for it is seen all the same, in records and in seconds, by a worker that has the watch.
    world.worker(*WORKER, "--role", "connector,plan,download,watch", **settings)
    world.execute("some")

    def lag(name: str) -> float:
        return sum(page().get(f"{name} {number} tally results", 0) for number in (0, 1))

    world.until(lambda: lag("export_lag_records") >= 3, "the tally's group is behind")
    world.until(lambda: lag("export_lag_age_seconds") > 1, "and what waits there gets older")
