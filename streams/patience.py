"""How long a consumer's fetch waits at the broker, and for how much: little where records may be missed, more where they come thick.

aiokafka has one fetch under way per broker. What arrives in a partition whose last records were still being handled when that fetch
was sent is not in it, and waits until it ends: with Faust's own 1.5 s that is up to 1.5 s a hop, five hops a job (measured: P25). But
a fetch that asks for all partitions is answered at once when anything comes, so it loses nothing by a long wait.

Answered at once, a fetch brings one record, and costs the broker and us as much as one that brings ten. So where one answer follows the
other for a while, the broker is asked to wait for more, for a moment.
"""

import time
from collections.abc import Callable
from typing import Any

BUSY_WAIT_MS = 50
IDLE_WAIT_MS = 400
"""Also what a rebalance or a seek of an idle consumer may have to wait: the broker answers a connection's requests one after the other."""
NEW_SECONDS = 2.0
"""For so long an assignment is new: its positions may still be changed."""
DENSE_WAIT_MS, DENSE_BYTES = 25, 64 * 1024
_DENSE, _SPARSE = 0.015, 0.04
"""Seconds from one answer with records to the next, on average: at the most to become dense, and to stay so."""
_WEIGHT, _LONGEST = 1 / 8, 0.1


class Patience:
    """Sets the wait of each fetch of an aiokafka fetcher, once it exists."""

    def __init__(self, fetcher: Any, now: Callable[[], float] = time.monotonic) -> None:
        self._fetcher, self._now = fetcher, now
        self._assignment: Any = None
        self._assigned_at = self._came_at = now()
        self._gap, self._dense = _LONGEST, False
        self._least = fetcher._fetch_min_bytes
        self._actions, self._fetch = fetcher._get_actions_per_node, fetcher._proc_fetch_request
        fetcher._get_actions_per_node, fetcher._proc_fetch_request = self.actions, self.fetch

    def actions(self, assignment: Any) -> Any:
        """In place of the fetcher's: what to ask whom for."""
        if assignment is not self._assignment:
            self._assignment, self._assigned_at = assignment, self._now()
        busy = self._now() - self._assigned_at < NEW_SECONDS or any(self._left_out(assignment, tp) for tp in assignment.tps)
        wait = DENSE_WAIT_MS if self._dense else BUSY_WAIT_MS if busy else IDLE_WAIT_MS
        self._fetcher._fetch_max_wait_ms, self._fetcher._fetch_min_bytes = wait, DENSE_BYTES if self._dense else self._least
        return self._actions(assignment)

    async def fetch(self, *arguments: Any) -> Any:
        """In place of the fetcher's: one fetch. Its value says whether something came."""
        came, now = await self._fetch(*arguments), self._now()
        if came:
            self._gap += (min(now - self._came_at, _LONGEST) - self._gap) * _WEIGHT
            self._came_at = now
        else:
            self._gap = _LONGEST
        self._dense = self._gap < (_SPARSE if self._dense else _DENSE)
        return came

    def _left_out(self, assignment: Any, tp: Any) -> bool:
        return tp in self._fetcher._records or assignment.state_value(tp).paused
