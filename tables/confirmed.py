"""A Faust table whose changelog writes can be awaited.

Faust hands changelog records to a buffer and commits offsets without waiting for them (P7, P8); then a crash loses table writes whose
source record is already committed. Here a value stays in `unsent` until `flush`, which sends it to the source record's partition and
gives the delivery futures, so that the ack window can hold the record until the broker has its changelog. Of several values of a key
only the last is encoded, kept and sent.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple, cast

import faust
import structlog
from faust.types import TP

from export_service import metric_names as names
from export_service.ports import Publisher
from export_service.samples import Sample
from tables.rocksdb import ConfirmedStore, SharedOptions

Write = tuple[int, bytes, bytes]
"""Partition, key, value."""


class Unsent(NamedTuple):
    """A value, and what makes the table's bytes of (key, value)."""

    partition: int
    value: Any
    encode: Callable[[bytes, Any], bytes]


class ConfirmedTable(faust.Table):  # type: ignore[type-arg]
    """Bytes to bytes. Written with `put` only, while its agent iterates a record, on that record's partition (P11)."""

    logger = logging.getLogger("faust.tables")
    publisher: Publisher
    rocksdb: SharedOptions | None = None
    """Set: the table is kept in RocksDB, else in memory."""

    def put(self, key: bytes, value: Any, encode: Callable[[bytes, Any], bytes]) -> None:
        partition = self.partition_for_key(key)
        assert partition is not None
        self.unsent[key] = Unsent(int(partition), value, encode)

    def on_key_set(self, key: bytes, value: bytes) -> None:  # noqa: ARG002  # Faust's signature
        raise TypeError("this table is written with `put`")

    def on_key_del(self, key: bytes) -> None:
        self.on_key_set(key, b"")  # Faust would send it by itself

    @cached_property
    def unsent(self) -> dict[bytes, Unsent]:
        """What was put since the last flush. The table itself does not have it yet."""
        return {}

    def samples(self) -> Iterator[Sample]:
        entries = len(cast(Any, self.data).data) if self.rocksdb is None else self.disk.about()
        yield Sample(names.TABLE_ENTRIES, entries, (self.name,))
        yield Sample(names.TABLE_UNSENT, len(self.unsent), (self.name,))

    @cached_property
    def _under_way(self) -> set["asyncio.Future[Any]"]:
        return set()

    def drop(self, but: Collection[int] = ()) -> None:
        """Forget what was not sent, except in these partitions: its records come again, perhaps to somebody else."""
        for key in [key for key, unsent in self.unsent.items() if unsent.partition not in but]:
            del self.unsent[key]

    async def flush(self) -> list["asyncio.Future[Any]"]:
        """Send what was put since the last flush.

        The futures are done when the broker has that and all before it: records that come again after a rebalance find their values made,
        and these may still be on their way.
        """
        topic = self.changelog_topic.get_topic_name()
        for key in list(self.unsent):
            if (unsent := self.unsent.pop(key, None)) is None:
                continue  # dropped meanwhile
            number, raw = unsent.partition, unsent.encode(key, unsent.value)
            if self.rocksdb is None:
                self.data[key] = raw
            else:
                self.disk.put(number, key, raw)
            future = await self.publisher.send(topic, key, raw, partition=number)
            if self.rocksdb is not None:
                future.add_done_callback(partial(self._keep, (number, key, raw), self.disk.opened(number)))
            self._under_way.add(future)
            future.add_done_callback(self._under_way.discard)
        return list(self._under_way)

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

    def restore(self, tp: TP, records: Sequence[Any]) -> None:
        """What the changelog has next of one partition, in order."""
        if self.rocksdb is not None:
            return self.disk.restore(tp, records)
        store = cast(Any, self.data)
        for record in records:
            if record.value is None:
                store.data.pop(record.key, None)
                store._key_partition.pop(record.key, None)
            else:
                store.data[record.key] = record.value
                store._key_partition[record.key] = tp.partition
        return None

    async def on_changelog_event(self, event: Any) -> None:
        cast(Any, self.app).recovery.applied(event.message.tp, event.message.offset)

    def apply_changelog_batch(self, batch: Any) -> None:
        # Faust puts a record that was on its way when its partition went away into the table of the record before it (P15).
        recovery = cast(Any, self.app.tables).recovery
        ours = recovery.actives_for_table[self] | recovery.standbys_for_table[self]
        super().apply_changelog_batch([event for event in batch if event.message.tp in ours])

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0) -> None:
        # Whoever has a partition next folds what we put there and did not send: our writes would come after his.
        stays = {tp.partition for tp in assigned - newly_assigned}
        self.drop(stays)
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
