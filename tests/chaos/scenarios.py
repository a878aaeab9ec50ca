"""What is done to the system, one scenario at a time. `F` numbers are those of the list of fault scenarios that the team agreed on."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.chaos import bad_source, poison, topics
from tests.chaos.driver import REQUEST_SECONDS, SESSION_SECONDS, Driver
from tests.chaos.points import POINTS, VARIABLE

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
OLD = "3da9f72"
"""A commit whose workers must get on with today's."""


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


def _times(number: int, what: Callable[[Driver], None], longest: float = 1.5) -> Callable[[Driver], None]:
    def inject(driver: Driver) -> None:
        for _ in range(number):
            driver.pause(0, longest)
            what(driver)

    return inject


def _terminate_twice(driver: Driver) -> None:
    """In the middle of downloads; one is told again before it has drained."""
    for again in (False, True):
        driver.pause(0.5, 1)
        victim = driver.random.choice(driver.workers)
        driver.noted("SIGTERM twice" if again else "SIGTERM")
        victim.send_signal(signal.SIGTERM)
        if again:
            time.sleep(driver.random.uniform(0, 0.5))
            victim.send_signal(signal.SIGTERM)
        driver.gone(victim)


def _storm(driver: Driver) -> None:
    """Workers come and go faster than a group settles."""
    for _ in range(5):
        driver.one_more()
        driver.pause(0.5, 2.5)
        (driver.stop if driver.random.random() < 0.5 else driver.kill)()


def _broker_away(driver: Driver) -> None:
    """Longer than anybody waits for a confirmation."""
    driver.brokers.stop(1)
    with driver.lasting("broker stopped", REQUEST_SECONDS * 2.5):
        pass
    driver.brokers.start()


def _lose_leaders(driver: Driver) -> None:
    """One broker of three, again and again; records are still taken."""
    for _ in range(2):
        node = driver.random.choice(list(driver.brokers.nodes))
        driver.brokers.kill(node)
        with driver.lasting("one broker of three lost", 4):
            pass
        driver.brokers.start()


def _lose_two(driver: Driver) -> None:
    """Fewer than the least that have to be in sync: nothing may be taken for safe."""
    lost = driver.random.sample(list(driver.brokers.nodes), 2)
    driver.brokers.kill(*lost)
    with driver.lasting("two brokers of three lost", 5):
        pass
    driver.brokers.start()


def _partition(driver: Driver) -> None:
    (proxy,) = driver.brokers.proxies.values()
    for direction in driver.random.sample([("in",), ("out",), ("in", "out")], 3):
        proxy.stalled = frozenset(direction)
        with driver.lasting(
            f"nothing moves {' and '.join(direction)} of the broker", driver.random.uniform(1, 1.6 * SESSION_SECONDS)
        ):
            pass
        proxy.heal()
        driver.pause(0.5, 1)
    with driver.lasting("connections to the broker cut", 2):
        proxy.sever()


def _slow_broker(driver: Driver) -> None:
    (proxy,) = driver.brokers.proxies.values()
    with driver.lasting("slow broker", 10):
        proxy.delay, proxy.bytes_per_second = 0.2, 20_000


def _lost_replies(driver: Driver) -> None:
    (proxy,) = driver.brokers.proxies.values()
    with driver.lasting("produce replies are lost", 8):
        proxy.lose = 0.15


def _redelivery(driver: Driver) -> None:
    """Messages are invisible for 2 s only, their deletes fail or seem to, and they come again by themselves too."""
    driver.aws.only = frozenset({"DeleteMessageBatch", "ReceiveMessage", "ChangeMessageVisibilityBatch"})
    driver.aws.chances.update(lost=0.25, error=0.25)
    for _ in range(8):
        driver.resend()
        driver.pause(0.2, 1)
    driver.kill()


def _short_visibility(driver: Driver) -> None:
    driver.world.sqs.set_queue_attributes(QueueUrl=driver.world.queue, Attributes={"VisibilityTimeout": "2"})


def _other_request(driver: Driver) -> None:
    """A job that is known, asked for with other files; and a crowd that asks for the same new one."""
    for _ in range(3):
        known = driver.random.choice(driver.world.sent)
        driver.noted("known id, other request")
        driver.world.send(json.dumps(known | {"exportId": "other"}))
        driver.pause(0, 0.5)
    fresh = driver.send("e1")
    for _ in range(4):
        driver.noted("message again")
        driver.world.send(json.dumps({"jobId": fresh, "exportId": "e1", "userId": "user-1"}))


def _poison(driver: Driver) -> None:
    bootstrap, prefix = driver.brokers.direct, driver.world.env["EXPORT_TOPICS_PREFIX"]
    driver.done["poison record"] += asyncio.run(poison.pour(bootstrap, prefix, driver.random))
    for body in ("{not json", "[]", '{"jobId": 7}', "\u00ff" * 1000, '{"jobId":"' + "x" * 100_000 + '"}'):
        driver.noted("poison message")
        driver.refused.append(driver.world.send(body))
    driver.pause()
    driver.kill()


def _bad_source(driver: Driver) -> None:
    def misbehave(handler: bad_source.Handler, name: str, times: int) -> bool:
        answered = bad_source.misbehave(handler, name, times)
        driver.done["bad answer"] += answered
        return answered

    driver.world.files.misbehave = misbehave


def _to_s3(driver: Driver) -> None:
    driver.env["EXPORT_DESTINATION"] = f"s3://exports/out-{driver.world.folder.name}/{{jobId}}/"


def _bad_s3(driver: Driver) -> None:
    driver.aws.only = frozenset({"s3.PUT", "s3.POST", "s3.GET"})
    driver.aws.chances.update(error=0.1, lost=0.1, slow=0.05)
    driver.jobs([40, 80])
    driver.pause(5, 8)


def _outage(operations: str, what: str) -> Callable[[Driver], None]:
    def inject(driver: Driver) -> None:
        driver.aws.only = frozenset(operations.split())
        for fault in ("error", "throttle", "lost"):
            driver.aws.chances.update({"error": 0, "throttle": 0, "lost": 0, fault: 1})
            with driver.lasting(f"{what} {fault}", 3):
                driver.jobs([driver.random.randint(1, 9)])
        driver.kill()

    return inject


def _bad_day(driver: Driver) -> None:
    driver.aws.chances.update(throttle=0.08, error=0.06, lost=0.08, slow=0.04)
    driver.jobs([30, 30, 7])
    driver.pause(6, 9)
    driver.kill()


def _heartbeat_gap(driver: Driver) -> None:
    """All workers stand still for longer than the state waits: it gives up, and the job that goes on is nobody's."""
    machine = driver.world.machine_with(HeartbeatSeconds=3, heartbeatSeconds=2)
    driver.world.catalog("long", [f"folder-0/file-{n * 5}.txt" for n in range(80)])
    job = driver.execute("long", machine=machine)
    driver.until(lambda: bool(driver.world.snapshot(job)), "the long job is known")
    driver.noted("all workers frozen")
    for worker in driver.workers:
        os.kill(worker.pid, signal.SIGSTOP)
    arn = driver.executions[-1][2]
    driver.world.until(lambda: driver.ended(arn), "the state has timed out", 20)
    for worker in driver.workers:
        os.kill(worker.pid, signal.SIGCONT)


def _small_disk(driver: Driver) -> None:
    out = driver.world.folder / "out"
    out.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(out)], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("a small disk needs the right to mount one")


def _full_disk(driver: Driver) -> None:
    """Too small for all; later there is room again, for what is asked for then."""
    driver.noted("disk full")
    driver.settle()
    subprocess.run(["mount", "-o", "remount,size=64m", str(driver.world.folder / "out")], check=True)


def _state_gone(driver: Driver) -> None:
    for _ in range(2):
        driver.pause(0.5, 1.5)
        driver.noted("state folders deleted")
        for worker in driver.workers:
            worker.kill()
            worker.wait()
        driver.forget_state()
        driver.replace()


def _compaction(driver: Driver) -> None:
    """Changelogs are compacted while they are written, and read again by who takes over."""
    topics.compact_at_once(driver)
    for _ in range(3):
        driver.pause(1, 2)
        driver.kill()
    driver.settle()
    there, ever = topics.changelog_records(driver)
    assert there < ever, "nothing was compacted: this tests nothing"
    driver.noted("compacted")


def _emptied(driver: Driver) -> None:
    """All of the changelogs is deleted, when no job needs it any more. The oracle must miss what they held, and nothing else."""
    driver.settle()
    driver.stateless = {job for _, job, _ in driver.executions} | set(driver.quiet)
    driver.noted("changelogs emptied")
    for worker in driver.workers:
        # Not killed: results that are not committed would be folded once more, into nothing.
        worker.terminate()
        driver.gone(worker)
    topics.empty_changelogs(driver)
    driver.replace()
    driver.jobs([30, 50])
    driver.pause(1, 2)
    driver.kill()


def _fake_clock(driver: Driver) -> None:
    if not FAKETIME.exists():
        pytest.skip("clock jumps need Debian's package libfaketime")
    _set_clock(driver, 0)
    driver.env |= {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(driver.world.folder / "clock"),
        "FAKETIME_NO_CACHE": "1",
        # Timers run on; a clock that is set does not move them.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def _set_clock(driver: Driver, seconds: int) -> None:
    (driver.world.folder / "clock").write_text(f"{seconds:+d}")


def _clock_jumps(driver: Driver) -> None:
    for seconds in driver.random.sample([3600, -3600, 0], 3):
        driver.noted("clock jump")
        _set_clock(driver, seconds)
        driver.jobs([20])
        driver.pause(1.5, 2.5)
    driver.kill()


def _cancel_any_time(driver: Driver) -> None:
    for _ in range(5):
        driver.cancel()
        driver.pause(0, 1)
    driver.kill()


def _results_again(driver: Driver) -> None:
    """All of `results` once more, beside what goes on, as a careless replay would do."""
    for _ in range(2):
        driver.pause(1, 2)
        driver.done["result again"] += topics.repeat(driver, "results")
    driver.kill()


def _old_beside_new(driver: Driver) -> None:
    root = driver.world.folder / "old"
    root.mkdir()
    try:
        archive = subprocess.run(["git", "archive", OLD], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"the old worker is commit {OLD}, which is not here")
    subprocess.run(["tar", "x", "-C", str(root)], input=archive, check=True)


def _upgrade(driver: Driver) -> None:
    """Old workers join, take over, and go, as in a rolling upgrade and its rollback."""
    new = driver.command
    driver.env["PYTHONPATH"] = str(driver.world.folder / "old")
    for command in ((sys.executable, "-P", "-m", "export_service", "worker"), new):
        driver.command = command
        for worker in list(driver.workers):
            driver.noted("other version")
            worker.terminate()
            driver.gone(worker)
            driver.pause(1, 2)
        driver.jobs([40])
        if command == new:
            del driver.env["PYTHONPATH"]


def _anything(driver: Driver) -> None:
    """A bad day of AWS, and one fault after the other."""
    driver.aws.chances.update(throttle=0.04, error=0.03, lost=0.04, slow=0.02)
    hands = [driver.kill, driver.stop, driver.freeze, driver.one_more, driver.bounce, driver.resend, driver.retry, driver.cancel]
    for _ in range(4):
        driver.jobs([driver.random.randint(20, 250), driver.random.randint(1, 9)])
        for _ in range(3):
            driver.random.choice(hands)()
            driver.pause()


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
    "workers killed": Scenario("F1", _times(5, Driver.kill), ci=True),
    "workers frozen": Scenario("F3", _times(2, lambda driver: driver.freeze(1.1, 1.6)), ci=True),
    "workers told to stop": Scenario("F4", _terminate_twice, ci=True),
    "rebalance storm": Scenario("F5", _storm, workers=4, sizes=(1, 150, 100, 200)),
    "broker killed": Scenario("F6", _times(3, Driver.bounce), ci=True),
    "broker stopped for long": Scenario("F7", _broker_away),
    "three brokers, leaders lost": Scenario("F8", _lose_leaders, nodes=3),
    "three brokers, two lost": Scenario("F8", _lose_two, nodes=3),
    "network to the broker": Scenario("F9", _partition, ci=True),
    "slow broker": Scenario("F10", _slow_broker),
    "lost produce replies": Scenario("F11", _lost_replies, ci=True),
    "SQS redelivery": Scenario("F12", _redelivery, before=_short_visibility, ci=True),
    "known job, other request": Scenario("F13", _other_request),
    "poison records": Scenario("F14", _poison, ci=True),
    "failing sources": Scenario(
        "F15", lambda driver: driver.pause(), before=_bad_source, env={"EXPORT_DOWNLOAD_STALL_SECONDS": "1"}
    ),
    "failing S3 destination": Scenario("F18", _bad_s3, before=_to_s3),
    "Step Functions away": Scenario("F19", _outage("SendTaskSuccess SendTaskFailure SendTaskHeartbeat", "Step Functions"), ci=True),
    "DynamoDB away": Scenario("F20", _outage("GetItem PutItem UpdateItem Query", "DynamoDB"), ci=True),
    "a bad day of AWS": Scenario("F12 F18 F19 F20", _bad_day),
    "no heartbeat": Scenario("F21", _heartbeat_gap),
    "full disk": Scenario("F22", _full_disk, before=_small_disk),
    "state folders deleted": Scenario("F23", _state_gone),
    "changelogs compacted": Scenario("F24", _compaction, ci=True),
    "changelogs emptied": Scenario("F24", _emptied),
    "clock jumps": Scenario("F25", _clock_jumps, before=_fake_clock),
    "cancelled at any time": Scenario("F27", _cancel_any_time),
    "results repeated": Scenario("F28", _results_again),
    "old and new workers": Scenario("F29", _upgrade, before=_old_beside_new),
    "everything at random": Scenario("F31", _anything, sizes=(1, 7), ci=True),
    **{f"death: {point}": _dying_at(point) for point in POINTS},
}
