"""Workers are killed, frozen and stopped, the broker too, and AWS has a bad day, while jobs run; then the oracle looks at what is there.

CI runs a few seeds; `./dev chaos --seeds N` more. A seed that failed is run again with `--first SEED --seeds 1`.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.aws_faults import AwsFaults
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


@pytest.fixture
def aws_faults(world: World, seed: int) -> Iterator[AwsFaults]:
    made = AwsFaults(world.env["AWS_ENDPOINT"], seed, throttle=0.04, error=0.03, lost=0.04, slow=0.02)
    made.start()
    yield made
    made.close()


def test_nothing_is_lost_or_counted_twice(world: World, broker: Broker, aws_faults: AwsFaults, seed: int) -> None:
    def bounce() -> None:
        broker.kill()
        broker.start()

    world.env |= {"EXPORT_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{broker.port}"}
    world.sqs.set_queue_attributes(QueueUrl=world.queue, Attributes={"VisibilityTimeout": "8"})
    world.files.delay = 0.02
    services = ("SQS", "SFN", "DYNAMODB", "S3")
    driver = Driver(world, seed, 2, bounce, {f"AWS_ENDPOINT_URL_{service}": aws_faults.url for service in services})
    wanted = [f"folder-{n % 5}/file-{n}.txt" for n in range(400)]
    world.files.missing = {"/missing/1", "/missing/2"}
    sizes = [1, 7, *(driver.random.randint(20, 400) for _ in range(4))]
    for number, size in enumerate(sizes):
        some = driver.random.sample(wanted, size)
        world.catalog(f"e{number}", some if number % 3 else [*some, "missing/1", "missing/2"])
    driver.start()
    jobs = []
    for number in range(len(sizes)):
        jobs.append(driver.execute(f"e{number}"))
        quiet = message(f"e{number}")
        world.send(quiet)
        jobs.append(quiet["jobId"])
        driver.run(2)

    def ended() -> bool:
        return all(driver.ended(arn) for _, _, arn in driver.executions) and all(
            "completedAt" in world.snapshot(job) for job in jobs
        )

    driver.settle(ended, "every job has ended", 240)
    driver.settle(world.queue_is_empty, "the queue is empty", 60)
    try:
        judge(world, wanted, jobs, [arn for _, _, arn in driver.executions], wait_seconds=120)
    except AssertionError as error:
        raise AssertionError("\n".join([*driver.story, str(error)])) from None
    by_fault = Counter(name.partition(" ")[0] for name in aws_faults.done.elements())
    print(f"seed {seed}: {len(jobs)} jobs, {dict(driver.done)}, AWS {dict(by_fault)}: every invariant holds")


def test_an_answer_whose_reply_is_lost_is_known_to_be_ours(world: World) -> None:
    faults = AwsFaults(world.env["AWS_ENDPOINT"], 1, lost=1)
    world.catalog("lost", ["a.txt"])
    try:
        world.worker(AWS_ENDPOINT_URL_SFN=faults.start())
        arn, job = world.execute("lost")
        assert world.finished(arn)["status"] == "SUCCEEDED"
        faults.chances["lost"] = 0
        world.until(lambda: "callbackOutcome" in world.attempt(job, 1), "the answer is in the ledger")
        assert world.attempt(job, 1)["callbackOutcome"] == "DUPLICATE"
        assert not [line for line in world.logs() if line["level"] == "error"]
    finally:
        faults.close()
