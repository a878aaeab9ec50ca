"""What is done to the system, one scenario at a time. `F` numbers are those of docs/reliability.md."""

import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.chaos import data_faults as data
from tests.chaos import process_faults as processes
from tests.chaos.driver import Driver
from tests.chaos.points import POINTS, VARIABLE


@dataclass(frozen=True)
class Scenario:
    """`inject` runs while jobs do; afterwards everything outside the workers is healed, and every job has to end.

    Attributes:
        before: what is prepared before the workers start.
        sizes: of the jobs that run when it begins.
        workers, nodes: how many.
    """

    faults: str
    inject: Callable[[Driver], None]
    before: Callable[[Driver], None] = lambda _: None
    env: Mapping[str, str] = field(default_factory=dict)
    sizes: tuple[int, ...] = (1, 150, 60, 100)
    workers: int = 2
    nodes: int = 1
    ci: bool = False


def _dying_at(point: str) -> Scenario:
    def before(driver: Driver) -> None:
        driver.command = (sys.executable, "-m", "tests.chaos.points", "worker")
        driver.env[VARIABLE] = POINTS[point]

    def inject(driver: Driver) -> None:
        # Each worker dies there once; who takes its place does not.
        del driver.env[VARIABLE]
        first = list(driver.workers)
        driver.until(lambda: any(worker.returncode == -signal.SIGKILL for worker in first), f"a worker died: {point}", 30)
        driver.noted(point)

    return Scenario("F2", inject, before, sizes=(1, 40, 20, 60))


SCENARIOS = {
    "workers killed": Scenario("F1", processes.times(5, Driver.kill), ci=True),
    "fetch processes killed": Scenario("F1 F3", processes.fetchers),
    "large file, all killed": Scenario("F1", processes.large_file, before=processes.slow_large_file, sizes=(1, 20)),
    "workers frozen": Scenario("F3", processes.times(2, lambda driver: driver.freeze(1.1, 1.6)), ci=True),
    "workers told to stop": Scenario("F4", processes.terminate_twice, ci=True),
    "rebalance storm": Scenario("F5", processes.storm, workers=4, sizes=(1, 150, 100, 200)),
    "broker killed": Scenario("F6", processes.times(3, Driver.bounce), ci=True),
    "broker stopped for long": Scenario("F7", processes.broker_away),
    "three brokers, leaders lost": Scenario("F8", processes.lose_leaders, nodes=3),
    "three brokers, two lost": Scenario("F8", processes.lose_two, nodes=3),
    "network to the broker": Scenario("F9", processes.partition),
    "slow broker": Scenario("F10", processes.slow_broker),
    "lost produce replies": Scenario("F11", processes.lost_replies, ci=True),
    "SQS redelivery": Scenario("F12", data.redelivery, before=data.short_visibility),
    "known job, other request": Scenario("F13", data.other_request),
    "poison records": Scenario("F14", data.pour_poison, ci=True),
    "failing sources": Scenario(
        "F15", lambda driver: driver.pause(), before=data.failing_sources, env={"EXPORT_DOWNLOAD_STALL_SECONDS": "1"}
    ),
    "failing S3 destination": Scenario("F18", data.bad_s3, before=data.to_s3),
    "Step Functions away": Scenario("F19", data.outage("SendTaskSuccess SendTaskFailure SendTaskHeartbeat", "Step Functions")),
    "DynamoDB away": Scenario("F20", data.outage("GetItem PutItem UpdateItem Query", "DynamoDB")),
    "a bad day of AWS": Scenario("F12 F18 F19 F20", data.bad_day),
    "no heartbeat": Scenario("F21", processes.heartbeat_gap),
    "full disk": Scenario("F22", data.full_disk, before=data.small_disk),
    "state folder old, then gone": Scenario("F23", data.state_folder, before=data.own_folder, workers=1),
    "changelogs compacted": Scenario("F24", data.compaction),
    "changelogs emptied": Scenario("F24", data.emptied),
    "clock jumps": Scenario("F25", processes.clock_jumps, before=processes.fake_clock),
    "cancelled at any time": Scenario("F27", data.cancel_any_time),
    "results repeated": Scenario("F28", data.results_again),
    "old and new workers": Scenario("F29", processes.upgrade, before=processes.old_beside_new),
    "a million tasks beside one": Scenario("F30", data.beside_a_million, sizes=(1,)),
    "everything at random": Scenario("F31", processes.anything, sizes=(1, 7), ci=True),
    **{f"death: {point}": _dying_at(point) for point in POINTS},
}
