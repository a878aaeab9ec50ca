"""The files of a job as its request names them: one by one, in a manifest, or as a prefix. Read as a stream, checked, queries sealed."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from export_service import manifests, names
from export_service.backoff import until_available
from export_service.failures import PlanError
from export_service.messages import ExportRequested, Task
from export_service.name_set import NameSet
from export_service.ports import FileSource, Ledger
from export_service.prefixes import is_below
from export_service.sealing import seal, unseal, without_query

_File = tuple[int | str, str, str | None, str, int | None, str | None]
"""Where it is in its list (line, place or URL), URL without query, sealed query, name, size, SHA-256. No object: there may be millions."""


CHANGED = "the list of files changed while the job ran; send it as a new job, with a jobId of its own"


@dataclass
class Whole:
    """What is known of a list: `total` and `digest` when it was read to its end."""

    total: int = 0
    digest: str = ""
    """SHA-256 over the names and URLs of all tasks, in order. Two lists with the same are the same."""
    so_far: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    """The same of what was read until now."""


class FileLists:
    """`allowed_urls`: prefixes that the files of a manifest may have; none: any."""

    def __init__(self, sources: FileSource, ledger: Ledger, max_files: int, log: Any, allowed_urls: Sequence[str] = ()) -> None:
        self._sources, self._ledger, self._log = sources, ledger, log
        self._max_files, self._allowed_urls = max_files, allowed_urls

    async def tasks(
        self, request: ExportRequested, whole: Whole, first: int = 0, before: bytes | None = None
    ) -> AsyncIterator[Task]:
        """In order. Tells `whole` at the end.

        Args:
            first: index of the first task that is wanted. Those before it are read, for names that are used twice, but not made.
            before: the digest of those.

        Raises:
            PlanError: a mistake, of the person who sent the request; also if the tasks before `first` are others than they were.
            TransferError: the list cannot be read.
        """
        seen = NameSet()
        index, so_far = 0, hashlib.sha256()
        whole.so_far = so_far
        async for files in self._files(request):
            for where, url, query, name, size, checksum in files:
                digest = seen.add(name)
                if digest is None:
                    raise PlanError(f"{_shown(where, request)}: name {name!r} is used twice; give each file its own 'name'")
                if index >= self._max_files:
                    raise PlanError(f"more than {self._max_files} files; split the export, or raise EXPORT_PLAN_MAX_FILES")
                if index == first and before not in (None, so_far.digest()):
                    raise PlanError(CHANGED)
                so_far.update(digest + url.encode())
                if index >= first:
                    yield Task(index=index, url=url, query=query, name=name, size=size, sha256=checksum)
                index += 1
                if index % 256 == 0:
                    await asyncio.sleep(0)  # what is in memory already must not hold up everybody else
        if index < first or (index == first and before not in (None, so_far.digest())):
            raise PlanError(CHANGED)
        whole.total, whole.digest = index, so_far.hexdigest()

    async def _files(self, request: ExportRequested) -> AsyncIterator[Iterable[_File]]:
        if request.files is not None:
            yield ((n, spec.url, spec.query, spec.name, spec.size, spec.sha256) for n, spec in enumerate(request.files))
        elif request.manifest is not None:
            async for found in self._manifest(request):
                yield found
        elif request.prefix is not None:
            async for url, size in self._sources.list(request.prefix):
                try:
                    name = names.check_name(unquote(url.removeprefix(request.prefix)))
                except ValueError as error:
                    raise PlanError(f"{url}: name: {error}") from None
                yield ((url, url, None, name, size, None),)
        else:
            raise PlanError("the request names no files")

    async def _manifest(self, request: ExportRequested) -> AsyncIterator[Iterable[_File]]:
        manifest = request.manifest
        assert manifest is not None
        key = await until_available(lambda: self._ledger.seal_key(request.job.job_id), self._log)
        try:
            url = unseal(manifest.url, manifest.query, key)
        except ValueError as error:
            raise PlanError(str(error)) from None
        async with self._sources.open(url) as opened:
            try:
                async for entries in manifests.read(opened.chunks(), manifest.format):
                    yield self._named(manifest.url, entries, key)
            except PlanError as error:
                raise PlanError(f"manifest {manifest.url}, {error}") from None

    def _named(self, url: str, entries: Iterator[tuple[int, manifests.Entry]], key: bytes | None) -> Iterator[_File]:
        try:
            for line, entry in entries:
                yield self._file(line, entry, key)
        except PlanError as error:
            raise PlanError(f"manifest {url}, {error}") from None

    def _file(self, line: int, entry: manifests.Entry, key: bytes | None) -> _File:
        try:
            what = "name"
            name = names.check_name(names.derive_name(entry.url) if entry.name is None else entry.name)
            what = "url"
            names.check_url(entry.url)
        except ValueError as error:
            raise PlanError(f"line {line}: {what}: {error}") from None
        if self._allowed_urls and not is_below(entry.url, self._allowed_urls):
            raise PlanError(f"line {line}: url: is not below one of EXPORT_DOWNLOAD_ALLOWED_URLS")
        if key is None and without_query(entry.url) != entry.url:
            raise PlanError(f"line {line}: url has a query, and the job has no key in the ledger to keep it secret")
        bare, query = seal(entry.url, key) if key else (entry.url, None)
        return line, bare, query, name, entry.size, entry.sha256


def _shown(where: int | str, request: ExportRequested) -> str:
    if request.manifest is not None:
        return f"manifest {request.manifest.url}, line {where}"
    return f"files[{where}]" if request.files is not None else str(where)
