"""How transfers run: most small files in the quick lane, all else as tasks of their own.

The quick lane is for a file from http(s) or S3 to a folder on a quick disk that is here in one piece: then the loop's callback checks it,
writes it and is done, without the coroutines that cost a task most of its time (measured: docs/decisions/0007). Whatever is not plain
(a failure, a redirect, a large file, a slow disk) goes on as a task, with the answer that is already here.
"""

import hashlib
import time

from connectors.curl import Response
from connectors.destinations import StoreDestinations
from connectors.local_store import LocalFolder
from connectors.sources import QuickOpening, Sources
from export_service.failures import TransferError
from export_service.messages import Outcome, Task
from export_service.transfer import Done, Limits, Stop, TransferTasks, check, result


class QuickLane:
    """The Transferring port."""

    def __init__(self, tasks: TransferTasks, sources: Sources, destinations: StoreDestinations, limits: Limits) -> None:
        self._tasks, self._sources, self._destinations, self._limits = tasks, sources, destinations, limits
        self._openings: set[QuickOpening] = set()

    def start(self, destination: str, task: Task, url: str, done: Done, tried: int = 0) -> Stop:
        folder = self._destinations.quick_folder(destination)
        if folder is None or (opening := self._sources.quick(url)) is None:
            return self._tasks.start(destination, task, url, done, tried)
        started = time.monotonic()
        stops: list[Stop] = [opening.close, lambda: self._openings.discard(opening)]

        def ready(response: Response) -> None:
            self._openings.discard(opening)
            if (body := response.body) is None or response.status != 200 or len(body) > self._limits.max_bytes:
                return stops.append(self._tasks.start(destination, task, url, done, tried, opening))
            announced = response.content_length
            opening.close()
            try:
                digest = self._keep(folder, task, announced, body)
            except (TransferError, OSError):
                return stops.append(self._tasks.start(destination, task, url, done, tried))
            return done(result(task, Outcome.SUCCEEDED, tried + 1, started, bytes=len(body), sha256=digest))

        opening.begin(self._limits.timeout_seconds, ready)
        self._openings.add(opening)

        def stop() -> None:
            # The task first, if it has become one: it has the opening then.
            for end in reversed(stops):
                end()

        return stop

    @property
    def running(self) -> int:
        """Transfers."""
        return len(self._openings) + self._tasks.running

    async def stop(self) -> None:
        for opening in self._openings:
            opening.close()
        self._openings.clear()
        await self._tasks.stop()

    def _keep(self, folder: LocalFolder, task: Task, announced: int | None, body: bytes) -> str:
        digest = hashlib.sha256(body).hexdigest()
        check(task, announced, len(body), digest)
        folder.put(task.name, body)
        return digest
