"""The fleet's limits, as this worker keeps them: its share of each, by how many download workers have something to do.

They are a record on the topic `limits`, which every download worker follows; who else works, `demand` says. A worker that begins counts
itself at once, and the others hear of it within a second.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from agents.pacing import FRESH_SECONDS
from export_service.hosts import Hosts
from export_service.messages import DownloadDemand, DownloadLimits

_TICK_SECONDS = 0.5


class Limited(Protocol):
    def limit(self, bandwidth: float) -> None:
        """Receive no more bytes a second; 0: no limit."""


class Shares:
    """`set` and `hear` are told what is on the topics; `worker` is this one's name on `demand`."""

    def __init__(self, transfers: Limited, hosts: Hosts, worker: str, log: Any, now: Callable[[], float] = time.monotonic) -> None:
        self._transfers, self._hosts, self._worker, self._log, self._now = transfers, hosts, worker, log, now
        self._limits = DownloadLimits()
        self._others: dict[str, float] = {}
        """Workers that have something to do -> when they said so."""
        self._workers = 1

    def set(self, limits: DownloadLimits) -> None:
        self._limits = limits
        self._log.info("Limits of all download workers", bandwidth=limits.bandwidth, hostConcurrency=limits.host_concurrency)
        self._apply()

    def hear(self, demand: DownloadDemand) -> None:
        if demand.worker == self._worker:
            return
        if demand.under_way == 0:
            self._others.pop(demand.worker, None)
        else:
            self._others[demand.worker] = self._now()
        self._count()

    async def run(self) -> None:
        """Until it is cancelled: workers that end say nothing."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._count()

    def _count(self) -> None:
        since = self._now() - FRESH_SECONDS
        self._others = {worker: at for worker, at in self._others.items() if at >= since}
        if self._workers != (workers := 1 + len(self._others)):
            self._workers = workers
            self._apply()

    def _apply(self) -> None:
        self._transfers.limit((self._limits.bandwidth or 0) / self._workers)
        # A worker that may ask for nothing would never be done with what it has.
        self._hosts.limit({host: max(1, most // self._workers) for host, most in self._limits.host_concurrency.items()})
