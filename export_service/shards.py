"""Outcomes of up to 8,192 tasks of a job as bitmaps, and their bytes in the changelog."""

import base64
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

SHARD_TASKS = 8192
_FORMAT = 1


class Shard(NamedTuple):
    """Outcomes of tasks [n * 8192, (n + 1) * 8192). The three bitmaps are disjoint; bit i is task n * 8192 + i.

    `size` is the bytes of the succeeded tasks together, `offset` that of the last event that changed the shard.
    """

    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    size: int = 0
    offset: int = -1

    def join(self, succeeded: int, failed: int, cancelled: int, size: int, offset: int) -> "Shard":
        """The better outcome of each task, by the event at `offset`; the same shard if that changes none.

        Args:
            size: bytes of tasks that had not succeeded before.
        """
        succeeded |= self.succeeded
        failed = (failed | self.failed) & ~succeeded
        cancelled = (cancelled | self.cancelled) & ~(succeeded | failed)
        if (succeeded, failed, cancelled) == self[:3]:
            return self
        return Shard(succeeded, failed, cancelled, self.size + size, offset)

    def within(self, tasks: int) -> "Shard":
        """Without tasks whose bit is `tasks` or more."""
        if tasks >= SHARD_TASKS:
            return self
        mask = (1 << max(tasks, 0)) - 1
        return Shard(self.succeeded & mask, self.failed & mask, self.cancelled & mask, self.size, self.offset)

    def kept(self) -> "Shard":
        """What the next run need not do again."""
        return Shard(self.succeeded, size=self.size, offset=self.offset)

    def tally(self) -> "ShardTally":
        return (self.succeeded.bit_count(), self.failed.bit_count(), self.cancelled.bit_count(), self.size)

    def to_bytes(self) -> bytes:
        """Format byte, which bitmaps follow (bits 0-2), 8 bytes each of size and offset, then of each bitmap 2 bytes
        of length, and the bits. All little endian."""
        present, parts = 0, [self.size.to_bytes(8, "little"), self.offset.to_bytes(8, "little", signed=True)]
        for bit, bitmap in enumerate((self.succeeded, self.failed, self.cancelled)):
            if bitmap:
                present |= 1 << bit
                length = (bitmap.bit_length() + 7) // 8
                parts.append(length.to_bytes(2, "little") + bitmap.to_bytes(length, "little"))
        return bytes((_FORMAT, present)) + b"".join(parts)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Raises ValueError for a format that this version does not know."""
        if len(raw) < 18 or raw[0] != _FORMAT:
            raise ValueError(f"shard format {raw[:1].hex() or 'empty'} is not known to this version")
        bitmaps, at = [0, 0, 0], 18
        for bit in range(3):
            if raw[1] >> bit & 1:
                length = int.from_bytes(raw[at : at + 2], "little")
                bitmaps[bit] = int.from_bytes(raw[at + 2 : at + 2 + length], "little")
                at += 2 + length
        size, offset = int.from_bytes(raw[2:10], "little"), int.from_bytes(raw[10:18], "little", signed=True)
        return cls(bitmaps[0], bitmaps[1], bitmaps[2], size, offset)


ShardTally = tuple[int, int, int, int]
"""Succeeded, failed, cancelled tasks, and bytes, of one shard."""

ShardKey = tuple[int, int]
"""(run, number)."""
Shards = Mapping[ShardKey, Shard]
ReadShard = Callable[[int, int], Shard]
"""(run, number) -> that shard of this job, an empty one if there is none."""


def bitmap_to_text(bitmap: int) -> str:
    """Base64 of its bits, little endian: how a bitmap travels in a JSON record."""
    return base64.b64encode(bitmap.to_bytes((bitmap.bit_length() + 7) // 8, "little")).decode()


def bitmap_from_text(text: str) -> int:
    return int.from_bytes(base64.b64decode(text), "little")
