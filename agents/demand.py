"""Says on `demand` how many tasks this download worker takes: the plan step hands out no more than that (`pacing`).

Some two seconds of work may wait here, and twice what is under way where files are slow; shared by the jobs that wait. So no slot idles
while the next record is on its way, and no more waits than a worker that joins, or dies, can make good in a moment.
"""

import asyncio
import os
import platform
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agents.download import Downloader
from export_service.failures import Unavailable
from export_service.messages import DownloadDemand
from export_service.ports import Publisher

AHEAD_SECONDS = 2.0
QUICK_RATE = 500.0
"""Tasks a second of a worker that has nothing to do."""
LEAST_WINDOW = 16
"""Tasks of one job, however many jobs wait."""
REPEAT_SECONDS = 1.0
"""The longest silence of a worker that lives."""
_TICK_SECONDS = 0.05


class Demand:
    """Args:
    read: what of `tasks` is ours and was read, see DownloadDemand.read.
    """

    def __init__(
        self, downloader: Downloader, concurrency: int, read: Callable[[], dict[int, int]], publisher: Publisher, topic: str
    ) -> None:
        self._downloader, self._slots, self._read = downloader, concurrency, read
        self._publisher, self._topic, self.worker = publisher, topic, uuid.uuid4().hex[:12]
        # Taken for a quick one until it is known: the first tasks of a job are not to wait for a measurement.
        self._rate, self._ended, self._at = QUICK_RATE, 0, time.monotonic()

    async def run(self) -> None:
        """Until it is cancelled."""
        said, told_at = (0, 0, frozenset[int](), False), 0.0
        while True:
            read, wanted, now = self._read(), self._wanted(), time.monotonic()
            waiting = len(self._downloader.waiting)
            step = wanted / 8
            busy = self._downloader.busy > 0
            moved = abs(wanted - said[0]) > step or abs(waiting - said[1]) > step or read.keys() != said[2]
            if moved or (busy and not said[3]) or now - told_at >= REPEAT_SECONDS:
                demand = self._demand(read, wanted)
                with suppress(Unavailable):  # one that is lost is said again
                    said_it = await self._publisher.send(self._topic, self.worker.encode(), demand.to_bytes())
                    said_it.add_done_callback(lambda future: future.cancelled() or future.exception())
                said, told_at = (wanted, waiting, frozenset(read), busy), now
                # One that lists many jobs is long, and worth its price less often.
                await asyncio.sleep(len(demand.waiting) / 1000)
            await asyncio.sleep(_TICK_SECONDS)

    def _wanted(self) -> int:
        """Tasks that may wait here, of all jobs."""
        now, ended = time.monotonic(), self._downloader.ended
        rate = (ended - self._ended) / max(now - self._at, _TICK_SECONDS / 2)
        # Up at once, so that a burst of small files is not held up; down in seconds, so that a pause is forgiven.
        if rate > self._rate:
            self._rate = (self._rate + rate) / 2
        elif self._downloader.busy:
            self._rate = self._rate * 0.95 + rate * 0.05
        else:
            self._rate = max(self._rate, QUICK_RATE)
        self._at, self._ended = now, ended
        return max(2 * self._slots, int(AHEAD_SECONDS * self._rate))

    def _demand(self, read: dict[int, int], wanted: int) -> DownloadDemand:
        jobs = self._downloader.waiting.waiting()
        window = max(LEAST_WINDOW, wanted // max(len(jobs), 1))
        listed = {job: tasks for job, tasks in jobs.items() if 2 * tasks >= window}
        return DownloadDemand(
            worker=self.worker,
            read=read,
            window=window,
            waiting=listed,
            under_way=self._downloader.busy,
            host=platform.node() or None,
            memory=_memory(),
        )


def _memory() -> int | None:
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
