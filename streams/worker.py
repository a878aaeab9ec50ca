"""The only composition root: wires connectors, streams, agents and tables into a worker, and runs it until it is told to stop.

What roles share is opened in `streams/parts.py`.
Reading order is data flow: connector -> plan -> download -> tally -> callback, snapshot, watch.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import structlog

from agents.callback import Answerer, callback
from agents.demand import Demand
from agents.download import READ_AHEAD, Downloader
from agents.file_list import FileLists
from agents.limits import Shares
from agents.pacing import Pacer
from agents.plan import Planner, plan
from agents.report import Reporter
from agents.snapshot import snapshot
from agents.tally import Tally
from agents.watch import Watch
from connectors.fetch_processes import FetchProcesses
from connectors.intake import Intake
from export_service.backoff import until_available
from export_service.download_counts import DownloadCounts
from export_service.failures import ExportError, SettingsError, Unavailable
from export_service.requests import Policy
from export_service.settings import ROLES, Settings
from export_service.tally_counts import TallyCounts
from streams.app import REVOKE_SECONDS
from streams.followers import Following, cancellations, demands, limits
from streams.health import Health
from streams.observed import Observed
from streams.open_jobs import watch_open_jobs
from streams.parts import Parts
from streams.publisher import KafkaPublisher
from streams.results_reader import ResultsReader
from streams.role import FaustRole, confirmed_table
from streams.steps import beside
from streams.stuck_jobs import explain
from streams.together import MOST, Together
from streams.topics import ensure, topics
from tables.jobs import Jobs
from tables.shards import Shards

_GIVE_BACK_SECONDS = 5
"""For the calls to SQS of a connector whose drain is over."""
_LEAVE_SECONDS = 10.0
"""After the drain's deadline, to commit, to leave the groups and to stop Faust's threads."""
EXIT_FAILED = 1
"""Something unexpected: restart the worker, it replays what was not confirmed."""
EXIT_INTERRUPTED = 130
"""Told to stop a second time, or before it was ready."""


T = TypeVar("T")


class _ToldToStop(Exception):
    """Before the worker was ready."""


class Worker:
    """Some roles of one process. `fetchers`: see connectors/fetch_processes.py; the download role needs one or more."""

    def __init__(self, settings: Settings, roles: Collection[str], fetchers: Sequence[socket.socket]) -> None:
        self._settings, self._roles, self._fetchers = settings, roles, fetchers
        self._log: Any = structlog.get_logger()
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._health: Health | None = None

    def stop(self) -> None:
        self._stop.set()

    def _fatal(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            if self._health is not None:
                self._health.failure = error
            self._stop.set()

    async def run(self) -> int:
        """Run until `stop` or a fatal error. Exit code: 0, or the error's. Raises SettingsError if it is wrong from the start."""
        try:
            return await self._run()
        except _ToldToStop:
            if self._failure is not None:
                return self._say_why(self._failure)
            self._log.info("Worker stopped before it was ready")
            return EXIT_INTERRUPTED

    async def _run(self) -> int:
        if "connector" in self._roles and self._settings.queue.url is None:
            raise SettingsError("EXPORT_QUEUE_URL is not set: the connector role needs the SQS queue to read; set it or use --role")
        names = topics(self._settings)
        async with AsyncExitStack() as stack:
            observed = Observed(self._settings, list(self._roles))
            self._health = observed.health
            await observed.serve(stack)
            await self._unless_told(until_available(lambda: ensure(self._settings, names), self._log))
            connecting = until_available(lambda: stack.enter_async_context(KafkaPublisher(self._settings)), self._log)
            publisher = await self._unless_told(connecting)
            parts = await Parts.open(self._settings, self._roles, names, publisher, observed, self._fetchers, stack, self._log)
            observed.follow(names, publisher, parts.queue, self._fatal, stack, self._log)
            starts: list[Callable[[], Awaitable[None]]] = []
            stops: list[Callable[[], Awaitable[None]]] = []
            for name in ROLES:
                if name in self._roles:
                    start, stop = _BUILD[name](parts, self._fatal)
                    starts.append(start)
                    stops.append(stop)
            await self._unless_told(asyncio.gather(*(start() for start in starts)))
            self._log.info("Worker ready", roles=list(self._roles))
            self._health.started = True
            await self._stop.wait()
            self._health.draining = True
            if self._failure is not None:
                return self._say_why(self._failure)
            seconds = self._settings.worker.drain_seconds
            self._log.info("Worker draining", seconds=seconds)
            try:
                async with asyncio.timeout(seconds + _LEAVE_SECONDS):
                    # Side by side: one deadline for all. What a step hands on stays in its topic for the next worker.
                    for ended in await asyncio.gather(*(stop() for stop in stops), return_exceptions=True):
                        if ended is not None:
                            self._fatal(ended)
            except TimeoutError:
                self._log.error(
                    "Worker could not leave its groups in time; what is not confirmed will be replayed", seconds=seconds
                )
                return EXIT_FAILED
        if self._failure is not None:
            return self._say_why(self._failure)
        self._log.info("Worker stopped")
        return 0

    async def _unless_told(self, work: Awaitable[T]) -> T:
        """The work's value. Raises _ToldToStop if that, or a failure, comes first: without a broker a start would last for ever."""
        working: asyncio.Future[T] = asyncio.ensure_future(work)
        told = asyncio.create_task(self._stop.wait())
        both: list[asyncio.Future[Any]] = [working, told]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if working.done():
            return await working
        working.cancel()
        raise _ToldToStop

    def _say_why(self, failure: BaseException) -> int:
        """The exit code."""
        text = "Worker failed; start it again, what is not confirmed will be replayed"
        if isinstance(failure, Unavailable):
            self._log.error(f"{text}. {failure}", setting=failure.setting)
        elif isinstance(failure, SettingsError):
            self._log.error(f"Worker failed: {failure}")
        elif isinstance(failure, ExportError):
            self._log.error(f"{text}. {failure}")
        else:
            self._log.error(text, exc_info=failure)
        return failure.exit_code if isinstance(failure, ExportError) else EXIT_FAILED


Fatal = Callable[[BaseException], None]
StartStop = tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]


def _connector(parts: Parts, fatal: Fatal) -> StartStop:
    settings = parts.settings
    intake = Intake(
        parts.queue,
        parts.table,
        parts.publisher,
        parts.step_functions,
        parts.clock,
        Policy.of(settings),
        settings.queue,
        settings.callback,
        parts.metrics,
        requests_topic=parts.topics.requests.name,
        results_topic=parts.topics.results.name,
        dead_letters_topic=parts.topics.dead_letters.name,
        log=parts.log,
    )
    parts.metrics.read(intake.samples)
    own_stop = asyncio.Event()
    running: list[asyncio.Task[None]] = []

    async def start() -> None:
        running.append(beside(intake.run(own_stop), fatal))

    async def stop() -> None:
        own_stop.set()
        _, late = await asyncio.wait(running, timeout=settings.worker.drain_seconds)
        for task in late:
            # What Kafka has not confirmed by now goes back to the queue too.
            task.cancel()
            await asyncio.wait([task], timeout=_GIVE_BACK_SECONDS)

    return start, stop


def _plan(parts: Parts, fatal: Fatal) -> StartStop:
    settings, names = parts.settings, parts.topics
    role, pacer = parts.observed.role(FaustRole(settings, "plan", fatal, parts.metrics)), Pacer(parts.log)
    lists = FileLists(parts.sources, parts.table, settings.plan.max_files, parts.log, settings.download.allowed_urls)
    planner = Planner(lists, parts.table, parts.publisher, names, pacer, settings.worker.state_dir / role.name, parts.log)
    parts.metrics.read(planner.samples)
    role.consume(names.requests, parts.traces.step(plan(planner, parts.dead_letters)), concurrency=settings.worker.ack_window)

    async def drain(seconds: float) -> None:
        # Most plans are short; the others are for the next owner.
        if not await role.window.empty(min(1.0, seconds / 2)):
            await planner.drain(seconds / 2)

    role.drain_with(drain)
    following = Following(
        fatal,
        cancellations(settings, names.cancellations.name, planner.cancel, parts.log),
        demands(settings, names.demand.name, pacer.hear, parts.log),
    )

    async def start() -> None:
        await following.start()
        await role.start()

    async def stop() -> None:
        await role.stop()
        following.stop()

    return start, stop


def _download(parts: Parts, fatal: Fatal) -> StartStop:
    settings = parts.settings.download
    role = parts.observed.role(FaustRole(parts.settings, "download", fatal, parts.metrics, ack_window=READ_AHEAD))
    transfers = FetchProcesses(parts.fetchers, fatal)
    downloader = Downloader(
        transfers,
        parts.table,
        parts.publisher,
        parts.dead_letters,
        parts.topics,
        parts.log,
        settings,
        DownloadCounts(parts.settings.metrics.hosts),
        parts.settings.log.task_share,
    )
    parts.metrics.read(downloader.samples)
    role.consume(parts.topics.tasks, parts.traces.step(downloader.handle))
    role.drain_with(downloader.drain)
    role.held_by(lambda: downloader.full)

    def read() -> dict[int, int]:
        return {} if downloader.draining else role.read(parts.topics.tasks)

    demand = Demand(downloader, settings.concurrency, read, parts.publisher, parts.topics.demand.name)
    shares = Shares(transfers, downloader.hosts, demand.worker, parts.log)
    following = Following(
        fatal,
        cancellations(parts.settings, parts.topics.cancellations.name, downloader.cancel, parts.log),
        limits(parts.settings, parts.topics.limits.name, shares.set, parts.log),
        demands(parts.settings, parts.topics.demand.name, shares.hear, parts.log),
    )
    saying: list[asyncio.Task[None]] = []

    async def start() -> None:
        await transfers.connect()
        downloader.start(fatal)
        await following.start()
        await role.start()
        saying.extend(beside(each.run(), fatal) for each in (demand, shares))

    async def stop() -> None:
        await role.stop()
        following.stop()
        for each in saying:
            each.cancel()

    return start, stop


def _tally(parts: Parts, fatal: Fatal) -> StartStop:
    names, publisher = parts.topics, parts.publisher
    role = parts.observed.role(FaustRole(parts.settings, "tally", fatal, parts.metrics, ack_window=2 * MOST))
    role.app.revoke_seconds = REVOKE_SECONDS
    jobs = confirmed_table(role, publisher, "jobs", names.jobs_changelog.name)
    shards = confirmed_table(role, publisher, "shards", names.shards_changelog.name)

    async def flush() -> list["asyncio.Future[Any]"]:
        written = [*await jobs.flush(), *await shards.flush()]
        # Asked again: who was frozen in between may own nothing any more.
        return [*written, *(await counting.flush() if role.app.owns() else ())]

    every = timedelta(seconds=parts.settings.tally.snapshot_seconds)
    together = Together(flush, role.window, role.app.owns)
    counts = TallyCounts(parts.metrics)
    parts.metrics.read(counts.samples)
    counting = Tally(Jobs(jobs), Shards(shards), together, publisher, parts.dead_letters, names, every, counts)
    role.consume_many(names.results, parts.traces.steps(counting.handle))
    writing: list[asyncio.Task[None]] = []

    async def start() -> None:
        writing.append(beside(together.run(), fatal))
        await role.start()

    async def stop() -> None:
        await role.stop()
        writing[0].cancel()

    return start, stop


def _callback(parts: Parts, fatal: Fatal) -> StartStop:
    role = parts.observed.role(FaustRole(parts.settings, "callback", fatal, parts.metrics))
    answerer = Answerer(parts.step_functions, parts.table, parts.clock, parts.settings.callback, parts.metrics, parts.log)
    reader = ResultsReader(parts.settings, parts.topics.results.name)
    reporter = Reporter(reader.read, parts.destinations)
    handle = callback(answerer, reporter, parts.publisher, parts.dead_letters, parts.topics, parts.log)
    role.consume(parts.topics.completions, parts.traces.step(handle), concurrency=parts.settings.worker.ack_window)

    async def stop() -> None:
        await role.stop()
        await reader.close()

    return role.start, stop


def _snapshot(parts: Parts, fatal: Fatal) -> StartStop:
    role = parts.observed.role(FaustRole(parts.settings, "snapshot", fatal, parts.metrics))
    handle = snapshot(parts.table, parts.dead_letters, parts.log)
    role.consume(parts.topics.snapshots, parts.traces.step(handle), concurrency=parts.settings.worker.ack_window)
    return role.start, role.stop


def _watch(parts: Parts, fatal: Fatal) -> StartStop:
    names, settings = parts.topics, parts.settings
    watch = Watch(
        parts.step_functions,
        parts.table,
        parts.publisher,
        parts.clock,
        settings.watch,
        parts.metrics,
        partial(explain, settings, names),
        results_topic=names.results.name,
        log=parts.log,
    )
    parts.metrics.read(watch.samples)
    running: list[asyncio.Task[None]] = []

    async def start() -> None:
        running.append(beside(watch_open_jobs(settings, names.snapshots.name, watch, parts.log), fatal))

    async def stop() -> None:
        running[0].cancel()
        await asyncio.wait(running)

    return start, stop


_BUILD: dict[str, Callable[[Parts, Fatal], StartStop]] = {
    "connector": _connector,
    "plan": _plan,
    "download": _download,
    "tally": _tally,
    "callback": _callback,
    "snapshot": _snapshot,
    "watch": _watch,
}


async def run_until_signalled(settings: Settings, roles: Collection[str], fetchers: Sequence[socket.socket]) -> int:
    """SIGTERM and SIGINT drain; a second one ends at once."""
    worker = Worker(settings, roles, fetchers)
    loop = asyncio.get_running_loop()
    told = False

    def on_signal() -> None:
        nonlocal told
        if told:
            # Not SystemExit: the interpreter would wait for Faust's consumer threads, and they wait for this loop.
            os._exit(EXIT_INTERRUPTED)
        told = True
        worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return await worker.run()
