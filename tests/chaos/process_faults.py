"""What is done to workers, brokers, the way between them, and clocks."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.driver import REQUEST_SECONDS, SESSION_SECONDS, Driver
from tests.chaos.large_source import MIB, LargeSource

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
OLD = "3da9f72"
"""A commit whose workers must get on with today's."""


def times(number: int, what: Callable[[Driver], None], longest: float = 1.5) -> Callable[[Driver], None]:
    def inject(driver: Driver) -> None:
        for _ in range(number):
            driver.pause(0, longest)
            what(driver)

    return inject


def terminate_twice(driver: Driver) -> None:
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


def fetchers(driver: Driver) -> None:
    """The processes that a worker downloads with are frozen, then killed: its end, too."""
    for _ in range(3):
        driver.pause(0.5, 1.5)
        worker = driver.random.choice(driver.workers)
        for child in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split():
            driver.noted("fetch process SIGSTOP, SIGKILL")
            os.kill(int(child), signal.SIGSTOP)
            driver.pause(0.2, 1)
            os.kill(int(child), signal.SIGKILL)


def slow_large_file(driver: Driver) -> None:
    driver.world.files.misbehave = LargeSource("/large.bin", 64, 6)


def large_file(driver: Driver) -> None:
    """All processes are killed in the middle of a large file. Who comes next goes on with it, and does not begin it again."""
    source = driver.world.files.misbehave
    assert isinstance(source, LargeSource)
    driver.world.catalog("large", [source.path[1:]])
    job = driver.execute("large")
    for part in (1, 2):
        driver.until(lambda seen=part * 20 * MIB: source.sent > seen, "a good part of a large file is here", 60)  # type: ignore[misc]
        asked = len(source.begun)
        for worker in driver.workers:
            children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
            for pid in (*map(int, children), worker.pid):
                driver.noted("SIGKILL in a large file")
                os.kill(pid, signal.SIGKILL)
        driver.until(lambda before=asked: any(source.begun[before:]), "it is gone on with past its beginning", 60)  # type: ignore[misc]
    driver.until(lambda: driver.completed(job) == 1, "the large file is counted", 90)
    path = driver.world.folder / "out" / job / source.path[1:]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == source.sha256


def storm(driver: Driver) -> None:
    """Workers come and go faster than a group settles."""
    for _ in range(5):
        driver.one_more()
        driver.pause(0.5, 2.5)
        (driver.stop if driver.random.random() < 0.5 else driver.kill)()


def broker_away(driver: Driver) -> None:
    """Longer than anybody waits for a confirmation."""
    driver.brokers.stop(1)
    with driver.lasting("broker stopped", REQUEST_SECONDS * 2.5):
        pass
    driver.brokers.start()


def lose_leaders(driver: Driver) -> None:
    """One broker of three, again and again; records are still taken."""
    for _ in range(2):
        node = driver.random.choice(list(driver.brokers.nodes))
        driver.brokers.kill(node)
        with driver.lasting("one broker of three lost", 4):
            pass
        driver.brokers.start()


def lose_two(driver: Driver) -> None:
    """Fewer than the least that have to be in sync: nothing may be taken for safe."""
    lost = driver.random.sample(list(driver.brokers.nodes), 2)
    driver.brokers.kill(*lost)
    with driver.lasting("two brokers of three lost", 5):
        pass
    driver.brokers.start()


def partition(driver: Driver) -> None:
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


def slow_broker(driver: Driver) -> None:
    (proxy,) = driver.brokers.proxies.values()
    with driver.lasting("slow broker", 10):
        proxy.delay, proxy.bytes_per_second = 0.2, 20_000


def lost_replies(driver: Driver) -> None:
    (proxy,) = driver.brokers.proxies.values()
    with driver.lasting("produce replies are lost", 8):
        proxy.lose = 0.15


def heartbeat_gap(driver: Driver) -> None:
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


def fake_clock(driver: Driver) -> None:
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


def clock_jumps(driver: Driver) -> None:
    for seconds in driver.random.sample([3600, -3600, 0], 3):
        driver.noted("clock jump")
        _set_clock(driver, seconds)
        driver.jobs([20])
        driver.pause(1.5, 2.5)
    driver.kill()


def old_beside_new(driver: Driver) -> None:
    root = driver.world.folder / "old"
    root.mkdir()
    try:
        archive = subprocess.run(["git", "archive", OLD], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"the old worker is commit {OLD}, which is not here")
    subprocess.run(["tar", "x", "-C", str(root)], input=archive, check=True)


def upgrade(driver: Driver) -> None:
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


def anything(driver: Driver) -> None:
    """A bad day of AWS, and one fault after the other."""
    driver.aws.chances.update(throttle=0.04, error=0.03, lost=0.04, slow=0.02)
    hands = [driver.kill, driver.stop, driver.freeze, driver.one_more, driver.bounce, driver.resend, driver.retry, driver.cancel]
    for _ in range(4):
        driver.jobs([driver.random.randint(20, 250), driver.random.randint(1, 9)])
        for _ in range(3):
            driver.random.choice(hands)()
            driver.pause()
