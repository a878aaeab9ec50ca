"""Reads tables back from their changelogs, a fetch at a time, before Faust's recovery gets to them.

Faust takes each changelog record through its consumer thread, its queue and its buffers, 250 µs a record (measured); here a plain consumer
gives hundreds to a table at once. Faust's recovery then finds its tables at the changelogs' ends, has nothing left to read, and goes on
as ever; standby tables are still its own. The watch (`streams/recovery.py`) sees how far this is, as it sees Faust's.
"""

import asyncio
import logging
from collections import Counter
from typing import Any, cast

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from faust.tables.recovery import Recovery
from faust.types import TP

from export_service.backoff import until_available
from export_service.settings import Settings
from streams.kafka_client import connection, unreachable
from tables.confirmed import ConfirmedTable

_RECORDS = 2_000
"""Applied in one turn of the loop, which others share."""
_FETCH_BYTES = 4 * 1024 * 1024
"""Of one partition at a time."""


class BulkRecovery(Recovery):
    """Faust's recovery, with nothing left to do of what is long."""

    logger = logging.getLogger("faust.tables")
    settings: Settings

    async def _build_offsets(self, consumer: Any, tps: set[TP], destination: Counter[TP], title: str) -> None:
        await super()._build_offsets(consumer, tps, destination, title)
        if title == "active":
            try:
                await self._restore(destination)
            except Exception as error:
                # Faust would go on, or wait for ever (P15).
                cast(Any, self.app).recovery.failed(error)
                await asyncio.Event().wait()

    async def _wait(self, coro: Any, timeout: Any = None) -> None:  # noqa: ARG002  # Faust's signature
        # Faust ends a recovery that takes too long as if it had been done (P15). One that stands still is the watch's business.
        await super()._wait(coro)

    async def _restore(self, offsets: Counter[TP]) -> None:
        """Up to the ends that were read a moment ago. `offsets`: the last that each table has."""
        ends = {tp: self.active_highwaters[tp] + 1 for tp in self.active_tps}
        behind = {TopicPartition(*tp): tp for tp, end in ends.items() if offsets[tp] + 1 < end}
        if not behind:
            return
        watch = cast(Any, self.app).recovery
        began = watch.began
        consumer = await until_available(self._consumer, structlog.get_logger())
        try:
            consumer.assign(list(behind))
            for place, tp in behind.items():
                consumer.seek(place, offsets[tp] + 1)
            while behind:
                fetched = await consumer.getmany(timeout_ms=500, max_records=_RECORDS)
                if watch.began != began:
                    await asyncio.Event().wait()  # a rebalance is under way, which cancels this
                for place, records in fetched.items():
                    tp = behind[place]
                    cast(ConfirmedTable, self.tp_to_table[tp]).restore(tp, records)
                    offsets[tp] = records[-1].offset
                    watch.restored(len(records))
                for place in [place for place, tp in behind.items() if await consumer.position(place) >= ends[tp]]:
                    # The last offsets may have no records.
                    tp = behind.pop(place)
                    offsets[tp] = max(offsets[tp], ends[tp] - 1)
                consumer.pause(*(consumer.assignment() - behind.keys()))
                await asyncio.sleep(0)
        finally:
            await consumer.stop()

    async def _consumer(self) -> AIOKafkaConsumer:
        """Of no group. Raises Unavailable."""
        consumer = AIOKafkaConsumer(
            **connection(self.settings),
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=_FETCH_BYTES,
        )
        try:
            await consumer.start()
        except KafkaError as error:
            await consumer.stop()
            raise unreachable(self.settings, error) from None
        return consumer
