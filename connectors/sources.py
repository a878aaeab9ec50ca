"""Which source reads which URL scheme."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from connectors.curl import Response
from export_service.failures import PlanError, TransferError
from export_service.ports import Download, FileSource

_CHUNK = 256 * 1024


class QuickOpening(AbstractAsyncContextManager[Download], Protocol):
    """Of a file, one that need not be entered if it is small and here in one piece."""

    def begin(self, seconds: float, ready: Callable[[Response], None]) -> None:
        """Start now what `async with` would, and call `ready` when the body, or much of it, is here, or the GET has failed."""

    def close(self) -> None: ...


@runtime_checkable
class QuickSource(FileSource, Protocol):
    def quick(self, url: str) -> QuickOpening | None: ...


class Sources:
    """The FileSource port for all schemes, by the scheme of each URL."""

    def __init__(self, by_scheme: Mapping[str, FileSource]) -> None:
        self._by_scheme = by_scheme
        self._quick = {scheme: source.quick for scheme, source in by_scheme.items() if isinstance(source, QuickSource)}

    def open(self, url: str) -> AbstractAsyncContextManager[Download]:
        return self._source(url).open(url)

    def quick(self, url: str) -> QuickOpening | None:
        """One that can begin now."""
        quick = self._quick.get(url.partition(":")[0])
        return quick(url) if quick else None

    def list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        return self._source(prefix).list(prefix)

    def _source(self, url: str) -> FileSource:
        scheme = url.partition(":")[0].lower()
        if scheme not in self._by_scheme:
            known = ", ".join(sorted(self._by_scheme))
            raise TransferError("UnknownScheme", f"no source for {scheme!r}; known are {known}", retryable=False)
        return self._by_scheme[scheme]


class LocalDownload:
    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def size(self) -> int | None:
        return self._path.stat().st_size

    async def chunks(self) -> AsyncIterator[bytes]:
        with self._path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk


class LocalFiles:
    """file:// below one folder: for manifests only, and only if the operator named the folder."""

    def __init__(self, root: Path | None) -> None:
        self._root = root.resolve() if root else None

    @asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[LocalDownload]:
        if self._root is None:
            raise PlanError(f"manifest {url}: file:// is not allowed here; set EXPORT_PLAN_FILE_ROOT to the folder of manifests")
        path = Path(unquote(urlsplit(url).path)).resolve()
        if not path.is_relative_to(self._root):
            raise PlanError(f"manifest {url}: is not below EXPORT_PLAN_FILE_ROOT")
        if not path.is_file():
            raise PlanError(f"manifest {url}: there is no such file")
        yield LocalDownload(path)

    def list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        raise PlanError(f"prefix {prefix!r}: only s3:// has listings; name the files in a manifest instead")
