"""The one background reader that all viewers of the console share: snapshots and demand as they come, the broker's offsets now and then."""

import asyncio
import time
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from pydantic import ValidationError

from export_service.console.now import Now
from export_service.console.seen_jobs import SeenJobs
from export_service.failures import Unavailable
from export_service.messages import DownloadDemand, JobSnapshot
from export_service.settings import Settings
from streams.broker_looks import BrokerLooks
from streams.kafka_client import connection, unreachable
from streams.topics import topics

LOOK_SECONDS = 2.0
_PULSE_SECONDS = 0.5
_GROUP_LOOKS = 3
"""Looks between two at the groups, whose answers are large."""
_AGAIN_SECONDS = 2.0
_DEMAND_MS = 30_000
"""A worker says it once a second: one that was silent for longer has gone."""


class ConsoleFeed:
    """`run` until it is cancelled; `now` and `jobs` are what is known. `version` goes up when something in them changed."""

    def __init__(self, settings: Settings, log: Any) -> None:
        self._settings, self._log = settings, log
        self.now, self.jobs = Now(), SeenJobs(settings.console.jobs)
        self.version = 0
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._for_ever(self._look))
            tasks.create_task(self._for_ever(self._follow))
            tasks.create_task(self._pulse())

    async def changed(self, since: int) -> int:
        """Waits until there is a version after that one."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.version > since)
            return self.version

    async def _for_ever(self, read: Any) -> None:
        """What is shown stays, with the reason why it does not move."""
        while True:
            try:
                await read()
            except Unavailable as error:
                if self.now.problem != str(error):
                    self._log.warning(str(error), setting=error.setting)
                self.now.problem = str(error)
                await self._tell()
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _tell(self) -> None:
        async with self._changed:
            self.version += 1
            self._changed.notify_all()

    async def _pulse(self) -> None:
        """Snapshots come by the hundred; viewers are told once for all of them."""
        told = 0
        while True:
            await asyncio.sleep(_PULSE_SECONDS)
            if told != self.jobs.changes:
                told = self.jobs.changes
                await self._tell()

    async def _look(self) -> None:
        async with BrokerLooks(self._settings) as looks:
            number = 0
            while True:
                begun = time.monotonic()
                self.now.bounds, self.now.missing = await looks.bounds()
                self.now.ages = await looks.ages(self.now.bounds)
                if number % _GROUP_LOOKS == 0:
                    self.now.groups = await looks.groups()
                number += 1
                self.now.problem = None
                self.now.sample(time.time(), self.jobs.files, self.jobs.bytes)
                silent = time.time() - _DEMAND_MS / 1000
                self.now.demand = {worker: said for worker, said in self.now.demand.items() if said[0] > silent}
                await self._tell()
                await asyncio.sleep(max(0.1, LOOK_SECONDS - (time.monotonic() - begun)))

    async def _follow(self) -> None:
        """Raises Unavailable."""
        names = topics(self._settings)
        while {names.snapshots.name, names.demand.name} & set(self.now.missing) or not self.now.bounds:
            await asyncio.sleep(0.2)  # the other one says when they are there
        snapshots = [TopicPartition(names.snapshots.name, number) for number in self.now.of("snapshots")]
        demand = TopicPartition(names.demand.name, 0)
        consumer = AIOKafkaConsumer(**connection(self._settings), enable_auto_commit=False, auto_offset_reset="earliest")
        try:
            await consumer.start()
            ends = await consumer.end_offsets(snapshots)
            lately = (await consumer.offsets_for_times({demand: int(time.time() * 1000) - _DEMAND_MS}))[demand]
            consumer.assign([*snapshots, demand])
            await consumer.seek_to_beginning(*snapshots)
            consumer.seek(demand, lately.offset if lately else (await consumer.end_offsets([demand]))[demand])
            while True:
                for place, records in (await consumer.getmany(timeout_ms=500)).items():
                    for number, record in enumerate(records):
                        self._demand(record) if place == demand else self._snapshot(record.value)
                        if number % 200 == 199:
                            await asyncio.sleep(0)  # pages are served meanwhile
                if not self.jobs.live:
                    self.jobs.live = all([await consumer.position(place) >= ends[place] for place in snapshots])
        except (TimeoutError, KafkaError) as error:
            raise unreachable(self._settings, error) from None
        finally:
            await consumer.stop()

    def _snapshot(self, value: bytes | None) -> None:
        try:
            self.jobs.see(JobSnapshot.model_validate_json(value or b""))
        except ValidationError:
            return  # the snapshot role puts it among the dead letters

    def _demand(self, record: Any) -> None:
        try:
            said = DownloadDemand.model_validate_json(record.value or b"")
        except ValidationError:
            return
        self.now.demand[said.worker] = (record.timestamp / 1000, said)
