"""Does things to workers, broker, network and AWS while jobs run, as a seed says: the same seed does the same things in the same order."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.chaos.aws_faults import AwsFaults
from tests.chaos.brokers import Brokers
from tests.e2e.conftest import WORKER, World

SESSION_SECONDS = 6
REQUEST_SECONDS = 5
SETTINGS = {
    "EXPORT_KAFKA_SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS),
    "EXPORT_KAFKA_REQUEST_TIMEOUT_SECONDS": str(REQUEST_SECONDS),
    "EXPORT_DOWNLOAD_CONCURRENCY": "8",
    "EXPORT_TOPICS_DECLARE": "true",
}
NAMES = [f"folder-{n % 5}/file-{n}.txt" for n in range(400)]
"""All files that there are."""


class Driver:
    """`workers` processes that are replaced when they end, whoever ended them.

    Attributes:
        env: of workers that start from now on.
        command: by which they start.
        done: what was done, how often.
        samples: (worker, resident bytes, open files), looked at between faults.
    """

    def __init__(self, world: World, seed: str, brokers: Brokers, aws: AwsFaults, workers: int = 2) -> None:
        self.world, self.random, self.brokers, self.aws = world, random.Random(seed), brokers, aws
        services = ("SQS", "SFN", "DYNAMODB", "S3")
        through = {f"AWS_ENDPOINT_URL_{service}": aws.url for service in services}
        self.env = SETTINGS | through | {"EXPORT_KAFKA_BOOTSTRAP_SERVERS": brokers.proxied}
        self.command: Sequence[str] = WORKER
        self.wanted = workers
        self.workers: list[subprocess.Popen[bytes]] = []
        self.executions: list[tuple[str, str, str]] = []
        """(export id, job id, execution ARN)."""
        self.quiet: list[str] = []
        """Jobs without a token."""
        self.refused: list[str] = []
        """Message ids of what nobody can read."""
        self.stateless: set[str] = set()
        """Jobs whose state was deleted, after they had ended."""
        self.done: Counter[str] = Counter()
        self.samples: list[tuple[str, int, int]] = []
        self.story: list[str] = [f"seed {seed}"]

    # Workers

    def start(self) -> None:
        self.workers = [self.world.worker(*self.command, **self.env) for _ in range(self.wanted)]

    def replace(self) -> None:
        """What a supervisor does."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        for worker in self.workers:
            with suppress(OSError):
                pages = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1])
                files = sum(1 for _ in Path(f"/proc/{worker.pid}/fd").iterdir())
                self.samples.append((str(worker.pid), pages * os.sysconf("SC_PAGE_SIZE"), files))
        while len(self.workers) < self.wanted:
            self.workers.append(self.launch())

    def launch(self, **env: str) -> "subprocess.Popen[bytes]":
        return self.world.launch(*self.command, **self.env | env)

    def gone(self, worker: "subprocess.Popen[bytes]") -> None:
        """It was told to end, and has."""
        self.world.until(lambda: worker.poll() is not None, "a worker that was told to stop has ended", 30)

    def pause(self, shortest: float = 0, longest: float = 2) -> None:
        """The seed's pace, in which work goes on; nothing is waited for."""
        time.sleep(self.random.uniform(shortest, longest))
        self.replace()

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
        def replaced() -> bool:
            self.replace()
            return condition()

        # Each look asks AWS about every job, on the processors that the workers need.
        self.world.until(replaced, what, seconds, every=0.3)

    def noted(self, name: str) -> None:
        self.story.append(f"{time.monotonic():.1f} {name}")
        self.done[name] += 1

    # Jobs

    def execute(self, export_id: str, job_id: str | None = None, machine: str | None = None) -> str:
        """The job's id."""
        arn, job = self.world.execute(export_id, job_id, machine)
        self.executions.append((export_id, job, arn))
        return job

    def send(self, export_id: str, **fields: Any) -> str:
        """A job without a token; its id."""
        job = str(uuid.uuid4())
        self.world.send({"jobId": job, "exportId": export_id, "userId": "user-1"} | fields)
        self.quiet.append(job)
        return job

    def jobs(self, sizes: Sequence[int]) -> None:
        """A job of each size; each second without a token, each third with files that are missing."""
        for size in sizes:
            number = len(self.executions) + len(self.quiet)
            export_id = f"e{number}"
            some = self.random.sample(NAMES, size)
            self.world.catalog(export_id, [*some, "missing/1", "missing/2"] if number % 3 == 2 else some)
            (self.send if number % 2 else self.execute)(export_id)

    @property
    def known(self) -> set[str]:
        return {job for _, job, _ in self.executions} | set(self.quiet)

    def ended(self, arn: str) -> bool:
        return bool(self.world.machine.describe_execution(executionArn=arn)["status"] != "RUNNING")

    def all_ended(self) -> bool:
        return all("completedAt" in self.world.snapshot(job) for job in self.known) and all(
            self.ended(arn) for _, _, arn in self.executions
        )

    def completed(self, job: str) -> int:
        return int(self.world.snapshot(job).get("completedTasks", 0))

    def moves(self, job: str, tasks: int, seconds: float = 120) -> None:
        before = self.completed(job)
        self.until(lambda: self.completed(job) >= before + tasks, f"{job} moves", seconds)

    # Faults

    def kill(self) -> None:
        self.noted("SIGKILL")
        self.random.choice(self.workers).kill()

    def stop(self) -> None:
        self.noted("SIGTERM")
        self.random.choice(self.workers).terminate()

    def freeze(self, shortest: float = 0.3, longest: float = 1.8) -> None:
        """In session timeouts: long enough to lose its partitions, and then it goes on as if nothing had happened."""
        self.noted("SIGSTOP")
        victim = self.random.choice(self.workers)
        os.kill(victim.pid, signal.SIGSTOP)
        time.sleep(SESSION_SECONDS * self.random.uniform(shortest, longest))
        os.kill(victim.pid, signal.SIGCONT)

    def one_more(self) -> None:
        self.noted("one worker more")
        self.workers.append(self.launch())

    def bounce(self) -> None:
        """A broker is killed and starts again with its data."""
        self.noted("broker SIGKILL")
        node = self.random.choice(list(self.brokers.nodes))
        self.brokers.kill(node)
        self.brokers.start(node)

    def resend(self) -> None:
        """A message that was sent comes once more, as SQS may do."""
        if self.world.sent:
            self.noted("message again")
            self.world.send(self.random.choice(self.world.sent))

    def retry(self) -> None:
        """A job whose execution has ended is asked for again, with a token of its own. One that has not keeps its token."""
        waiting = {job for _, job, arn in self.executions if not self.ended(arn)}
        over = sorted({(export_id, job) for export_id, job, _ in self.executions if job not in waiting})
        if over:
            self.noted("job again")
            self.execute(*self.random.choice(over))

    def cancel(self, job: str | None = None) -> None:
        """One, or any. By the command line, as an operator does; a job that nobody knows yet, or that has ended, stays as it is."""
        self.noted("cancel")
        job = job or self.random.choice([*(job for _, job, _ in self.executions), *self.quiet])
        command = [sys.executable, "-m", "export_service", "cancel", job]
        subprocess.run(command, env=os.environ | self.world.env, capture_output=True, check=False, timeout=60)

    @contextmanager
    def lasting(self, name: str, seconds: float) -> Iterator[None]:
        """For faults that last: what is begun inside goes on for so long."""
        self.noted(name)
        yield
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.pause(0.3, 0.5)

    def heal(self) -> None:
        """Everything outside the workers is well again."""
        self.aws.heal()
        self.brokers.start()
        for proxy in self.brokers.proxies.values():
            self.done.update(proxy.done)
            proxy.done.clear()
            proxy.heal()
        self.done.update(self.aws.done)
        self.aws.done.clear()

    def settle(self, seconds: float = 240) -> None:
        try:
            self.until(self.all_ended, "every job has ended", seconds)
            self.until(self.world.queue_is_empty, "the queue is empty", 90)
        except AssertionError as error:
            raise AssertionError("\n".join([*self.story, str(error)])) from None
