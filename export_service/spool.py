"""A queue of records that may be longer than memory: small ones stay in memory, others go to a file that nobody sees."""

import struct
import tempfile
from pathlib import Path
from typing import NamedTuple

_IN_MEMORY = 128 * 1024
_HEAD = struct.Struct("<QQII")


class Batch(NamedTuple):
    """Tasks from index `first` to before `end`, some of which may be left out."""

    first: int
    end: int
    tasks: int
    record: bytes


class Spool:
    """Batches in order, written once and read once. `with` it: the file goes when it ends, also by a kill."""

    def __init__(self, folder: Path) -> None:
        self._file: tempfile.SpooledTemporaryFile[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(folder))  # noqa: SIM115 - closed in __exit__
        self._read = self._written = 0

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, batch: Batch) -> None:
        """Raises OSError if the disk is full."""
        self._file.seek(self._written)
        self._file.write(_HEAD.pack(batch.first, batch.end, batch.tasks, len(batch.record)) + batch.record)
        self._file.flush()  # or a full disk would be told to whoever takes
        self._written = self._file.tell()

    def take(self) -> Batch | None:
        """The next one; None if there is none yet."""
        if self._read == self._written:
            return None
        self._file.seek(self._read)
        first, end, tasks, length = _HEAD.unpack(self._file.read(_HEAD.size))
        record = self._file.read(length)
        self._read = self._file.tell()
        return Batch(first, end, tasks, record)
