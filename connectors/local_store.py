"""A folder as destination: a file appears under its name when it is whole.

Until then it has no name at all, where the file system can do that (Linux, O_TMPFILE), so that a worker that is killed leaves nothing
behind. Elsewhere, and for the moment in which an older file is replaced, it has a hidden name that ends in `.part`.

No fsync: this keeps files whole when the process dies, at any moment. When the machine loses power, the last seconds of files may
be missing from the folder although they were counted; EXPORT_DESTINATION=s3://… does not have this limit.
"""

import asyncio
import errno
import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import cached_property
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from connectors.part_file import PartFile, give_name, open_part, remove
from export_service.failures import TransferError
from export_service.ports import Digest

_BUFFER = 1024 * 1024
"""Bytes that are gathered before a write. Most files are smaller and are created, written and renamed by one call."""
_QUICK = 0.0003
"""Seconds. A file that takes less is written in the event loop: handing it to a thread costs as much. Creating a file takes
a millisecond on a busy disk, too long for the loop (measured: 40 % of its time), and 30 µs on a fast one."""
_SAMPLE = 32
_Result = TypeVar("_Result")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_UNNAMED = getattr(os, "O_TMPFILE", 0)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Pace:
    """Whether a folder's file system is quick enough to write small files in the event loop."""

    def __init__(self) -> None:
        self.quick = False
        self._seconds: list[float] = []

    def saw(self, seconds: float) -> None:
        """What one small file took."""
        self._seconds.append(seconds)
        if len(self._seconds) >= _SAMPLE:
            # Not the mean: on a busy machine one file in a hundred waits 10 ms for the processor. In a thread, most of it may be waiting
            # for the interpreter: the quickest quarter says what the file system needs.
            self.quick = sorted(self._seconds)[_SAMPLE // 2 if self.quick else _SAMPLE // 4] < _QUICK
            self._seconds.clear()


class _LocalSink:
    def __init__(self, folder: str, pool: Executor, pace: Pace, unnamed: bool) -> None:
        self._folder, self._pool, self._pace, self._unnamed = folder, pool, pace, unnamed
        self._fd: int | None = None
        self._waiting: bytes | bytearray = bytearray()

    @cached_property
    def _part(self) -> str:
        """Random, because two workers may write the same file after a rebalance; it is shorter than any limit."""
        return f"{self._folder}/.{os.urandom(8).hex()}.part"

    async def write(self, chunk: bytes) -> None:
        self._waiting += chunk
        if len(self._waiting) >= _BUFFER:
            data, self._waiting = self._waiting, bytearray()
            await self._run(self._append, data)

    async def finish(self, final: str) -> None:
        if self._fd is not None:
            await self._run(self._finish, final)
        elif self._pace.quick:
            self._pace.saw(self._whole(final))
        else:
            self._pace.saw(await self._run(self._whole, final))

    def put(self, content: bytes, final: str) -> None:
        self._waiting = content
        self._pace.saw(self._whole(final))

    async def abandon(self) -> None:
        await self._run(self.remove)

    def _append(self, data: bytes | bytearray) -> None:
        if self._fd is None:
            try:
                self._fd = self._open()
            except FileNotFoundError:
                # Somebody removed the folder since we made it.
                Path(self._folder).mkdir(parents=True, exist_ok=True)
                self._fd = self._open()
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def _open(self) -> int:
        return os.open(self._folder, os.O_WRONLY | _UNNAMED, 0o644) if self._unnamed else os.open(self._part, _NEW, 0o644)

    def _whole(self, final: str) -> float:
        started = time.perf_counter()
        self._finish(final)
        return time.perf_counter() - started

    def _finish(self, final: str) -> None:
        self._append(self._waiting)
        if self._unnamed and self._fd is not None:
            try:
                return give_name(self._fd, final)
            except FileExistsError:
                give_name(self._fd, self._part)
            finally:
                self._close()
        self._close()
        os.replace(self._part, final)  # noqa: PTH105  # a Path here costs as much as the rename
        return None

    def remove(self) -> None:
        self._close()
        if "_part" in self.__dict__:
            remove(self._part)

    def _close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    async def _run(self, call: Callable[..., _Result], *arguments: object) -> _Result:
        return await in_thread(self._pool, call, *arguments)


async def in_thread(pool: Executor, call: Callable[..., _Result], *arguments: object) -> _Result:
    """Cancelled or not, the thread is waited for, so that nobody removes or closes a file that is still being written."""
    running = asyncio.get_running_loop().run_in_executor(pool, call, *arguments)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


class LocalFolder:
    """The Destination port for a folder."""

    def __init__(self, root: Path, pool: Executor) -> None:
        self._root, self._pool = root, pool
        self._real_root: Path | None = None
        self._pace = Pace()
        self._folders: set[str] = set()
        self._unnamed = False

    def uri(self, name: str) -> str:
        return (self._root / name).absolute().as_uri()

    def copies(self, url: str) -> bool:  # noqa: ARG002
        return False

    def create(self, name: str, size: int | None = None, digest: Digest | None = None) -> "_LocalFile":  # noqa: ARG002
        folder, _, last = name.rpartition("/")
        path = self._folder(folder)
        return _LocalFile(name, path, last, self._pool, self._pace, self._unnamed)

    @property
    def quick(self) -> bool:
        return self._pace.quick

    def put(self, name: str, content: bytes) -> None:
        """Write a small file at once, in the event loop. Raises TransferError, OSError."""
        self.create(name).put(content)

    def part(self, name: str, url: str) -> "LocalPart":
        """For a large file: `name` while it comes from `url`."""
        folder, _, last = name.rpartition("/")
        return LocalPart(name, self._folder(folder), last, url, self._pool, self._unnamed)

    def _folder(self, folder: str) -> str:
        path = f"{self._root}/{folder}" if folder else str(self._root)
        if path not in self._folders:
            try:
                Path(path).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _failure(error, folder or str(self._root)) from None
            if self._real_root is None:
                self._real_root = self._root.resolve()
                self._unnamed = can_be_unnamed(path)
            if not Path(path).resolve().is_relative_to(self._real_root):
                raise TransferError("DestinationDenied", f"{folder!r} leads out of the destination by a link", retryable=False)
            self._folders.add(path)
        return path


class _LocalFile:
    """`async with` a file being written."""

    def __init__(self, name: str, folder: str, last: str, pool: Executor, pace: Pace, unnamed: bool) -> None:
        self._name, self._final = name, f"{folder}/{last}"
        self._sink = _LocalSink(folder, pool, pace, unnamed)

    def put(self, content: bytes) -> None:
        try:
            self._sink.put(content, self._final)
        except OSError:
            self._sink.remove()
            raise

    async def __aenter__(self) -> _LocalSink:
        return self._sink

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            try:
                return await self._sink.finish(self._final)
            except BaseException as failed:
                error = failed
        await self._sink.abandon()
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):
            raise _failure(error, self._name) from None
        raise error


class LocalPart:
    """A large file on its way to its name; connectors/part_file.py says how it outlives its writer."""

    def __init__(self, name: str, folder: str, last: str, url: str, pool: Executor, unnamed: bool) -> None:
        self._name, self._folder, self._last, self._pool, self._unnamed = name, folder, last, pool, unnamed
        self.path = f"{folder}/.{hashlib.sha256(f'{last} {url}'.encode()).hexdigest()[:16]}.part"
        self._own = f"{folder}/.{os.urandom(8).hex()}.part"
        self._file: PartFile | None = None

    async def run(self, call: Callable[..., _Result], *arguments: object) -> _Result:
        """In a thread. Raises TransferError."""
        try:
            return await in_thread(self._pool, call, *arguments)
        except OSError as error:
            raise _failure(error, self._name) from None

    def open(self, size: int, validator: str | None) -> PartFile:
        """What is here of it, if there is a validator; else an empty one. Nobody else writes to it."""
        Path(self._folder).mkdir(parents=True, exist_ok=True)  # somebody may have removed it since we made it
        self._file = open_part(self.path, size, validator) if self._unnamed and validator is not None else None
        if self._file is None:
            how = (self._folder, os.O_RDWR | _UNNAMED) if self._unnamed else (self._own, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            self._file = PartFile(os.open(*how, 0o644), size)
        return self._file

    def finish(self, part: PartFile) -> None:
        """Give it its final name, and leave no other."""
        if self._unnamed:
            try:
                part.name(self._own)
            except FileNotFoundError:
                text = f"{self._name!r}: another worker was done with it first"
                raise TransferError("DestinationFailed", text, retryable=True) from None
        else:
            part.trim()
        os.replace(self._own, f"{self._folder}/{self._last}")  # noqa: PTH105
        self.forget()

    def close(self, safe: int | None) -> None:
        """All before `safe` is here, for who goes on with it; None: as much as when it was opened."""
        if self._file is not None:
            try:
                self._file.note(self._file.kept if safe is None else safe)
            finally:
                self._file.close()
                remove(self._own)

    def forget(self) -> None:
        """Nobody goes on with it."""
        remove(self.path)


def can_be_unnamed(folder: str) -> bool:
    """Whether a file in this folder can be written first and named afterwards."""
    probe = f"{folder}/.{os.urandom(8).hex()}.part"
    try:
        fd = os.open(folder, os.O_WRONLY | _UNNAMED, 0o644)
    except OSError:
        return False
    try:
        give_name(fd, probe)
        os.unlink(probe)  # noqa: PTH108
    except OSError:
        return False  # no /proc
    finally:
        os.close(fd)
    return True


def folder_of(uri: str) -> Path:
    """`file:./rel/`, `file:///abs/` -> path."""
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise TransferError("DestinationDenied", f"{uri} names a host; write file:///folder/", retryable=False)
    return Path(unquote(parts.path))


def _failure(error: OSError, name: str) -> TransferError:
    reason = error.strerror or type(error).__name__
    if error.errno in _FULL:
        return TransferError("DiskFull", f"cannot write {name!r}: {reason}", retryable=True)
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.EIO):
        return TransferError("DestinationFailed", f"cannot write {name!r}: {reason}", retryable=True)
    return TransferError("DestinationDenied", f"cannot write {name!r}: {reason}", retryable=False)
