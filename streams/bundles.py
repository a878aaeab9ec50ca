"""Records of one partition travel through Faust together: one event for all that a fetch has brought of it, up to BUNDLE.

Faust spends some 100 us on each event, in loop turns, tasks and queues, whatever is in it (docs/decisions/0021). Its consumer asks a
scheduler in which order to hand on what was fetched; ours hands on lists. The step's agent takes them apart again (`streams/steps.py`).
Changelog records are Faust's own business and come one by one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from faust.transport.utils import DefaultSchedulingStrategy
from faust.types import TP, ConsumerMessage

BUNDLE = 256
"""Records. Partitions take turns after each."""
BUNDLES = 4
"""Of one topic, that wait for its agent. When most of them are there, no more is fetched."""

Records = list[Any]
"""aiokafka's ConsumerRecords, of one partition, in order."""


class Bundle(ConsumerMessage):
    """What Faust sees: a message without key and value."""

    __slots__ = ("records",)
    records: Records

    @classmethod
    def of(cls, tp: TP, records: Records, generation: int) -> "Bundle":
        last = records[-1]
        bundle = cls(
            tp.topic, tp.partition, last.offset, last.timestamp / 1000, 0, None, None, b"", None, tp=tp, generation_id=generation
        )
        bundle.records = records
        return bundle


class BundleScheduler(DefaultSchedulingStrategy):
    """`tables`: the app's, whose changelogs come one by one."""

    def __init__(self, tables: Any) -> None:
        self._tables = tables

    def iterate(self, records: Mapping[TP, Records]) -> Iterator[tuple[TP, Any]]:
        """Record, or list of records."""
        changelogs = self._tables.changelog_topics
        yield from super().iterate({tp: some for tp, some in records.items() if tp.topic in changelogs})
        sources = {tp: some for tp, some in records.items() if tp.topic not in changelogs}
        longest = max(map(len, sources.values()), default=0)
        for first in range(0, longest, BUNDLE):
            for tp, some in sources.items():
                if bundle := some[first : first + BUNDLE]:
                    yield tp, bundle
