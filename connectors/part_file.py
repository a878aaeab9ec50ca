"""A large file on its way into a folder, which whoever comes next goes on with: the next try, or the worker after one that was killed.

It has a hidden name that follows from its URL and its place. Behind the last byte stands a record of what it is of and how much of it is
here; that goes when the file gets its final name. The record is written after the bytes that it speaks of, so a killed process leaves
a true one. A machine that loses power does not: the record names the boot, and one of another is not believed.

One process writes it at a time: who does not get the lock downloads into a file of its own. Whoever is done first removes the hidden
name, whoever holds the lock: who is still writing then notices at its end, as only what has a name can be given another.
"""

import errno
import fcntl
import hashlib
import os
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_RECORD = struct.Struct("<8sQ32s")
_MAGIC = b"exp.part"
_TRIES = 5
_IOV = 512
_BUFFER = 256 * 1024
"""Bytes hashed at a time: they fit a processor's cache."""


class PartFile:
    """Its methods wait for the disk: call them in a thread.

    Attributes:
        identity: of the content, if there is to be a record.
        kept: bytes from the beginning that were here when it was opened.
        hashed: bytes from the beginning that the SHA-256 has.
    """

    def __init__(self, fd: int, size: int, identity: bytes | None = None) -> None:
        self._fd, self._size, self._identity = fd, size, identity
        self.kept = self._recorded() if identity is not None else 0
        self._digest, self.hashed = hashlib.sha256(), 0
        self._hashing = threading.Lock()
        if self.kept == 0:
            os.ftruncate(fd, 0)
        self.note(self.kept)

    @property
    def remembers(self) -> bool:
        """It has a name and a record, and can be opened again."""
        return self._identity is not None

    def write(self, at: int, blocks: Sequence[bytes], safe: int) -> int:
        """Bytes from `at` on, and how many they are; all before `safe` were written earlier."""
        begin = at
        for start in range(0, len(blocks), _IOV):
            some = blocks[start : start + _IOV]
            wanted = sum(map(len, some))
            written = os.pwritev(self._fd, some, at)
            while written < wanted:
                written += os.pwrite(self._fd, memoryview(b"".join(some))[written:], at + written)
            self._hash_on(at, some)
            at += wanted
        self.note(safe)
        return at - begin

    def note(self, safe: int) -> None:
        if self._identity is not None:
            os.pwrite(self._fd, _RECORD.pack(_MAGIC, safe, self._identity), self._size)

    def _hash_on(self, at: int, blocks: Sequence[bytes]) -> None:
        """What comes next is hashed while it is at hand; whoever else hashes just now gets to it later."""
        if self._hashing.acquire(blocking=False):
            try:
                for block in blocks if at == self.hashed else ():
                    self._digest.update(block)
                    self.hashed += len(block)
            finally:
                self._hashing.release()

    def hash_to(self, end: int) -> None:
        """All before `end` was written."""
        with self._hashing:
            buffer = memoryview(bytearray(min(_BUFFER, max(0, end - self.hashed))))
            while self.hashed < end:
                got = os.preadv(self._fd, [buffer[: end - self.hashed]], self.hashed)
                if not got:
                    raise OSError(errno.EIO, "is shorter than what was written")
                self._digest.update(buffer[:got])
                self.hashed += got

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def trim(self) -> None:
        """It is whole: the record goes, and does not come back."""
        self._identity = None
        os.ftruncate(self._fd, self._size)

    def name(self, path: str) -> None:
        """One more name, for one that is whole. Raises FileNotFoundError if somebody has removed its own."""
        self.trim()
        give_name(self._fd, path)

    def close(self) -> None:
        """Unlocks it, too."""
        os.close(self._fd)

    def _recorded(self) -> int:
        record = os.pread(self._fd, _RECORD.size + 1, self._size)
        if len(record) != _RECORD.size:
            return 0
        magic, kept, identity = _RECORD.unpack(record)
        return int(kept) if (magic, identity) == (_MAGIC, self._identity) and kept <= self._size else 0


def open_part(path: str, size: int, validator: str) -> PartFile | None:
    """The part at `path`, empty if it is of something else. None: somebody is writing it."""
    identity = hashlib.sha256(f"{size} {validator} {_boot()}".encode()).digest()
    for _ in range(_TRIES):
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_only_name(fd, path):
                return PartFile(fd, size, identity)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    return None


def _is_only_name(fd: int, path: str) -> bool:
    """It may have been removed since it was opened, or have its final name already, by a worker that died before it removed this one."""
    mine = os.fstat(fd)
    try:
        there = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return False
    if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
        return False
    if mine.st_nlink > 1:
        os.unlink(path)  # noqa: PTH108
    return mine.st_nlink == 1


def give_name(fd: int, path: str) -> None:
    # The folder's descriptor is not used, as the path is absolute; without one, Python does not follow the link in /proc.
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)


def remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)  # noqa: PTH108


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        # Nothing that another process would find: what is left is never believed.
        return os.urandom(16).hex()
