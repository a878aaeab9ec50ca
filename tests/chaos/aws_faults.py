"""A proxy in front of the AWS emulator that does what networks and throttled services do, as a seed says."""

import asyncio
import json
import random
import threading
from collections import Counter

import aiohttp
from aiohttp import web

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host"}


class AwsFaults:
    """Of each request, at most one fault, with `chances`. `lost`: the service took it, and its reply never arrives.

    A client that asks for nothing but `url` cannot tell this from a bad day of AWS.

    Attributes:
        only: operations that faults happen to, such as `SendTaskSuccess` or `s3.PUT`; none: all.
    """

    def __init__(self, target: str, seed: int | str, **chances: float) -> None:
        self._target, self._random = target, random.Random(seed)
        self.chances: dict[str, float] = dict.fromkeys(("throttle", "error", "lost", "slow"), 0) | chances
        self.only: frozenset[str] = frozenset()
        self.done: Counter[str] = Counter()
        """By fault and operation."""
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def heal(self) -> None:
        self.chances, self.only = dict.fromkeys(self.chances, 0), frozenset()

    def reseed(self, seed: str) -> None:
        self._random = random.Random(seed)

    def start(self) -> str:
        """Its URL."""
        self._thread.start()
        assert self._ready.wait(10)
        return self.url

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession(auto_decompress=False) as self._session:
            self._ready.set()
            await self._stop.wait()
        await runner.cleanup()

    def _draw(self, operation: str) -> str | None:
        if self.only and operation not in self.only:
            return None
        roll = self._random.random()
        for fault, chance in self.chances.items():
            if roll < chance:
                self.done[f"{fault} {operation}"] += 1
                return fault
            roll -= chance
        return None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        operation = request.headers.get("X-Amz-Target", f"s3.{request.method}").rsplit(".", 1)[-1]
        fault = self._draw(operation)
        body = await request.read()
        if fault == "throttle":
            said = {"__type": "ThrottlingException", "message": "Rate exceeded"}
            return web.Response(status=400, text=json.dumps(said), content_type="application/x-amz-json-1.0")
        if fault == "error":
            return web.Response(status=503, text=json.dumps({"__type": "ServiceUnavailable", "message": "later"}))
        if fault == "slow":
            await asyncio.sleep(self._random.uniform(0.2, 2))
        answer = await self.forward(request, operation, body)
        if fault == "lost" and request.transport is not None:
            request.transport.abort()
        return answer

    async def forward(self, request: web.Request, operation: str, body: bytes) -> web.Response:  # noqa: ARG002
        """For tests with a fault of their own: what the service says."""
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        async with self._session.request(request.method, self._target + request.raw_path, data=body, headers=headers) as answer:
            content = await answer.read()
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
        return web.Response(status=answer.status, body=content, headers=kept)
