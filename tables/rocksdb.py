"""A table store on RocksDB that is never ahead of its changelog.

Faust writes a value to RocksDB when it is set, before the broker has the changelog record. After a crash the local value would be there,
the event that replays would find itself already folded, and the changelog would never hear of it. Here a write waits in memory until the
broker has confirmed it, and goes to disk together with its changelog offset. So what is on disk is the changelog up to that offset.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from faust.stores.rocksdb import RocksDBOptions, Store
from faust.streams import current_event
from faust.types import TP
from rocksdict import BlockBasedOptions, Cache, Options, Rdict, WriteBatch, WriteBufferManager

_MIB = 1024 * 1024
CACHE_BYTES, WRITE_BUFFERS_BYTES = 32 * _MIB, 16 * _MIB
"""Of all partitions together: what is read from disk, and what is on its way there."""
_OPEN_FILES, _WRITE_BUFFER_BYTES = 64, 4 * _MIB
"""Of one partition of one table."""


class SharedOptions(RocksDBOptions):
    """The same on first open and on every later one (P16): rocksdict takes the column family's options from disk unless it is given them,
    and the block cache, the filter and the shared buffers are not on disk."""

    def __init__(self) -> None:
        super().__init__(use_rocksdict=True)
        self._cache, self._buffers = Cache(CACHE_BYTES), WriteBufferManager(WRITE_BUFFERS_BYTES, False)

    def as_options(self) -> Any:
        blocks = BlockBasedOptions()
        blocks.set_block_cache(self._cache)
        blocks.set_cache_index_and_filter_blocks(True)
        blocks.set_bloom_filter(10, False)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_max_open_files(_OPEN_FILES)
        options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
        options.set_max_write_buffer_number(2)
        options.set_write_buffer_manager(self._buffers)
        options.set_keep_log_file_num(2)
        options.set_block_based_table_factory(blocks)
        return options

    def open(self, path: Path, *, read_only: bool = False) -> Any:  # noqa: ARG002  # Faust's signature
        options = self.as_options()
        return Rdict(str(path), options=options, column_families={"default": options})


class _Unconfirmed:
    """The newest value of a key, and how many of its writes the broker has not confirmed."""

    __slots__ = ("value", "writes")

    def __init__(self) -> None:
        self.value = b""
        self.writes = 0


class ConfirmedStore(Store):
    """One RocksDB a partition. `confirmed` is to be called for each write, in the order of the changelog."""

    def __init__(self, url: Any, app: Any, table: Any, options: SharedOptions, **rest: Any) -> None:
        super().__init__(url, app, table, options={}, driver="rocksdict", **rest)
        self.rocksdb_options = options
        self._unconfirmed: dict[int, dict[bytes, _Unconfirmed]] = {}
        self._closed: Counter[int] = Counter()
        self.broken = False
        """A write failed: nothing more is written."""

    @property
    def basename(self) -> Path:
        """With the changelog's name: offsets of another topic mean nothing here."""
        return Path(self.table.changelog_topic.get_topic_name())

    def opened(self, partition: int) -> int:
        """Which time this is that the partition is ours."""
        return self._closed[partition]

    def confirmed(self, tp: TP, offset: int, key: bytes, value: bytes, opened: int) -> None:
        """`opened`: as it was when the write was sent."""
        db, waiting = self._dbs.get(tp.partition), self._unconfirmed.get(tp.partition)
        if self.broken or db is None or waiting is None or key not in waiting or opened != self.opened(tp.partition):
            return  # the partition went to another worker meanwhile, and may have come back
        # A recovery since then may have read further.
        if offset > int(db.get(self.offset_key) or -1):
            batch = WriteBatch(raw_mode=True)
            batch.put(key, value)
            batch.put(self.offset_key, str(offset).encode())
            db.write(batch)
        waiting[key].writes -= 1
        if not waiting[key].writes:
            del waiting[key]

    def restore(self, tp: TP, records: Sequence[Any]) -> None:
        """What the changelog has next, in order."""
        batch = WriteBatch(raw_mode=True)
        for record in records:
            if record.value is None:
                batch.delete(record.key)
            else:
                batch.put(record.key, record.value)
        batch.put(self.offset_key, str(records[-1].offset).encode())
        self._db_for_partition(tp.partition).write(batch)

    def about(self) -> int:
        """Entries, about: RocksDB's own estimate."""
        return sum(int(db.property_int_value("rocksdb.estimate-num-keys") or 0) for db in self._dbs.values())

    def forget(self, partition: int) -> None:
        """Delete what is on disk of a partition: it is read from the changelog again."""
        self._close(partition)
        shutil.rmtree(self.partition_path(partition), ignore_errors=True)

    def put(self, partition: int, key: bytes, value: bytes) -> None:
        """Faust's own way takes the partition from the record that is being iterated, if there is one."""
        entry = self._unconfirmed.setdefault(partition, {}).setdefault(key, _Unconfirmed())
        entry.value = value
        entry.writes += 1

    def _get(self, key: bytes) -> bytes | None:
        for waiting in self._waiting():
            if key in waiting:
                return waiting[key].value
        found: bytes | None = super()._get(key)
        return found

    def _contains(self, key: bytes) -> bool:
        return self._get(key) is not None

    def _waiting(self) -> Iterator[dict[bytes, _Unconfirmed]]:
        event = current_event()
        if event is None:
            yield from self._unconfirmed.values()
        elif (waiting := self._unconfirmed.get(event.message.partition)) is not None:
            yield waiting

    def revoke_partitions(self, table: Any, tps: set[TP]) -> None:
        for tp in tps:
            if tp.topic in table.changelog_topic.topics:
                self._close(tp.partition)

    async def stop(self) -> None:
        for partition in list(self._dbs):
            self._close(partition)

    def _close(self, partition: int) -> None:
        """Faust leaves it to the garbage collector, and the next owner on this machine waits for the lock."""
        self._unconfirmed.pop(partition, None)
        self._closed[partition] += 1
        self._key_index.clear()
        db = self._dbs.pop(partition, None)
        if db is not None:
            db.close()
