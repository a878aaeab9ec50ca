"""How long a consumer's fetch waits at the broker for records: little while records come, long while none do.

aiokafka has one fetch under way per broker. What arrives in a partition whose last records were still being handled when that fetch
was sent is not in it, and waits until it ends: with Faust's own 1.5 s that is up to 1.5 s a hop, five hops a job (measured: P25). But
a fetch that asks for all partitions is answered at once when anything comes, so an idle consumer loses nothing by a long one.
Five idle consumers that asked 20 times a second took 13 % of a processor.
"""

import time
from collections.abc import Callable
from typing import Any

BUSY_WAIT_MS = 50
IDLE_WAIT_MS = 400
"""Also what a rebalance or a seek of an idle consumer may have to wait: the broker answers a connection's requests one after the other."""
IDLE_AFTER_SECONDS = 2.0


class Patience:
    """Sets the wait of each fetch of an aiokafka fetcher, once it exists."""

    def __init__(self, fetcher: Any, now: Callable[[], float] = time.monotonic) -> None:
        self._fetcher, self._now = fetcher, now
        self._busy_at = now()
        self._assignment: Any = None
        self._actions, self._fetch = fetcher._get_actions_per_node, fetcher._proc_fetch_request
        fetcher._get_actions_per_node, fetcher._proc_fetch_request = self.actions, self.fetch
        fetcher._fetch_max_wait_ms = BUSY_WAIT_MS

    def actions(self, assignment: Any) -> Any:
        """In place of the fetcher's: what to ask whom for."""
        if assignment is not self._assignment or any(self._left_out(assignment, tp) for tp in assignment.tps):
            self._assignment, self._busy_at = assignment, self._now()
        idle = self._now() - self._busy_at > IDLE_AFTER_SECONDS
        self._fetcher._fetch_max_wait_ms = IDLE_WAIT_MS if idle else BUSY_WAIT_MS
        return self._actions(assignment)

    async def fetch(self, *arguments: Any) -> Any:
        """In place of the fetcher's: one fetch. Its value says whether something came."""
        came = await self._fetch(*arguments)
        if came:
            self._busy_at = self._now()
        return came

    def _left_out(self, assignment: Any, tp: Any) -> bool:
        return tp in self._fetcher._records or assignment.state_value(tp).paused
