"""A Faust table whose changelog writes can be awaited.

Faust hands changelog records to a buffer and commits offsets without waiting for them (P7, P8); then a crash loses table writes whose
source record is already committed. Here a write stays in `unsent` until `flush`, which sends it to the source record's partition and
gives the delivery futures, so that the ack window can hold the record until the broker has its changelog.
"""

import asyncio
import logging
from typing import Any

import faust
from faust.types import TP

from export_service.ports import Publisher


class ConfirmedTable(faust.Table):  # type: ignore[type-arg]
    """Bytes to bytes. Written only while its agent iterates a record, on that record's partition (P11)."""

    logger = logging.getLogger("faust.tables")
    publisher: Publisher

    def on_key_set(self, key: bytes, value: bytes) -> None:
        self.unsent.append((self._event_partition(key), key, value))

    def on_key_del(self, key: bytes) -> None:
        self.unsent.append((self._event_partition(key), key, None))

    @property
    def unsent(self) -> list[tuple[int, bytes, bytes | None]]:
        writes: list[tuple[int, bytes, bytes | None]] = self.__dict__.setdefault("_unsent", [])
        return writes

    def _event_partition(self, key: bytes) -> int:
        partition = self.partition_for_key(key)
        assert partition is not None
        return int(partition)

    async def flush(self) -> list["asyncio.Future[Any]"]:
        """Send what was written since the last flush; the futures are done when the broker has it."""
        writes, self.unsent[:] = list(self.unsent), []
        topic = self.changelog_topic.get_topic_name()
        futures = []
        for partition, key, value in writes:
            future = await self.publisher.send(topic, key, value, partition=partition)
            future.add_done_callback(self._note_offset)
            futures.append(future)
        return futures

    def _note_offset(self, future: "asyncio.Future[Any]") -> None:
        if not future.cancelled() and future.exception() is None:
            sent = future.result()
            self.data.set_persisted_offset(TP(sent.topic, sent.partition), sent.offset)
