"""A folder as destination: a file appears under its name when it is whole, by rename.

No fsync: a rename keeps files whole when the process dies, at any moment. When the machine loses power, the last seconds of files may
be missing from the folder although they were counted; EXPORT_DESTINATION=s3://… does not have this limit.
"""

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from export_service.failures import TransferError

_BUFFER = 1024 * 1024
"""Bytes that are gathered before a write: most files are written by one call, and none holds the event loop for long."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _LocalSink:
    def __init__(self, fd: int, path: str) -> None:
        self._fd, self._path = fd, path
        self._waiting = bytearray()

    async def write(self, chunk: bytes) -> None:
        self._waiting += chunk
        if len(self._waiting) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        view = memoryview(self._waiting)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        finally:
            view.release()
        self._waiting = bytearray()


class LocalFolder:
    """The Destination port for a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._real_root: Path | None = None
        self._folders: set[str] = set()

    def uri(self, name: str) -> str:
        return (self._root / name).absolute().as_uri()

    @asynccontextmanager
    async def create(self, name: str, size: int | None = None) -> AsyncIterator[_LocalSink]:  # noqa: ARG002
        folder, _, last = name.rpartition("/")
        final = f"{self._folder(folder)}/{last}"
        # Random, because two workers may write the same file after a rebalance; the hidden name is shorter than any limit.
        part = f"{self._folder(folder)}/.{os.urandom(8).hex()}.part"
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                sink = _LocalSink(fd, part)
                yield sink
                sink.flush()
            finally:
                os.close(fd)
            os.replace(part, final)  # noqa: PTH105  # a Path here costs as much as the rename
        except BaseException as error:
            with suppress(OSError):
                os.unlink(part)  # noqa: PTH108
            if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                raise _failure(error, name) from None
            raise

    def _folder(self, folder: str) -> str:
        path = f"{self._root}/{folder}" if folder else str(self._root)
        if path not in self._folders:
            try:
                Path(path).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _failure(error, folder or str(self._root)) from None
            if self._real_root is None:
                self._real_root = self._root.resolve()
            if not Path(path).resolve().is_relative_to(self._real_root):
                raise TransferError("DestinationDenied", f"{folder!r} leads out of the destination by a link", retryable=False)
            self._folders.add(path)
        return path


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
