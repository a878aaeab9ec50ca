"""Topics that every worker reads whole, outside any group: `cancellations` and `limits` from the beginning, `demand` from its end."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from pydantic import ValidationError

from export_service.backoff import until_available
from export_service.messages import DownloadDemand, DownloadLimits, JobCancelled
from export_service.settings import Settings
from streams.kafka_client import connection, unreachable
from streams.steps import beside


class Follower:
    """Reads one partition. `start` returns when everything that is there has been told; then `follow` goes on until it is cancelled.

    Args:
        told: given each record's value.
    """

    def __init__(
        self, settings: Settings, topic: str, told: Callable[[bytes | None], None], log: Any, *, from_end: bool = False
    ) -> None:
        self._settings, self._place, self._told, self._log = settings, TopicPartition(topic, 0), told, log
        self._next = None if from_end else 0

    async def start(self) -> None:
        await until_available(lambda: self._read(forever=False), self._log)

    async def read(self) -> None:
        """As `start`, but raises Unavailable."""
        await self._read(forever=False)

    async def follow(self) -> None:
        while True:
            await until_available(lambda: self._read(forever=True), self._log)

    async def _read(self, *, forever: bool) -> None:
        """Raises Unavailable."""
        consumer = AIOKafkaConsumer(**connection(self._settings), enable_auto_commit=False, auto_offset_reset="earliest")
        try:
            await consumer.start()
            consumer.assign([self._place])
            end = (await consumer.end_offsets([self._place]))[self._place]
            self._next = end if self._next is None else self._next
            consumer.seek(self._place, self._next)
            while forever or self._next < end:
                for records in (await consumer.getmany(timeout_ms=1000)).values():
                    for record in records:
                        self._told(record.value)
                # Not the last record's: the last ones may have been compacted away.
                self._next = await consumer.position(self._place)
        except (TimeoutError, KafkaError) as error:
            raise unreachable(self._settings, error) from None
        finally:
            await consumer.stop()


class Following:
    """Topics that a role follows beside its own."""

    def __init__(self, fatal: Callable[[BaseException], None], *followers: Follower) -> None:
        self._fatal, self._followers = fatal, followers
        self._running: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Returns when all that is there has been told."""
        for follower in self._followers:
            await follower.start()
            self._running.append(beside(follower.follow(), self._fatal))

    def stop(self) -> None:
        for running in self._running:
            running.cancel()


def cancellations(settings: Settings, topic: str, told: Callable[[str, int], None], log: Any) -> Follower:
    """`told` is given job id and attempt."""

    def tell(value: bytes | None) -> None:
        try:
            cancelled = JobCancelled.model_validate_json(value or b"")
        except ValidationError:
            return  # a tombstone, or not ours: nobody's download depends on it
        told(cancelled.job_id, cancelled.attempt or 1)

    return Follower(settings, topic, tell, log)


def limits(settings: Settings, topic: str, told: Callable[[DownloadLimits], None], log: Any) -> Follower:
    def tell(value: bytes | None) -> None:
        try:
            told(DownloadLimits.model_validate_json(value) if value else DownloadLimits())
        except ValidationError as error:
            log.error(
                "A record of the topic limits is no DownloadLimits; the limits before it are kept", mistakes=error.error_count()
            )

    return Follower(settings, topic, tell, log)


def demands(settings: Settings, topic: str, told: Callable[[DownloadDemand], None], log: Any) -> Follower:
    def tell(value: bytes | None) -> None:
        try:
            told(DownloadDemand.model_validate_json(value or b""))
        except ValidationError:
            return  # not ours

    return Follower(settings, topic, tell, log, from_end=True)
