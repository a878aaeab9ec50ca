"""All that files come from and go to, for the processes that read or write some."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from connectors.aws import Clients
from connectors.curl import Curl
from connectors.destinations import StoreDestinations
from connectors.http_files import open_http
from connectors.s3_client import S3Client
from connectors.s3_files import S3Files
from connectors.s3_uploads import MIB, PART
from connectors.sources import LocalFiles, Sources
from export_service.bandwidth import Bandwidth
from export_service.memory_share import MemoryShare
from export_service.settings import Settings

_WRITERS = 16
"""Threads that write files: they wait for the file system, not for the processor."""


class Stores(NamedTuple):
    sources: Sources
    destinations: StoreDestinations


async def open_stores(
    settings: Settings, clients: Clients, boto: Any, stack: AsyncExitStack, bandwidth: Bandwidth | None = None
) -> Stores:
    """`boto`: an aioboto3 client of S3. `bandwidth`: of all that is read; without it there is no limit."""
    own = settings.download
    bandwidth = bandwidth or Bandwidth()
    http = await stack.enter_async_context(open_http(own, bandwidth))
    # Connections of its own: S3's hosts are the operator's choice, and those of http are not.
    s3 = S3Client(await stack.enter_async_context(Curl(own, bandwidth, anywhere=True)), clients, boto)
    files = LocalFiles(settings.plan.file_root)
    sources = Sources({"http": http, "https": http, "s3": S3Files(s3), "file": files})
    writers = stack.enter_context(ThreadPoolExecutor(_WRITERS, thread_name_prefix="write"))
    memory = MemoryShare(max(2 * PART, own.upload_mib * MIB // own.processes))
    return Stores(sources, StoreDestinations(s3, writers, memory))
