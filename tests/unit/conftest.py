"""What several modules of tests use."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from connectors.fetcher import open_lane
from connectors.lanes import QuickLane
from export_service.messages import Task, TaskResult
from export_service.settings import load
from export_service.transfer import Busy
from tests.unit.s3_server import KEY, REGION, SECRET, S3Server


class S3Bench:
    """A strict S3, and what a fetch process makes of it."""

    def __init__(self, server: S3Server, lane: QuickLane, folder: Path) -> None:
        self.server, self.lane, self.folder, self.destinations = server, lane, folder, lane._destinations

    async def run(self, url: str, to: str = "s3://target/p/", name: str = "f", **fields: Any) -> TaskResult:
        done: asyncio.Future[TaskResult | Busy] = asyncio.get_running_loop().create_future()
        self.lane.start(to, Task(index=0, url=url, name=name, **fields), url, done.set_result)
        ended = await asyncio.wait_for(done, 30)
        assert isinstance(ended, TaskResult)
        assert SECRET not in ended.to_bytes().decode()
        return ended

    async def write(self, body: bytes, size: int | None, key: str = "f") -> None:
        async with self.destinations.at("s3://target/p/").create(key, size) as sink:
            for first in range(0, len(body), 700_001):
                await sink.write(body[first : first + 700_001])

    @property
    def here(self) -> bytes:
        assert not self.server.uploads, "an upload is left"
        return self.server.objects["target/p/f"].body


@pytest.fixture
async def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3Bench]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server, fatal = S3Server(), list[BaseException]()
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(server.serving())
        limits = {"attempts": 3, "timeout_seconds": 20, "upload_mib": 24, "allowed_networks": "127.0.0.1"}
        settings = load(aws={"endpoint": endpoint, "region": REGION}, download=limits)
        lane = await open_lane(settings, stack, fatal.append)
        yield S3Bench(server, lane, tmp_path)
        await lane.stop()
    assert not fatal


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
