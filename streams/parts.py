"""What the roles of a worker share: connections, opened in one place and closed in the reverse order."""

import socket
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

from connectors.aws import Clients
from connectors.destinations import StoreDestinations
from connectors.dynamodb import DynamoTable
from connectors.memory import SystemClock
from connectors.sources import Sources
from connectors.sqs import open_queue
from connectors.step_functions import StepFunctionsCallback
from connectors.stores import open_stores
from export_service.settings import Settings
from streams.dead_letters import DeadLetters
from streams.observed import Observed
from streams.publisher import KafkaPublisher
from streams.topics import Topics, short_names


class Parts:
    """What the roles share."""

    def __init__(
        self,
        settings: Settings,
        names: Topics,
        publisher: KafkaPublisher,
        observed: Observed,
        table: DynamoTable,
        step_functions: StepFunctionsCallback,
        sources: Sources,
        destinations: StoreDestinations,
        queue: Any,
        fetchers: Sequence[socket.socket],
        log: Any,
    ) -> None:
        self.settings, self.topics, self.publisher, self.table = settings, names, publisher, table
        self.observed, self.metrics, self.fetchers = observed, observed.metrics, fetchers
        self.step_functions, self.sources, self.destinations, self.queue = step_functions, sources, destinations, queue
        self.log, self.clock = log, SystemClock()
        short = {spec.name: name for name, spec in short_names(names).items()}
        self.dead_letters = DeadLetters(
            publisher, names.dead_letters.name, self.clock, lambda topic: self.metrics.dead_letters.labels(short[topic]).inc()
        )

    @classmethod
    async def open(
        cls,
        settings: Settings,
        roles: Collection[str],
        names: Topics,
        publisher: KafkaPublisher,
        observed: Observed,
        fetchers: Sequence[socket.socket],
        stack: AsyncExitStack,
        log: Any,
    ) -> "Parts":
        clients = Clients(settings.aws)
        dynamodb = await stack.enter_async_context(clients.open("dynamodb"))
        s3 = await stack.enter_async_context(clients.open("s3", connections=16))
        sfn = await stack.enter_async_context(clients.open("stepfunctions", connections=settings.callback.concurrency))
        queue = None
        # Nobody else may read the queue, or should need the right to.
        if "connector" in roles and settings.queue.url is not None:
            sqs = await stack.enter_async_context(clients.open("sqs"))
            own = settings.queue
            queue = await stack.enter_async_context(open_queue(sqs, settings.queue.url, own.wait_seconds, own.max_receives, log))
        sources, destinations = await open_stores(settings, clients, s3, stack)
        table = DynamoTable(dynamodb, settings.table.name, timedelta(days=settings.table.ttl_days))
        callbacks = StepFunctionsCallback(sfn)
        return cls(settings, names, publisher, observed, table, callbacks, sources, destinations, queue, fetchers, log)
