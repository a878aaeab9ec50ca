"""Does things to workers and broker while jobs run, as a seed says: the same seed does the same things in the same order."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from tests.e2e.conftest import World

SESSION_SECONDS = 6
SETTINGS = {
    "EXPORT_KAFKA_SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS),
    "EXPORT_KAFKA_REQUEST_TIMEOUT_SECONDS": "5",
    "EXPORT_DOWNLOAD_CONCURRENCY": "8",
    "EXPORT_TOPICS_DECLARE": "true",
}


class Driver:
    """`workers` processes that are replaced when they end, whoever ended them.

    Args:
        bounce: kills the broker and starts it again; None where it is not the test's own.
        env: of the workers only.
    """

    def __init__(
        self, world: World, seed: int, workers: int, bounce: Callable[[], None] | None, env: Mapping[str, str] | None = None
    ) -> None:
        self.world, self.random, self._env = world, random.Random(seed), SETTINGS | dict(env or {})
        self._wanted, self._bounce = workers, bounce
        self.workers: list[subprocess.Popen[bytes]] = []
        self.executions: list[tuple[str, str, str]] = []
        """(export id, job id, execution ARN)."""
        self.done: Counter[str] = Counter()
        self.story: list[str] = [f"seed {seed}"]

    def start(self) -> None:
        self.workers = [self.world.worker(**self._env) for _ in range(self._wanted)]

    def run(self, faults: int) -> None:
        """Some of the faults one after the other, with pauses in which work goes on."""
        known: dict[str, Callable[[], None]] = {
            "kill": lambda: self._signal(signal.SIGKILL),
            "stop": lambda: self._signal(signal.SIGTERM),
            "freeze": self._freeze,
            "resend": self._resend,
            "one more": self._one_more,
            "retry": self._retry,
            "cancel": self._cancel,
        }
        if self._bounce is not None:
            known["broker"] = self._bounce
        for _ in range(faults):
            name = self.random.choice(sorted(known))
            self.story.append(f"{time.monotonic():.1f} {name}")
            known[name]()
            self.done[name] += 1
            time.sleep(self.random.uniform(0, 2))  # the seed's pace, nothing is waited for
            self.replace()

    def replace(self) -> None:
        """What a supervisor does."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        while len(self.workers) < self._wanted:
            self.workers.append(self.world.launch(**self._env))

    def settle(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        def settled() -> bool:
            self.replace()
            return condition()

        try:
            self.world.until(settled, what, seconds)
        except AssertionError as error:
            raise AssertionError("\n".join([*self.story, str(error)])) from None

    def _signal(self, number: int) -> None:
        victim = self.random.choice(self.workers)
        victim.send_signal(number)

    def _freeze(self) -> None:
        """Long enough to lose its partitions to another worker, and then it goes on as if nothing had happened."""
        victim = self.random.choice(self.workers)
        os.kill(victim.pid, signal.SIGSTOP)
        time.sleep(SESSION_SECONDS * self.random.uniform(0.3, 1.8))
        os.kill(victim.pid, signal.SIGCONT)

    def _resend(self) -> None:
        """A message that was sent comes once more, as SQS may do."""
        if self.world.sent:
            self.world.send(self.random.choice(self.world.sent))

    def execute(self, export_id: str, job_id: str | None = None) -> str:
        """The job's id."""
        arn, job = self.world.execute(export_id, job_id)
        self.executions.append((export_id, job, arn))
        return job

    def ended(self, arn: str) -> bool:
        return bool(self.world.machine.describe_execution(executionArn=arn)["status"] != "RUNNING")

    def _retry(self) -> None:
        """A job whose execution has ended is asked for again, with a token of its own. One that has not keeps its token."""
        waiting = {job for _, job, arn in self.executions if not self.ended(arn)}
        over = sorted({(export_id, job) for export_id, job, _ in self.executions if job not in waiting})
        if over:
            self.execute(*self.random.choice(over))

    def _cancel(self) -> None:
        """By the command line, as an operator does; a job that nobody knows yet, or that has ended, stays as it is."""
        command = [sys.executable, "-m", "export_service", "cancel", self.random.choice(self.executions)[1]]
        subprocess.run(command, env=os.environ | self.world.env, capture_output=True, check=False, timeout=60)

    def _one_more(self) -> None:
        self.workers.append(self.world.launch(**self._env))


def message(export_id: str, **fields: Any) -> dict[str, Any]:
    return {"jobId": str(uuid.uuid4()), "exportId": export_id, "userId": "user-1", **fields}
