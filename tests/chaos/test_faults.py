"""Workers are killed, frozen and stopped, the broker too, while jobs run; afterwards the oracle looks at what is there.

CI runs a few seeds; `./dev chaos --seeds N` more. A seed that failed is run again with `--first SEED --seeds 1`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.driver import Driver, message
from tests.chaos.judging import judge
from tests.e2e.conftest import World
from tests.e2e.test_outages import Broker

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path / "kafka")
    made.start()
    yield made
    made.kill()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        first, seeds = metafunc.config.getoption("--first"), metafunc.config.getoption("--seeds")
        metafunc.parametrize("seed", range(first, first + seeds))


def test_nothing_is_lost_or_counted_twice(world: World, broker: Broker, seed: int) -> None:
    def bounce() -> None:
        broker.kill()
        broker.start()

    world.env |= {"EXPORT_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{broker.port}"}
    world.sqs.set_queue_attributes(QueueUrl=world.queue, Attributes={"VisibilityTimeout": "8"})
    world.files.delay = 0.02
    driver = Driver(world, seed, 2, bounce)
    wanted = [f"folder-{n % 5}/file-{n}.txt" for n in range(400)]
    world.files.missing = {"/missing/1", "/missing/2"}
    sizes = [1, 7, *(driver.random.randint(20, 400) for _ in range(4))]
    for number, size in enumerate(sizes):
        some = driver.random.sample(wanted, size)
        world.catalog(f"e{number}", some if number % 3 else [*some, "missing/1", "missing/2"])
    driver.start()
    executions, jobs = [], []
    for number in range(len(sizes)):
        arn, job = world.execute(f"e{number}")
        executions.append(arn)
        jobs.append(job)
        quiet = message(f"e{number}")
        world.send(quiet)
        jobs.append(quiet["jobId"])
        driver.run(2)

    def ended() -> bool:
        states = [world.machine.describe_execution(executionArn=arn)["status"] for arn in executions]
        return "RUNNING" not in states and all("completedAt" in world.snapshot(job) for job in jobs)

    driver.settle(ended, "every job has ended", 240)
    driver.settle(world.queue_is_empty, "the queue is empty", 60)
    try:
        judge(world, wanted, jobs, executions, wait_seconds=120)
    except AssertionError as error:
        raise AssertionError("\n".join([*driver.story, str(error)])) from None
    print(f"seed {seed}: {len(jobs)} jobs, {dict(driver.done)}: every invariant holds")
