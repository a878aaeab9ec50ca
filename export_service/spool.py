"""A queue of records that may be longer than memory: small ones stay in memory, others go to a file that nobody sees."""

import os
import struct
import tempfile
from collections import deque
from pathlib import Path
from typing import NamedTuple

_IN_MEMORY = 128 * 1024
_HEAD = struct.Struct("<QQI32sI")


class Batch(NamedTuple):
    """Tasks from index `first` to before `end`, some of which may be left out. `so_far`: digest of all tasks before `end`."""

    first: int
    end: int
    tasks: int
    so_far: bytes
    record: bytes


class Spool:
    """Batches in order, written once and read once. `with` it: the file goes when it ends, also by a kill."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._memory: deque[Batch] = deque()
        """Before what is in the file."""
        self._bytes = self._read = self._written = 0
        self._fd: int | None = None

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def put(self, batch: Batch) -> None:
        """Raises OSError, if the disk is full for one: then nothing was put."""
        if self._read == self._written and self._bytes + len(batch.record) <= _IN_MEMORY:
            self._memory.append(batch)
            self._bytes += len(batch.record)
            return
        if self._fd is None:
            self._fd = _unseen(self._folder)
        data = memoryview(_HEAD.pack(*batch[:4], len(batch.record)) + batch.record)
        at = self._written
        while data:
            wrote = os.pwrite(self._fd, data, at)
            data, at = data[wrote:], at + wrote
        self._written = at

    def take(self) -> Batch | None:
        """The next one; None if there is none yet."""
        if self._memory:
            batch = self._memory.popleft()
            self._bytes -= len(batch.record)
            return batch
        if self._fd is None or self._read == self._written:
            return None
        first, end, tasks, so_far, length = _HEAD.unpack(os.pread(self._fd, _HEAD.size, self._read))
        record = os.pread(self._fd, length, self._read + _HEAD.size)
        self._read += _HEAD.size + length
        if self._read == self._written:
            # All of it is taken: whoever waits for room on the disk gets it from here.
            os.ftruncate(self._fd, 0)
            self._read = self._written = 0
        return Batch(first, end, tasks, so_far, record)


def _unseen(folder: Path) -> int:
    """A file without a name."""
    fd, path = tempfile.mkstemp(dir=folder)
    os.unlink(path)  # noqa: PTH108
    return fd
