"""Which store writes to which destination."""

from concurrent.futures import Executor
from urllib.parse import urlsplit

from connectors.local_store import LocalFolder, folder_of
from connectors.s3_client import S3Client
from connectors.s3_copies import S3Copies
from connectors.s3_store import S3Prefix
from export_service.failures import TransferError
from export_service.memory_share import MemoryShare
from export_service.ports import Destination

_KEPT = 1000


class StoreDestinations:
    """The Destinations port: folders by file:, whose writes run in `pool`, and prefixes by s3:.

    `memory`: of parts that wait to be sent to S3.
    """

    def __init__(self, s3: S3Client, pool: Executor, memory: MemoryShare) -> None:
        self._s3, self._pool, self._memory = s3, pool, memory
        self._copies = S3Copies(s3)
        self._known: dict[str, Destination] = {}

    def at(self, uri: str) -> Destination:
        if uri not in self._known:
            if len(self._known) >= _KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[uri] = self._make(uri)
        return self._known[uri]

    def quick_folder(self, uri: str) -> LocalFolder | None:
        """The folder at `uri`, if writing small files there is quicker than asking a thread to."""
        found = self._known.get(uri)
        return found if isinstance(found, LocalFolder) and found.quick else None

    def _make(self, uri: str) -> Destination:
        parts = urlsplit(uri)
        if parts.scheme == "file":
            return LocalFolder(folder_of(uri), self._pool)
        if parts.scheme == "s3" and parts.netloc:
            prefix = parts.path.lstrip("/")
            prefix = prefix if not prefix or prefix.endswith("/") else prefix + "/"
            return S3Prefix(self._s3, self._copies, parts.netloc, prefix, self._memory)
        raise TransferError("UnknownDestination", f"{uri!r} is neither file: nor s3://bucket/prefix/", retryable=False)
