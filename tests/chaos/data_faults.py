"""What is done to messages, records, topics, files and folders, and to the services around the workers."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable

import pytest

from tests.chaos import bad_source, poison, topics
from tests.chaos.driver import NAMES, Driver


def redelivery(driver: Driver) -> None:
    """Messages are invisible for 2 s only, their deletes fail or seem to, and they come again by themselves too."""
    driver.aws.only = frozenset({"DeleteMessageBatch", "ReceiveMessage", "ChangeMessageVisibilityBatch"})
    driver.aws.chances.update(lost=0.25, error=0.25)
    for _ in range(8):
        driver.resend()
        driver.pause(0.2, 1)
    driver.kill()


def short_visibility(driver: Driver) -> None:
    driver.world.sqs.set_queue_attributes(QueueUrl=driver.world.queue, Attributes={"VisibilityTimeout": "2"})


def other_request(driver: Driver) -> None:
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


def pour_poison(driver: Driver) -> None:
    bootstrap, prefix = driver.brokers.direct, driver.world.env["EXPORT_TOPICS_PREFIX"]
    driver.done["poison record"] += asyncio.run(poison.pour(bootstrap, prefix, driver.random))
    for body in ("{not json", "[]", '{"jobId": 7}', "\u00ff" * 1000, '{"jobId":"' + "x" * 100_000 + '"}'):
        driver.noted("poison message")
        driver.refused.append(driver.world.send(body))
    driver.pause()
    driver.kill()


def failing_sources(driver: Driver) -> None:
    def misbehave(handler: bad_source.Handler, name: str, times: int) -> bool:
        answered = bad_source.misbehave(handler, name, times)
        driver.done["bad answer"] += answered
        return answered

    driver.world.files.misbehave = misbehave


def to_s3(driver: Driver) -> None:
    driver.env["EXPORT_DESTINATION"] = f"s3://exports/out-{driver.world.folder.name}/{{jobId}}/"


def bad_s3(driver: Driver) -> None:
    driver.aws.only = frozenset({"s3.PUT", "s3.POST", "s3.GET"})
    driver.aws.chances.update(error=0.1, lost=0.1, slow=0.05)
    driver.jobs([40, 80])
    driver.pause(5, 8)


def outage(operations: str, what: str) -> Callable[[Driver], None]:
    def inject(driver: Driver) -> None:
        driver.aws.only = frozenset(operations.split())
        for fault in ("error", "throttle", "lost"):
            driver.aws.chances.update({"error": 0, "throttle": 0, "lost": 0, fault: 1})
            with driver.lasting(f"{what} {fault}", 3):
                driver.jobs([driver.random.randint(1, 9)])
        driver.kill()

    return inject


def bad_day(driver: Driver) -> None:
    driver.aws.chances.update(throttle=0.08, error=0.06, lost=0.08, slow=0.04)
    driver.jobs([30, 30, 7])
    driver.pause(6, 9)
    driver.kill()


def small_disk(driver: Driver) -> None:
    out = driver.world.folder / "out"
    out.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(out)], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("a small disk needs the right to mount one")


def full_disk(driver: Driver) -> None:
    """Too small for all; later there is room again, for what is asked for then."""
    driver.noted("disk full")
    driver.settle()
    subprocess.run(["mount", "-o", "remount,size=64m", str(driver.world.folder / "out")], check=True)


def own_folder(driver: Driver) -> None:
    """Tables on disk, in a folder that each next worker finds."""
    driver.env |= {"EXPORT_TALLY_STORE": "rocksdb://", "EXPORT_WORKER_STATE_DIR": str(driver.world.folder / "state")}


def state_folder(driver: Driver) -> None:
    """It is an older copy of itself, then gone, whenever a worker was killed."""
    folder, copy = (driver.world.folder / name for name in ("state", "copy"))
    for what in ("kept", "put back", "deleted"):
        driver.pause(1, 2)
        driver.noted(f"state folder {what}")
        for worker in driver.workers:
            worker.kill()
            worker.wait()
        if what == "kept":
            shutil.copytree(folder, copy)
        else:
            shutil.rmtree(folder)
        if what == "put back":
            shutil.copytree(copy, folder)
        driver.replace()
        driver.jobs([30])


def compaction(driver: Driver) -> None:
    """Changelogs are compacted while they are written, and read again by who takes over."""
    topics.compact_at_once(driver)
    for _ in range(3):
        driver.pause(1, 2)
        driver.kill()
    driver.settle()
    assert topics.compacted_away(driver), "nothing was compacted: this tests nothing"
    driver.noted("compacted")


def emptied(driver: Driver) -> None:
    """All of the changelogs is deleted, when no job needs it any more. The oracle must miss what they held, and nothing else."""
    driver.settle()
    driver.stateless = driver.known
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


def cancel_any_time(driver: Driver) -> None:
    for _ in range(5):
        driver.cancel()
        driver.pause(0, 1)
    driver.kill()


def results_again(driver: Driver) -> None:
    """All of `results` once more, beside what goes on, as a careless replay would do."""
    for _ in range(2):
        driver.pause(1, 2)
        driver.done["result again"] += topics.repeat(driver, "results")
    driver.kill()


def beside_a_million(driver: Driver) -> None:
    """Small jobs of others end while a few hundred of its tasks do, also when a worker has died."""
    lines = (json.dumps({"url": f"{driver.world.files.base}/{NAMES[n % len(NAMES)]}", "name": f"{n}"}) for n in range(1_000_000))
    driver.world.put_catalog("million", "\n".join(lines))
    big = driver.send("million", userId="user-big")
    driver.until(lambda: driver.world.snapshot(big).get("totalTasks") == "1000000", "the large job is planned", 420)
    for kill in (False, True, False):
        if kill:
            driver.kill()
            driver.replace()
        # Whoever takes the plan over reads all of its list again first.
        driver.moves(big, 50, 420)
        before = driver.completed(big)
        driver.jobs([1])
        driver.until(
            lambda: all("completedAt" in driver.world.snapshot(job) for job in driver.known if job != big), "small jobs end", 120
        )
        assert driver.completed(big) - before < 1500, "a small job waits for the large one"
        driver.noted("small job beside a million")
    driver.cancel(big)
