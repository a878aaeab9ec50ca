"""A Faust table whose changelog writes can be awaited.

Faust hands changelog records to a buffer and commits offsets without waiting for them (P7, P8); then a crash loses table writes whose
source record is already committed. Here a write stays in `unsent` until `flush`, which sends it to the source record's partition and
gives the delivery futures, so that the ack window can hold the record until the broker has its changelog.
"""

import asyncio
import logging
from functools import partial
from typing import Any, cast

import faust
import structlog
from faust.types import TP

from export_service.ports import Publisher
from tables.rocksdb import ConfirmedStore, SharedOptions

Write = tuple[int, bytes, bytes | None]
"""Partition, key, value."""


class ConfirmedTable(faust.Table):  # type: ignore[type-arg]
    """Bytes to bytes. Written only while its agent iterates a record, on that record's partition (P11)."""

    logger = logging.getLogger("faust.tables")
    publisher: Publisher
    rocksdb: SharedOptions | None = None
    """Set: the table is kept in RocksDB, else in memory."""
    _carried: "frozenset[asyncio.Future[Any]]" = frozenset()

    def on_key_set(self, key: bytes, value: bytes) -> None:
        self.unsent[self._event_partition(key), key] = value

    def on_key_del(self, key: bytes) -> None:
        self.unsent[self._event_partition(key), key] = None

    @property
    def unsent(self) -> dict[tuple[int, bytes], bytes | None]:
        writes: dict[tuple[int, bytes], bytes | None] = self.__dict__.setdefault("_unsent", {})
        return writes

    def _event_partition(self, key: bytes) -> int:
        partition = self.partition_for_key(key)
        assert partition is not None
        return int(partition)

    @property
    def _under_way(self) -> set["asyncio.Future[Any]"]:
        futures: set[asyncio.Future[Any]] = self.__dict__.setdefault("_futures", set())
        return futures

    def carry(self) -> None:
        """The records of what is under way come again. They find their writes made, so each later flush waits for these too."""
        self._carried = frozenset(self._under_way)

    async def flush(self) -> list["asyncio.Future[Any]"]:
        """Send what was written since the last flush, of each key the last; the futures are done when the broker has it."""
        writes = [(number, key, value) for (number, key), value in self.unsent.items()]
        self.unsent.clear()
        topic = self.changelog_topic.get_topic_name()
        self._carried &= self._under_way
        futures = list(self._carried)
        for write in writes:
            number, key, value = write
            future = await self.publisher.send(topic, key, value, partition=number)
            if self.rocksdb is not None:
                future.add_done_callback(partial(self._keep, write, self.disk.opened(number)))
            self._under_way.add(future)
            future.add_done_callback(self._under_way.discard)
            futures.append(future)
        return futures

    @property
    def disk(self) -> ConfirmedStore:
        assert isinstance(self.data, ConfirmedStore)
        return self.data

    def _keep(self, write: Write, opened: int, future: "asyncio.Future[Any]") -> None:
        if future.cancelled() or future.exception() is not None:
            return
        sent = future.result()
        try:
            self.disk.confirmed(TP(sent.topic, sent.partition), sent.offset, *write[1:], opened)
        except Exception as error:  # the disk is full or broken, in RocksDB's words
            # A later write would carry a later offset, and this one would be missing for good.
            self.disk.broken = True
            cast(Any, self.app).on_failure(error)

    def _new_store_by_url(self, url: Any) -> Any:
        if self.rocksdb is None:
            return super()._new_store_by_url(url)
        return ConfirmedStore("rocksdb://", self.app, self, self.rocksdb, table_name=self.name, **self._serializers())

    def _serializers(self) -> dict[str, Any]:
        return {
            "key_type": self.key_type,
            "key_serializer": self.key_serializer,
            "value_serializer": self.value_serializer,
            "value_type": self.value_type,
            "loop": self.loop,
        }

    async def on_changelog_event(self, event: Any) -> None:
        cast(Any, self.app).recovery.applied(event.message.tp, event.message.offset)

    def apply_changelog_batch(self, batch: Any) -> None:
        # Faust puts a record that was on its way when its partition went away into the table of the record before it (P15).
        recovery = cast(Any, self.app.tables).recovery
        ours = recovery.actives_for_table[self] | recovery.standbys_for_table[self]
        super().apply_changelog_batch([event for event in batch if event.message.tp in ours])

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0) -> None:
        # Whoever has a partition next folds what we wrote there and did not send: our writes would come after his.
        stays = {tp.partition for tp in assigned - newly_assigned}
        for write in [write for write in self.unsent if write[0] not in stays]:
            del self.unsent[write]
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)
        if self.rocksdb is not None:
            await self._forget_what_the_changelog_has_not([tp for tp in newly_assigned if tp.topic in self.changelog_topic.topics])

    async def _forget_what_the_changelog_has_not(self, places: list[TP]) -> None:
        """A store that is further than its changelog belongs to a topic that was deleted and made again. Faust would go on with it."""
        ends = await self.app.consumer.highwaters(*places) if places else {}
        for tp, end in ends.items():
            stored = self.data.persisted_offset(tp)
            if stored is not None and stored >= (end or 0):
                structlog.get_logger().warning(
                    "Local table is newer than its changelog, so it is of a topic that is gone; it is read from the changelog again",
                    topic=tp.topic,
                    partition=tp.partition,
                    stored=stored,
                    end=end,
                )
                self.disk.forget(tp.partition)
