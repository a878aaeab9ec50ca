"""How fast the plan step hands out: as fast as the download workers take it, each job on its own.

A worker says how many tasks of one job may wait with it (`demand`). A job that has that many there, or on their way there, waits for room;
one that has none goes ahead at once, however many others there are. So `tasks` holds only what is about to be read, and whose turn it
is decides the worker, where all jobs meet. What is on its way is known exactly: a job is planned in one place.
"""

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any

from export_service.messages import DownloadDemand

FRESH_SECONDS = 5.0
"""A worker that was silent for this long gets nothing."""
_COMPLAIN_SECONDS = 60.0


class NoMoreTurns(Exception):
    """The worker ends; what is left is for the next owner of the partition."""


class Turn:
    """Leave to send one batch, to `partition`. `with` it; without `sent` it is given back."""

    def __init__(self, job: str, tasks: int, partition: int, there: "deque[Turn]", on_its_way: Counter[str]) -> None:
        self.job, self.tasks, self.partition = job, tasks, partition
        self.offset: int | None = None
        """None until the broker has it."""
        self._there, self._on_its_way, self._sent = there, on_its_way, False
        there.append(self)
        on_its_way[job] += tasks

    def sent(self, confirmed: "asyncio.Future[Any]") -> None:
        self._sent = True
        confirmed.add_done_callback(self._confirmed)

    def _confirmed(self, confirmed: "asyncio.Future[Any]") -> None:
        if not confirmed.cancelled() and confirmed.exception() is None:
            self.offset = confirmed.result().offset

    def __enter__(self) -> "Turn":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._sent:
            self._there.remove(self)
            self._on_its_way[self.job] -= self.tasks


class _Worker:
    """What one download worker said last, and what is on its way to it since."""

    def __init__(self, demand: DownloadDemand, at: float, on_its_way: Counter[str]) -> None:
        self.demand, self.at, self.on_its_way = demand, at, on_its_way
        self.partitions = deque(demand.read)

    def room(self, job: str) -> int:
        return self.demand.window - self.demand.waiting.get(job, 0) - self.on_its_way[job]

    def takes(self, job: str, tasks: int) -> bool:
        # A large batch need not wait until there is room for all of it: by then the slots would be idle.
        return self.room(job) >= min(tasks, self.demand.window // 2)


class Pacer:
    """Shared by all plans of a worker."""

    def __init__(self, log: Any, now: Callable[[], float] = time.monotonic) -> None:
        self._log, self._now = log, now
        self._workers: dict[str, _Worker] = {}
        self._sent: dict[int, deque[Turn]] = defaultdict(deque)
        """Partition -> what was sent there and not read yet, in order."""
        self._waiting: dict[asyncio.Future[_Worker], tuple[str, int]] = {}
        self._complained = -_COMPLAIN_SECONDS
        self.closed = False

    def hear(self, demand: DownloadDemand) -> None:
        """A download worker said what it takes."""
        on_its_way: Counter[str] = Counter()
        for partition, read in demand.read.items():
            sent = self._sent[partition]
            while sent and (offset := sent[0].offset) is not None and offset < read:
                sent.popleft()
            for turn in sent:
                on_its_way[turn.job] += turn.tasks
        worker = self._workers[demand.worker] = _Worker(demand, self._now(), on_its_way)
        for other in [name for name, known in self._workers.items() if worker.at - known.at > FRESH_SECONDS]:
            del self._workers[other]
        if demand.read:
            for waiter, (job, tasks) in list(self._waiting.items()):
                if not waiter.done() and worker.takes(job, tasks):
                    waiter.set_result(worker)

    async def turn(self, job: str, tasks: int) -> Turn:
        """Wait until a worker has room for so many tasks more of this job.

        Raises NoMoreTurns.
        """
        if self.closed:
            raise NoMoreTurns
        worker = self._roomiest(job)
        if worker is None or not worker.takes(job, tasks):
            worker = await self._wait(job, tasks)
        worker.partitions.rotate()
        partition = worker.partitions[0]
        return Turn(job, tasks, partition, self._sent[partition], worker.on_its_way)

    def close(self) -> None:
        """No more turns, for those who wait either."""
        self.closed = True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(NoMoreTurns())

    def _roomiest(self, job: str) -> _Worker | None:
        since = self._now() - FRESH_SECONDS
        fresh = [worker for worker in self._workers.values() if worker.at >= since and worker.partitions]
        return max(fresh, key=lambda worker: worker.room(job), default=None)

    async def _wait(self, job: str, tasks: int) -> _Worker:
        waiter: asyncio.Future[_Worker] = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = (job, tasks)
        try:
            while not (await asyncio.wait([waiter], timeout=_COMPLAIN_SECONDS))[0]:
                self._complain()
            return waiter.result()
        finally:
            del self._waiting[waiter]

    def _complain(self) -> None:
        if self._roomiest("") is None and self._now() - self._complained >= _COMPLAIN_SECONDS:
            self._complained = self._now()
            self._log.warning(
                "Plans wait: no download worker says on the topic demand that it takes tasks", plans=len(self._waiting)
            )
