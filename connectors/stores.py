"""All that files come from and go to, for the processes that read or write some."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from connectors.destinations import StoreDestinations
from connectors.http_files import HttpFiles, open_http
from connectors.s3_files import S3Files
from connectors.sources import LocalFiles, Sources
from export_service.bandwidth import Bandwidth
from export_service.settings import Settings

_WRITERS = 16
"""Threads that write files: they wait for the file system, not for the processor."""


class Stores(NamedTuple):
    http: HttpFiles
    sources: Sources
    destinations: StoreDestinations


async def open_stores(settings: Settings, s3: Any, stack: AsyncExitStack, bandwidth: Bandwidth | None = None) -> Stores:
    """`s3`: an aioboto3 client. `bandwidth`: of all that is read; without it there is no limit."""
    bandwidth = bandwidth or Bandwidth()
    http = await stack.enter_async_context(open_http(settings.download, bandwidth))
    files = LocalFiles(settings.plan.file_root)
    sources = Sources({"http": http, "https": http, "s3": S3Files(s3, bandwidth), "file": files})
    writers = stack.enter_context(ThreadPoolExecutor(_WRITERS, thread_name_prefix="write"))
    return Stores(http, sources, StoreDestinations(s3, writers))
