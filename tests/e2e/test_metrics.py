"""What a worker says on /metrics, against what the ledger and the topic `callbacks` say."""

import json
import socket
import urllib.request
import uuid
from collections import Counter

import pytest

from export_service.cli.main import EXIT_SETTINGS
from export_service.devstack import processes
from tests.e2e.conftest import World
from tests.e2e.test_executions import names, read_topic
from tests.unit.test_metrics import counted

pytestmark = pytest.mark.e2e


def test_the_numbers_are_those_of_the_ledger_and_of_the_topic(world: World) -> None:
    world.catalog("good", names(3))
    world.catalog("bad", ["a.txt", "missing"])
    world.files.missing = {"/missing"}
    port = processes.free_port()
    world.worker(EXPORT_METRICS_PORT=str(port))

    def page() -> dict[str, float]:
        found = counted(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode())
        return {name: value for name, value in found.items() if not name.startswith("export_table_")}

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
    }


def test_a_port_that_is_taken_is_a_mistake_in_the_settings(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        child = world.launch(EXPORT_METRICS_PORT=str(port))
        assert child.wait(timeout=60) == EXIT_SETTINGS
    log = (world.folder / "worker-0.log").read_text()
    assert f"EXPORT_METRICS_PORT={port}: cannot listen on 127.0.0.1: Address already in use; choose another port" in log
    assert "Traceback" not in log
