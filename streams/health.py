"""What /livez, /readyz and /startupz say of a worker: each is a list of troubles, in words; none is good."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from export_service import __version__
from export_service import metric_names as names
from export_service.samples import Sample

_TICK_SECONDS = 0.5
_KEPT = 20
"""Ticks that the longest delay is of."""

Check = Callable[[], Iterable[str]]


class Health:
    """`checks`: of a worker that has started. Alive is who answers at all, as the answer comes from the worker's own loop."""

    def __init__(self, roles: Sequence[str]) -> None:
        self._roles = roles
        self.checks: list[Check] = []
        self.started = self.draining = False
        self.failure: BaseException | None = None
        self._delays = [0.0] * _KEPT

    def alive(self) -> list[str]:
        return ["the worker has failed and ends"] if self.failure is not None else []

    def startup(self) -> list[str]:
        return [] if self.started else ["the worker starts: Kafka, AWS, consumer groups, tables"]

    def ready(self) -> list[str]:
        """Assigned, recovered, heard by the producer's broker, every partition moving, and not about to end."""
        if self.draining:
            return ["the worker drains"]
        return [*self.alive(), *self.startup(), *(text for check in self.checks for text in check())]

    def samples(self) -> Iterator[Sample]:
        yield Sample(names.WORKER, 1, (__version__, ",".join(self._roles)))
        yield Sample(names.READY, not self.ready())
        yield Sample(names.LOOP_DELAY, max(self._delays))

    async def run(self) -> None:
        """Measures the loop's delay until it is cancelled."""
        number = 0
        while True:
            before = time.monotonic()
            await asyncio.sleep(_TICK_SECONDS)
            self._delays[number % _KEPT] = max(0.0, time.monotonic() - before - _TICK_SECONDS)
            number += 1
