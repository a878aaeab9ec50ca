"""The files of a job as its request names them: one by one, in a manifest, or as a prefix. Read as a stream, checked, queries sealed."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from export_service import manifests, names
from export_service.backoff import until_available
from export_service.failures import PlanError
from export_service.messages import ExportRequested, FileSpec, Task
from export_service.ports import FileSource, Ledger
from export_service.prefixes import is_below
from export_service.sealing import seal, unseal, without_query


@dataclass
class Whole:
    """What is known of a list that was read to its end."""

    total: int = 0
    digest: str = ""
    """SHA-256 over the names and URLs of all tasks, in order. Two lists with the same are the same."""


class FileLists:
    """`allowed_urls`: prefixes that the files of a manifest may have; none: any."""

    def __init__(self, sources: FileSource, ledger: Ledger, max_files: int, log: Any, allowed_urls: Sequence[str] = ()) -> None:
        self._sources, self._ledger, self._log = sources, ledger, log
        self._max_files, self._allowed_urls = max_files, allowed_urls

    async def tasks(self, request: ExportRequested, whole: Whole) -> AsyncIterator[Task]:
        """In order. Tells `whole` at the end.

        Raises:
            PlanError: a mistake, of the person who sent the request.
            TransferError: the list cannot be read.
        """
        seen: set[bytes] = set()
        index, sha256 = 0, hashlib.sha256()
        async for where, spec in self._files(request):
            # Eight bytes a name instead of the name: a job of five million files fits; a false match is one in 10^6 such jobs.
            digest = hashlib.blake2b(spec.name.encode(), digest_size=8).digest()
            if digest in seen:
                raise PlanError(f"{where}: name {spec.name!r} is used twice; give each file its own 'name'")
            if index >= self._max_files:
                raise PlanError(f"more than {self._max_files} files; split the export, or raise EXPORT_PLAN_MAX_FILES")
            seen.add(digest)
            sha256.update(digest + spec.url.encode())
            yield Task(index=index, url=spec.url, query=spec.query, name=spec.name, size=spec.size, sha256=spec.sha256)
            index += 1
        whole.total, whole.digest = index, sha256.hexdigest()

    async def _files(self, request: ExportRequested) -> AsyncIterator[tuple[str, FileSpec]]:
        if request.files is not None:
            for number, spec in enumerate(request.files):
                yield f"files[{number}]", spec
        elif request.manifest is not None:
            async for found in self._manifest(request):
                yield found
        elif request.prefix is not None:
            async for url, size in self._sources.list(request.prefix):
                yield url, FileSpec(url=url, name=_name(url, None, url.removeprefix(request.prefix)), size=size)
        else:
            raise PlanError("the request names no files")

    async def _manifest(self, request: ExportRequested) -> AsyncIterator[tuple[str, FileSpec]]:
        manifest = request.manifest
        assert manifest is not None
        key = await until_available(lambda: self._ledger.seal_key(request.job.job_id), self._log)
        try:
            url = unseal(manifest.url, manifest.query, key)
        except ValueError as error:
            raise PlanError(str(error)) from None
        async with self._sources.open(url) as opened:
            try:
                async for line, entry in manifests.read(opened.chunks(), manifest.format):
                    where = f"manifest {manifest.url}, line {line}"
                    name = _name(where, entry.name, names.derive_name(entry.url) if entry.name is None else "")
                    try:
                        names.check_url(entry.url)
                    except ValueError as error:
                        raise PlanError(f"{where}: url: {error}") from None
                    if self._allowed_urls and not is_below(entry.url, self._allowed_urls):
                        raise PlanError(f"{where}: url: is not below one of EXPORT_DOWNLOAD_ALLOWED_URLS")
                    if key is None and without_query(entry.url) != entry.url:
                        raise PlanError(f"{where}: url has a query, and the job has no key in the ledger to keep it secret")
                    bare, query = seal(entry.url, key) if key else (entry.url, None)
                    yield where, FileSpec(url=bare, query=query, name=name, size=entry.size, sha256=entry.sha256)
            except PlanError as error:
                message = str(error)
                raise PlanError(message if message.startswith("manifest") else f"manifest {manifest.url}, {message}") from None


def _name(where: str, given: str | None, derived: str) -> str:
    try:
        return names.check_name(given if given is not None else derived)
    except ValueError as error:
        raise PlanError(f"{where}: name: {error}") from None
