"""Counting task results, beside Kafka Streams and Quix Streams: one topic, one broker, one after the other. Prints medians and ratios.

    ./dev benchmark tally [--results 100000] [--batch 1] [--rounds 3]

Each keeps its tables in a store with a changelog, commits every second, and runs in one process with one stream thread. Ours folds events
into bitmaps, so that a repeat counts once, and confirms each changelog write before it commits; theirs add to three counters a job, which
is what one would write first (`benchmarks/peers/`). A round lasts from the moment the group has its partitions until it has committed
all of the topic; then the last values on the changelog are compared with what was put in. The first round warms up and is not counted.
Kafka Streams 4.3.1 is compiled here by Eclipse's compiler, both from Maven Central; Quix Streams comes from PyPI into a venv of its own.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from export_service.devstack import jars, kafka, processes
from export_service.messages import JobInfo, JobPlanned, Outcome, TaskResult, TaskResults
from export_service.settings import Settings, load
from export_service.shards import SHARD_TASKS
from streams.publisher import KafkaPublisher
from streams.topics import declare, topics
from tests.kafka import records

PARTITIONS, SIZE = 4, 16_384
PEERS = Path(__file__).parent / "peers"
QUIX = "quixstreams==3.28.1"
_JAVA = (
    ("org.apache.kafka", "kafka-streams", jars.KAFKA_VERSION),
    ("com.fasterxml.jackson.core", "jackson-databind", "2.19.0"),
    ("org.slf4j", "slf4j-nop", "2.0.17"),
    ("org.eclipse.jdt", "ecj", "3.42.0"),
)
Counts = dict[str, int]
"""Job -> results that were counted."""


@dataclass(frozen=True)
class Tool:
    """One way to count. `command`: (run, folder for its state) -> what to start; `group`, `changelog`: run -> their names."""

    name: str
    command: Callable[[str, Path], Sequence[str]]
    group: Callable[[str], str]
    changelog: Callable[[str], str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=int, default=100_000, help="in all")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--batch", type=int, default=1, help="results in one record")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="export-tally-", dir="/dev/shm" if Path("/dev/shm").exists() else None) as folder:
        return asyncio.run(run(Path(folder), options))


async def run(folder: Path, options: argparse.Namespace) -> int:
    bench = jars.cache_folder().parent / "benchmark"
    class_path = java_peer(bench)
    quix = quix_peer(bench)
    port = processes.free_port()
    broker = kafka.launch(folder / "kafka", port)
    await kafka.ready(broker, port, folder / "kafka")
    try:
        settings = load(kafka={"bootstrap_servers": f"127.0.0.1:{port}"}, topics={"partitions": PARTITIONS, "prefix": "bench."})
        expected = await fill(settings, options)
        tools = [ours(), kafka_streams(settings, class_path), quix_streams(settings, quix)]
        seconds: dict[str, list[float]] = {tool.name: [] for tool in tools}
        for number in range(options.rounds + 1):
            for tool in tools:
                taken = await measure(tool, settings, folder, expected)
                if number:
                    seconds[tool.name].append(taken)
                print(f"round {number}: {tool.name:<16} {options.results / taken:>9,.0f} results/s  {taken:.2f} s", flush=True)
        rates = {name: options.results / statistics.median(taken) for name, taken in seconds.items()}
        print(f"\nmedian of {options.rounds} rounds, {options.results} results, {options.batch} a record, {options.jobs} jobs")
        for name, rate in rates.items():
            print(f"  {name:<16} {rate:>9,.0f} results/s   export-service is {rates['export-service'] / rate:.2f} x of it")
    finally:
        broker.terminate()
        broker.wait()
    return 0


async def fill(settings: Settings, options: argparse.Namespace) -> Counts:
    """Put all results on the topic, the jobs taking turns."""
    names = topics(settings)
    await declare(settings, [names.results])
    jobs, each = [f"job-{number}" for number in range(options.jobs)], options.results // options.jobs
    async with KafkaPublisher(settings) as publisher:
        sent = []
        for job in jobs:
            info = JobInfo(job_id=job, export_id="e", user_id="u", requested_at=datetime.now(UTC), destination="file:///out/")
            plan = JobPlanned(job=info, total_tasks=each + 1)  # the last task never ends: no completion, no report
            sent.append(await publisher.send(names.results.name, job.encode(), plan.to_bytes()))
        for first in range(0, each, options.batch):
            # No record spans two shards; the pipeline's plans take care of that too.
            last = min(first + options.batch, each, (first // SHARD_TASKS + 1) * SHARD_TASKS)
            results = tuple(
                TaskResult(
                    index=index, outcome=Outcome.SUCCEEDED, name=f"{index:06d}.bin", url=f"http://files/{index:06d}.bin",
                    bytes=SIZE, sha256="a" * 64, duration_ms=12,
                )
                for index in range(first, last)
            )  # fmt: skip
            for job in jobs:
                record = TaskResults(job_id=job, attempt=1, results=results)
                sent.append(await publisher.send(names.results.name, job.encode(), record.to_bytes()))
        await asyncio.gather(*sent)
    return dict.fromkeys(jobs, each)


async def measure(tool: Tool, settings: Settings, folder: Path, expected: Counts) -> float:
    """Seconds from the assignment of partitions to the commit of the last record. Raises SystemExit if it counted otherwise."""
    run_id, state, log = f"bench-{uuid.uuid4().hex[:8]}", folder / "state", folder / "tool.log"
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir()
    env = {
        "EXPORT_KAFKA_BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers, "EXPORT_TOPICS_PREFIX": settings.topics.prefix,
        "EXPORT_TOPICS_PARTITIONS": str(PARTITIONS), "EXPORT_TOPICS_DECLARE": "true", "EXPORT_APP_ID": run_id,
        "EXPORT_WORKER_STATE_DIR": str(state), "EXPORT_LOG_FORMAT": "json", "AWS_ENDPOINT": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
    }  # fmt: skip
    process = processes.start(tool.command(run_id, state), log, env)
    try:
        taken = await _until_committed(tool.group(run_id), settings, lambda: process.poll() is None, log)
    finally:
        process.terminate()
        process.wait(timeout=60)
    # What is buffered when the offsets are committed is on the changelog before them, in all three.
    counted = await _counted(settings, tool.changelog(run_id))
    if counted != expected:
        wrong = [job for job in expected if counted.get(job) != expected[job]]
        raise SystemExit(f"{tool.name} counted {counted.get(wrong[0])} of {wrong[0]}, not {expected[wrong[0]]}")
    return taken


async def _until_committed(group: str, settings: Settings, alive: Callable[[], bool], log: Path) -> float:
    topic = topics(settings).results.name
    places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka.bootstrap_servers)
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap_servers)
    await consumer.start()
    await admin.start()
    try:
        ends, began, deadline = await consumer.end_offsets(places), 0.0, time.monotonic() + 900
        while time.monotonic() < deadline:
            if not alive():
                break
            try:
                if not began and await _stable(admin, group):
                    began = time.monotonic()
                committed = await admin.list_consumer_group_offsets(group)
            except KafkaError:
                committed = {}
            if began and all(committed.get(place) and committed[place].offset >= end for place, end in ends.items()):
                return time.monotonic() - began
            await asyncio.sleep(0.05)
        raise SystemExit(f"{group} did not come to the end:\n{processes.tail(log)}")
    finally:
        await admin.close()
        await consumer.stop()


async def _stable(admin: AIOKafkaAdminClient, group: str) -> bool:
    answers = await admin.describe_consumer_groups([group])
    return any(described[2] == "Stable" for answer in answers for described in answer.groups)


async def _counted(settings: Settings, changelog: str) -> Counts:
    """The last value of each job on its changelog."""
    last = {record.key: record.value for record in await records(settings.kafka.bootstrap_servers, changelog)}
    return Counter({_job(key): _count(value) for key, value in last.items() if key and b"job-" in key})


def _job(key: bytes) -> str:
    return "job-" + key.rpartition(b"job-")[2].split(b"|")[0].decode().strip('"')


def _count(value: bytes) -> int:
    if len(value) == 24:
        return int(struct.unpack(">q", value[:8])[0])
    found: Any = json.loads(value)
    return int(found[0] if isinstance(found, list) else sum(tally[0] for tally in found["tallies"]))


def ours() -> Tool:
    command = [sys.executable, "-m", "export_service", "worker", "--role", "tally"]
    return Tool("export-service", lambda *_: command, lambda run: f"{run}-tally", lambda run: f"{run}-tally-jobs-changelog")


def kafka_streams(settings: Settings, class_path: str) -> Tool:
    bootstrap, topic = settings.kafka.bootstrap_servers, topics(settings).results.name

    def command(run_id: str, state: Path) -> Sequence[str]:
        jvm = [kafka.java(), "-Xmx1g", "--enable-native-access=ALL-UNNAMED", "-cp", class_path, "StreamsTally"]
        return [*jvm, bootstrap, run_id, topic, str(state)]

    return Tool("Kafka Streams", command, lambda run: run, lambda run: f"{run}-jobs-changelog")


def quix_streams(settings: Settings, python: Path) -> Tool:
    bootstrap, topic = settings.kafka.bootstrap_servers, topics(settings).results.name

    def command(run_id: str, state: Path) -> Sequence[str]:
        return [str(python), str(PEERS / "quix_tally.py"), bootstrap, run_id, topic, str(state)]

    return Tool("Quix Streams", command, lambda run: run, lambda run: f"changelog__{run}--{topic}--default")


def java_peer(bench: Path) -> str:
    """Compile it; its class path."""
    found = jars.class_path(bench / "streams", partial(jars.download, artifacts=_JAVA))
    compiler = next(jar for jar in found if jar.name.startswith("ecj"))
    class_path = ":".join(map(str, found))
    source, classes = PEERS / "StreamsTally.java", bench / "classes"
    command = [kafka.java(), "-jar", str(compiler), "-21", "-nowarn", "-cp", class_path, "-d", str(classes), str(source)]
    subprocess.run(command, check=True)
    return f"{classes}:{class_path}"


def quix_peer(bench: Path) -> Path:
    """The Python of a venv that has it."""
    python = bench / "quix" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(bench / "quix")], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", QUIX], check=True)
    return python


if __name__ == "__main__":
    raise SystemExit(main())
