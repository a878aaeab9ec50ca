"""What can be seen of a worker from outside: its metrics, whether it is well, and how far its groups are behind."""

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar

from prometheus_client import ProcessCollector

from connectors.sqs import SqsQueue
from export_service.emf import Emf
from export_service.failures import Unavailable
from export_service.metrics import Metrics
from export_service.metrics_server import metrics_page, probe, serve
from export_service.settings import Settings
from streams.ack_window import Place
from streams.health import Health
from streams.lag import Lags
from streams.publisher import KafkaPublisher
from streams.role import FaustRole
from streams.steps import beside
from streams.topics import Topics

_END_SECONDS = 3.0
"""For connections to be closed."""
Role = TypeVar("Role", bound=FaustRole)


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task], timeout=_END_SECONDS)


class Observed:
    """One worker. Without a port and without EMF nothing is asked of Kafka or AWS for it."""

    def __init__(self, settings: Settings, roles: Sequence[str]) -> None:
        self._settings, self._names = settings, roles
        self.metrics, self.health = Metrics(), Health(roles)
        self._roles: list[FaustRole] = []
        self._on = settings.metrics.port is not None or settings.metrics.emf_seconds is not None
        self.metrics.read(self.health.samples)
        ProcessCollector(registry=self.metrics.registry)

    def role(self, role: Role) -> Role:
        """The same one, observed."""
        self._roles.append(role)
        self.metrics.read(role.samples)
        self.health.checks.append(role.troubles)
        return role

    async def serve(self, stack: AsyncExitStack) -> None:
        """From now on. Raises SettingsError if the port is taken."""
        pages = {
            "/metrics": metrics_page(self.metrics.registry),
            "/livez": probe(self.health.alive),
            "/readyz": probe(self.health.ready),
            "/startupz": probe(self.health.startup),
        }
        await stack.enter_async_context(serve(self._settings.metrics, pages))

    def follow(
        self,
        names: Topics,
        publisher: KafkaPublisher,
        queue: SqsQueue | None,
        fatal: Callable[[BaseException], None],
        stack: AsyncExitStack,
        log: Any,
    ) -> None:
        """What has to be asked for, again and again, until `stack` ends."""

        def run(work: Coroutine[Any, Any, None]) -> None:
            stack.push_async_callback(_end, beside(work, fatal))

        def heard() -> Iterator[str]:
            if publisher.silent_seconds > self._settings.kafka.request_timeout_seconds / 2:
                yield f"Kafka has confirmed nothing for {publisher.silent_seconds:.0f} s; check EXPORT_KAFKA_BOOTSTRAP_SERVERS"

        self.metrics.read(publisher.samples)
        self.health.checks.append(heard)
        if not self._on:
            return
        lags = Lags(self._settings, names, self._names, self._look, log)
        self.metrics.read(lags.samples)
        self.health.checks.append(lags.troubles)
        run(lags.run())
        run(self.health.run())
        if queue is not None:
            self.metrics.read(queue.samples)
            run(self._ask(queue))
        if self._settings.metrics.emf_seconds is not None:
            run(self._emf(self._settings.metrics.emf_seconds))

    def _look(self, ends: Mapping[Place, int]) -> None:
        for role in self._roles:
            role.look(ends)

    async def _ask(self, queue: SqsQueue) -> None:
        while True:
            with suppress(Unavailable):  # the connector says so
                await queue.look()
            await asyncio.sleep(self._settings.metrics.lag_seconds)

    async def _emf(self, seconds: float) -> None:
        emf = Emf(self.metrics.registry, self._settings.metrics.emf_namespace)
        while True:
            await asyncio.sleep(seconds)
            sys.stdout.write(emf.line(time.time()) + "\n")
            sys.stdout.flush()
