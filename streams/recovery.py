"""Watches a recovery of tables from outside: it must go on, read all that was there, and put each record it fetched into its table.

Faust's own recovery ends without a word when a request times out, goes on after an error (P15), waits without limit for an offset that
never comes (P14), and its consumer may drop records it has fetched (P24), which nobody sees in a compacted topic.
None of that may end in a table with holes: the worker ends instead, and its next start recovers anew.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import structlog
from faust.types import TP
from mode.utils.queues import ThrowableQueue

from export_service import metric_names as names
from export_service.failures import RecoveryFailed
from export_service.metrics import Metrics
from export_service.samples import Sample

_LOOK_SECONDS = 0.5


class ChangelogQueue(ThrowableQueue[Any]):
    """Faust empties its queue of changelog records when the flow resumes, with what a standby has just been sent (P26). What came before
    a rebalance is dropped when the flow is suspended, and that is enough."""

    def clear(self) -> None:
        if not self._flow_control.is_active():
            super().clear()


class RecoveryWatch:
    """Of one role. What the app, its consumer and its tables see is told here; `fatal` is told of a recovery that failed."""

    def __init__(self, role: str, stall_seconds: float, metrics: Metrics, fatal: Callable[[BaseException], None]) -> None:
        self._role, self._stall_seconds, self._metrics, self._fatal = role, stall_seconds, metrics, fatal
        self._ends: dict[TP, int] = {}
        self._floors: dict[TP, int] = {}
        self._due: dict[TP, deque[int]] = {}
        self._records = self.rebalances = 0
        self.began: float | None = None
        """None while there is none: the partitions may be somebody else's."""

    async def assigned(self, app: Any, places: Iterable[TP]) -> None:
        """A rebalance gave us partitions; `places` are the changelogs' among them. What is on them now has to be read."""
        self.rebalances += 1
        self.began, self._records, self._ends = time.monotonic(), 0, {}
        if changelogs := tuple(places):
            self._ends = dict(await app.consumer.highwaters(*changelogs))

    def sought(self, app: Any, places: Mapping[TP, int]) -> None:
        """The consumer goes to these offsets. Called in its thread."""
        recovery = app.tables.recovery
        for tp in map(_place, places):
            # Faust reads the last record that it has once more, and leaves it out.
            have = recovery.active_offsets.get(tp) if tp in recovery.active_tps else recovery.standby_offsets.get(tp)
            self._floors[tp], self._due[tp] = -1 if have is None else have, deque()

    def fetched(self, records: Mapping[TP, Any]) -> None:
        """Called in the consumer's thread."""
        for place, fetched in records.items():
            if (due := self._due.get(_place(place))) is not None:
                floor = self._floors[_place(place)]
                due.extend(record.offset for record in fetched if record.offset > floor)

    def applied(self, tp: TP, offset: int) -> None:
        """A record reached its table."""
        self._records += 1
        due = self._due.get(tp)
        if due and due[0] < offset:
            self._fail(f"{_name(tp)}: offset {due[0]} was fetched and dropped, {offset} came next")
        while due and due[0] <= offset:
            due.popleft()

    def restored(self, records: int) -> None:
        """So many reached their tables without Faust."""
        self._records += records

    def failed(self, error: Exception) -> None:
        self._fail(repr(error))

    async def completed(self, app: Any) -> None:
        """Faust says that the tables are as the changelogs. Returns if they are: the streams start after that."""
        recovery = app.tables.recovery
        for tp in recovery.active_tps & self._ends.keys():
            have, end, due = recovery.active_offsets.get(tp), self._ends[tp] or 0, self._due.get(tp)
            if (-1 if have is None else have) < end - 1:
                self._fail(f"{_name(tp)}: ended at offset {have}, the changelog's end is {end}")
            elif due and due[0] < end:
                self._fail(f"{_name(tp)}: offset {due[0]} was fetched and never reached its table")
            else:
                continue
            await asyncio.Event().wait()

    def samples(self) -> Iterator[Sample]:
        yield Sample(names.REBALANCES, self.rebalances, (self._role,))
        yield Sample(names.RECOVERING, self.began is not None, (self._role,))

    def ended(self) -> None:
        """Records flow."""
        if self.began is not None:
            seconds, self.began = time.monotonic() - self.began, None
            self._metrics.recovery_seconds.labels(self._role).set(seconds)
            self._metrics.recovery_records.labels(self._role).set(self._records)
            self._metrics.recovery_remaining.labels(self._role).set(0)
            if self._ends:
                structlog.get_logger().info("Tables recovered", role=self._role, records=self._records, seconds=round(seconds, 3))

    def interrupted(self) -> None:
        """Another rebalance began."""
        self.began = None

    async def watch(self, app: Any) -> None:
        """Runs until it is cancelled."""
        last: Any = None
        since = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            offsets = dict(app.tables.recovery.active_offsets)
            seen = (self.began, offsets)
            if self.began is None or seen != last:
                last, since = seen, time.monotonic()
            if self.began is None:
                continue
            behind = {tp: end for tp, end in self._ends.items() if tp in offsets and (offsets[tp] or 0) < end - 1}
            self._metrics.recovery_remaining.labels(self._role).set(sum(end - 1 - (offsets[tp] or 0) for tp, end in behind.items()))
            if time.monotonic() - since > self._stall_seconds:
                places = ", ".join(f"{_name(tp)} at offset {offsets[tp]} of {end}" for tp, end in sorted(behind.items()))
                self._fail(
                    f"no progress for {self._stall_seconds:g} s (EXPORT_WORKER_RECOVERY_STALL_SECONDS): {places or 'all was read'}"
                )
                return

    def _fail(self, what: str) -> None:
        self._fatal(RecoveryFailed(f"the recovery of {self._role} failed. {what}"))


def _place(tp: Any) -> TP:
    """aiokafka's or Faust's."""
    return TP(tp.topic, tp.partition)


def _name(tp: TP) -> str:
    return f"{tp.topic}[{tp.partition}]"
