"""Things are done to workers, brokers, network and AWS while jobs run; then the oracle looks at what is there.

CI runs some scenarios; `./dev chaos --seeds N` all of them. One that failed is run again with `--first SEED --seeds 1 -k 'its name'`.
"""

import subprocess
import time
from pathlib import Path

import pytest

from tests.chaos import topics
from tests.chaos.aws_faults import AwsFaults
from tests.chaos.brokers import Brokers
from tests.chaos.driver import NAMES, Driver
from tests.chaos.judging import judge
from tests.chaos.scenarios import SCENARIOS, Scenario
from tests.chaos.table import Run
from tests.e2e.conftest import World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "scenario" in metafunc.fixturenames:
        option = metafunc.config.getoption
        names = [name for name, each in SCENARIOS.items() if each.ci or option("--scenarios") == "all"]
        names.sort(key=lambda name: SCENARIOS[name].nodes)  # three brokers stay, once they are there
        seeds = range(option("--first"), option("--first") + option("--seeds"))
        metafunc.parametrize(("scenario", "seed"), [(name, seed) for seed in seeds for name in names])


def test_nothing_is_lost_or_counted_twice(
    world: World,
    brokers: dict[int, Brokers],
    aws_faults: AwsFaults,
    pytestconfig: pytest.Config,
    scenario: str,
    seed: int,
) -> None:
    began, plan = time.monotonic(), SCENARIOS[scenario]
    cluster = brokers[plan.nodes]
    cluster.start()
    world.env |= {
        "EXPORT_KAFKA_BOOTSTRAP_SERVERS": cluster.direct,
        "EXPORT_KAFKA_REPLICATION_FACTOR": str(plan.nodes),
        "EXPORT_TOPICS_DECLARE": "true",
    }
    world.sqs.set_queue_attributes(QueueUrl=world.queue, Attributes={"VisibilityTimeout": "8"})
    world.files.delay = 0.15
    world.files.missing = {"/missing/1", "/missing/2"}
    aws_faults.reseed(f"{scenario} {seed}")
    driver = Driver(world, f"{scenario} {seed}", cluster, aws_faults, plan.workers)
    driver.env |= plan.env
    verdicts: dict[str, str] = {}
    try:
        verdicts = _run(driver, plan)
    finally:
        driver.heal()
        jobs = driver.known
        tasks = sum(int(world.snapshot(job).get("totalTasks", 0)) for job in jobs)
        run = Run(scenario, plan.faults, seed, dict(driver.done), len(jobs), tasks, verdicts, round(time.monotonic() - began, 1))
        if driver.done or verdicts:  # else it was skipped
            run.note(Path(pytestconfig.getoption("--record")))
        world.close()
        subprocess.run(["umount", str(world.folder / "out")], capture_output=True, check=False)
        topics.delete_all(driver)


def _run(driver: Driver, plan: Scenario) -> dict[str, str]:
    plan.before(driver)
    driver.start()
    driver.jobs(plan.sizes)
    plan.inject(driver)
    driver.heal()
    driver.jobs([5])
    driver.settle()
    executions = [arn for _, _, arn in driver.executions]
    try:
        return judge(
            driver.world,
            NAMES,
            [*driver.known],
            executions,
            messages=driver.refused,
            samples=driver.samples,
            stateless=driver.stateless,
            wait_seconds=120,
        )
    except AssertionError as error:
        raise AssertionError("\n".join([*driver.story, str(error)])) from None


def test_an_answer_whose_reply_is_lost_is_known_to_be_ours(world: World) -> None:
    faults = AwsFaults(world.env["AWS_ENDPOINT"], 1, lost=1)
    faults.start()
    world.catalog("lost", ["a.txt"])
    try:
        world.worker(AWS_ENDPOINT_URL_SFN=faults.url)
        arn, job = world.execute("lost")
        assert world.finished(arn)["status"] == "SUCCEEDED"
        faults.heal()
        world.until(lambda: "callbackOutcome" in world.attempt(job, 1), "the answer is in the ledger")
        assert world.attempt(job, 1)["callbackOutcome"] == "DUPLICATE"
        assert not [line for line in world.logs() if line["level"] == "error"]
    finally:
        faults.close()
