"""Many open jobs: memory of the tally, and how long its tables take to come back, beside Kafka Streams on the very same changelogs.

    ./dev benchmark recovery [--jobs 100000] [--results 1] [--rounds 3]

JobPlanned and some results of each job are folded, and what the tally writes for them is put on the changelogs; no job ends. Then each
starts anew, in turn, in every round: ours with tables in memory, ours in RocksDB with nothing on disk, ours in RocksDB with what it had,
Kafka Streams 4.3.1 in the same three ways (one stream thread; its stores' changelogs have the names of ours, so that it restores the same
bytes from the same topics). Once as the changelogs were written, and once when the broker has compacted them. At the end one of two
workers is killed, without standby tables and with them. Seconds of restoring are each one's own; from start to ready is from outside.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from benchmarks.parts import cpu_seconds, peak_mib, start_worker, table, wait
from benchmarks.tally import PEERS, java_peer
from export_service.devstack import jars, kafka, processes
from export_service.jobs import fold
from export_service.messages import JobEvent, JobInfo, JobPlanned, Outcome, TaskResult, TaskResults
from export_service.settings import Settings, load
from streams.publisher import KafkaPublisher
from streams.topics import declare, topics
from tables.decoded import Values
from tables.jobs import Jobs
from tables.shards import Shards
from tests.kafka import records

PARTITIONS, SESSION_SECONDS = 4, 6


@dataclass(frozen=True)
class Restored:
    """`ready`: seconds from the start of the process."""

    records: int
    seconds: float
    ready: float
    cpu: float
    peak: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--results", type=int, default=1, help="result records of each job, of four outcomes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--through-tally", action="store_true", help="the events go to `results` and the real tally folds them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="export-recovery-", dir="/dev/shm" if Path("/dev/shm").exists() else None) as folder:
        return run(Path(folder), options)


def run(folder: Path, options: argparse.Namespace) -> int:
    class_path = java_restore(jars.cache_folder().parent / "benchmark")
    port = processes.free_port()
    broker = kafka.launch(folder / "kafka", port, settings={"log.cleaner.backoff.ms": "500"})
    asyncio.run(kafka.ready(broker, port, folder / "kafka"))
    try:
        settings = load(kafka={"bootstrap_servers": f"127.0.0.1:{port}"}, topics={"partitions": PARTITIONS, "prefix": "bench."})
        bench = Bench(folder, settings, class_path)
        asyncio.run(bench.fill(options.jobs, options.results, through_tally=options.through_tally))
        if options.through_tally:
            bench.fold()
        asyncio.run(bench.say_size("as written"))
        bench.compare(options.rounds)
        asyncio.run(bench.compact(2 * options.jobs))
        asyncio.run(bench.say_size("compacted"))
        bench.compare(options.rounds)
        wait(lambda: asyncio.run(bench.empty()), 60, "the last member's leave", every=0.5)
        for standby in (False, True):
            bench.take_over(standby)
    finally:
        broker.terminate()
        broker.wait()
    return 0


class Bench:
    def __init__(self, folder: Path, settings: Settings, class_path: str) -> None:
        self._folder, self._settings, self._class_path = folder, settings, class_path
        self._names = topics(settings)
        self._changelogs = self._names.jobs_changelog.name, self._names.shards_changelog.name
        self._env = {
            "EXPORT_KAFKA_BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers, "EXPORT_TOPICS_PREFIX": settings.topics.prefix,
            "EXPORT_TOPICS_PARTITIONS": str(PARTITIONS), "EXPORT_TOPICS_DECLARE": "true",
            "EXPORT_KAFKA_SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS),
            "AWS_ENDPOINT": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
        }  # fmt: skip
        self._sent, self._group = 0, f"{settings.app_id}-tally"

    async def fill(self, jobs: int, results: int, *, through_tally: bool) -> None:
        """Some events of each job, to `results`; or to the changelogs what the fold makes of them, as the tally would write it."""
        await declare(self._settings, self._names.manifest())
        events, writes = list(_events(_job(0), results)), self._writes(results)
        async with KafkaPublisher(self._settings) as publisher:
            for number in range(jobs):
                old, new = _job(0).encode(), _job(number).encode()
                if through_tally:
                    for event in events:
                        await publisher.send(self._names.results.name, new, event.to_bytes().replace(old, new))
                    self._sent += len(events)
                    continue
                for topic, key, value in writes:
                    await publisher.send(topic, key.replace(old, new), value.replace(old, new), partition=number % PARTITIONS)

    def _writes(self, results: int) -> list[tuple[str, bytes, bytes]]:
        """Topic, key and value of all that is written for the first job. Other jobs' differ by the id only."""
        tables, writes = (_Noting(), _Noting()), []
        jobs_table, shards_table = Jobs(tables[0]), Shards(tables[1])
        for offset, event in enumerate(_events(_job(0), results)):
            step = fold(jobs_table.get(_job(0)), event, offset, datetime.now(UTC), partial(shards_table.get, _job(0)))
            jobs_table.put(_job(0), step.state)
            for (run, shard), changed in step.shards.items():
                shards_table.put(_job(0), run, shard, changed)
            for written, topic in zip(tables, self._changelogs, strict=True):
                writes += [(topic, key, written[key]) for key in written.written]
                written.written.clear()
        return writes

    def fold(self) -> None:
        """By the real tally, from `results`."""
        with self._worker("fold", "memory://") as worker:
            began = time.monotonic()
            wait(lambda: asyncio.run(self._committed()) >= self._sent, 3600, "the tally", every=1)
            taken = time.monotonic() - began
            print(
                f"the tally folded {self._sent:,} records in {taken:.0f} s; it had {peak_mib(worker.pid):,.0f} MiB at most",
                flush=True,
            )

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._settings.kafka.bootstrap_servers)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    async def _committed(self) -> int:
        async with self._admin() as admin:
            try:
                offsets = await admin.list_consumer_group_offsets(self._group)
            except KafkaError:
                return 0
        return sum(each.offset for each in offsets.values())

    async def empty(self) -> bool:
        """Whether nobody is in the group, of which theirs and ours must not be members at a time."""
        async with self._admin() as admin:
            try:
                answers = await admin.describe_consumer_groups([self._group])
            except KafkaError:
                return False  # the broker makes the topic of the groups when it is first asked
        return all(described[2] in ("Empty", "Dead") for answer in answers for described in answer.groups)

    async def say_size(self, what: str) -> None:
        found = await records(self._settings.kafka.bootstrap_servers, *self._changelogs)
        size = sum(len(record.key) + len(record.value) for record in found if record.value)
        keys = len({record.key for record in found})
        print(f"\nchangelogs {what}: {len(found):,} records of {keys:,} keys, {size / 1e6:,.0f} MB", flush=True)

    def compare(self, rounds: int) -> None:
        tools: dict[str, Callable[[], Restored]] = {
            "export-service, memory": lambda: self._ours("memory://", fresh=True),
            "export-service, RocksDB, nothing on disk": lambda: self._ours("rocksdb://", fresh=True),
            "export-service, RocksDB, a restart": lambda: self._ours("rocksdb://", fresh=False),
            "Kafka Streams, memory": lambda: self._streams("memory", fresh=True),
            "Kafka Streams, RocksDB, nothing on disk": lambda: self._streams("rocksdb", fresh=True),
            "Kafka Streams, RocksDB, a restart": lambda: self._streams("rocksdb", fresh=False),
        }
        found: dict[str, list[Restored]] = {name: [] for name in tools}
        for number in range(rounds):
            for name, start in tools.items():
                found[name].append(restored := start())
                print(f"round {number}: {name:<42} {restored}", flush=True)
        rows = []
        for name, some in found.items():
            seconds, ready, cpu, peak = (
                statistics.median(getattr(each, field) for each in some) for field in ("seconds", "ready", "cpu", "peak")
            )
            rows.append([name, f"{some[-1].records:,}", f"{seconds:.2f} s", f"{ready:.1f} s", f"{cpu:.1f} s", f"{peak:,.0f} MiB"])
        print("\n" + table(["", "records", "restoring", "start to ready", "CPU", "memory, peak"], rows), flush=True)

    def _ours(self, store: str, *, fresh: bool) -> Restored:
        wait(lambda: asyncio.run(self.empty()), 60, "the last member's leave", every=0.5)
        began = time.monotonic()
        with self._worker("ours", store, fresh=fresh) as worker:
            ready = time.monotonic() - began
            ((_, count, seconds),) = recoveries(self._log("ours"))
            return Restored(count, seconds, ready, cpu_seconds(worker.pid), peak_mib(worker.pid))

    def _streams(self, kind: str, *, fresh: bool) -> Restored:
        state, log = self._folder / "streams", self._log("streams")
        if fresh:
            shutil.rmtree(state, ignore_errors=True)
        log.unlink(missing_ok=True)
        wait(lambda: asyncio.run(self.empty()), 60, "the last member's leave", every=0.5)
        topic, began = self._names.results.name, time.monotonic()
        jvm = [kafka.java(), "-Xmx1g", "--enable-native-access=ALL-UNNAMED", "-cp", self._class_path, "StreamsRestore"]
        process = processes.start([*jvm, self._settings.kafka.bootstrap_servers, self._group, topic, str(state), kind], log)
        try:
            wait(lambda: b"restored" in log.read_bytes() or process.poll() is not None, 600, "Kafka Streams")
            ready = time.monotonic() - began
            if process.poll() is not None:
                raise SystemExit(f"Kafka Streams ended:\n{processes.tail(log)}")
            said = next(line.split() for line in log.read_text().splitlines() if line.startswith("restored"))
            return Restored(int(said[1]), float(said[2]), ready, cpu_seconds(process.pid), peak_mib(process.pid))
        finally:
            process.terminate()
            process.wait(60)

    async def compact(self, keys: int) -> None:
        """Returns when the broker has done it. A record of a key of its own begins a new segment, so that what is before is compacted."""
        config = {"cleanup.policy": "compact", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01"}
        async with self._admin() as admin:
            await admin.alter_configs(
                [ConfigResource(ConfigResourceType.TOPIC, topic, configs=config) for topic in self._changelogs]
            )
        async with KafkaPublisher(self._settings) as publisher, asyncio.timeout(300):
            while True:
                for topic in self._changelogs:
                    for partition in range(PARTITIONS):
                        await (await publisher.send(topic, b"roll", b"{}", partition=partition))
                await asyncio.sleep(5)
                if len(await records(self._settings.kafka.bootstrap_servers, *self._changelogs)) < keys * 1.05:
                    return

    def take_over(self, standby: bool) -> None:
        """One of two tallies is killed: until the other has all partitions, with their tables."""
        store = "rocksdb://" if standby else "memory://"
        more = {"EXPORT_TALLY_STANDBY_REPLICAS": "1"} if standby else {}
        with self._worker("a", store, more) as first, self._worker("b", store, more) as second:
            wait(lambda: bool(recoveries(self._log("a"))[1:]), 120, "a rebalance")
            if standby:
                wait(_Idle(first.pid, second.pid), 900, "the standby tables", every=1)
            before, killed = len(recoveries(self._log("b"))), time.time()
            first.kill()
            wait(lambda: len(recoveries(self._log("b"))) > before, 300, "the take-over")
            at, count, seconds = recoveries(self._log("b"))[-1]
        name = "with standby tables" if standby else "without"
        print(
            f"take-over {name}: {at - killed:.1f} s after the kill, of them {SESSION_SECONDS} the session timeout; "
            f"{count:,} records were read, in {seconds:.2f} s",
            flush=True,
        )

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    @contextmanager
    def _worker(
        self, name: str, store: str, more: Mapping[str, str] | None = None, *, fresh: bool = True
    ) -> Iterator["subprocess.Popen[bytes]"]:
        state, log = self._folder / f"state-{name}", self._log(name)
        if fresh:
            shutil.rmtree(state, ignore_errors=True)
        log.unlink(missing_ok=True)
        env = {"EXPORT_TALLY_STORE": store, "EXPORT_WORKER_STATE_DIR": str(state), **self._env, **(more or {})}
        worker = start_worker(log, env, "tally")
        try:
            yield worker
        finally:
            worker.terminate()
            worker.wait(60)


class _Noting(Values):
    """A table that says what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def __setitem__(self, key: bytes, value: bytes) -> None:
        super().__setitem__(key, value)
        self.written.append(key)


class _Idle:
    """Whether processes have done little for some looks."""

    def __init__(self, *pids: int) -> None:
        self._pids, self._used, self._looks = pids, cpu_seconds(*pids), 0

    def __call__(self) -> bool:
        used, self._used = self._used, cpu_seconds(*self._pids)
        self._looks = self._looks + 1 if self._used - used < 0.15 else 0
        return self._looks >= 5


def recoveries(log: Path) -> list[tuple[float, int, float]]:
    """(when it ended, records, seconds) of each that a worker tells of."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if '"Tables recovered"' in line]
    return [(datetime.fromisoformat(line["time"]).timestamp(), line["records"], line["seconds"]) for line in lines]


def _job(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def _events(job: str, results: int) -> Iterator[JobEvent]:
    """Its plan, and outcomes of four tasks a record; the last task never ends."""
    info = JobInfo(
        job_id=job,
        export_id="export-of-the-day",
        user_id="user-1",
        requested_at=datetime.now(UTC),
        destination=f"s3://exports/{job}/",
        has_task_token=True,
    )
    yield JobPlanned(job=info, total_tasks=4 * results + 1)
    for first in range(0, 4 * results, 4):
        yield TaskResults(job_id=job, attempt=1, results=tuple(map(_result, range(first, first + 4))))


def _result(index: int) -> TaskResult:
    name = f"{index:06d}.bin"
    return TaskResult(index=index, outcome=Outcome.SUCCEEDED, name=name, url=f"http://files/{name}", bytes=16_384, sha256="a" * 64)


def java_restore(bench: Path) -> str:
    """Compile it; its class path."""
    class_path = java_peer(bench)
    compiler = next(jar for jar in class_path.split(":") if Path(jar).name.startswith("ecj"))
    command = [
        kafka.java(),
        "-jar",
        compiler,
        "-21",
        "-nowarn",
        "-cp",
        class_path,
        "-d",
        str(bench / "classes"),
        str(PEERS / "StreamsRestore.java"),
    ]
    subprocess.run(command, check=True)
    return class_path


if __name__ == "__main__":
    raise SystemExit(main())
