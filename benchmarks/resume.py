"""A plan worker is killed in the middle of a manifest of a million lines: when the next tasks are handed out, and what comes twice.

    ./dev benchmark resume [--files 1000000] [--at 500000] [--folder /dev/shm]

Connector and plan are real; this script stands in for the download workers, whose demand it says: as much as there is up to the place,
then some 2,500 files a second for ten seconds. Then kill -9, the worker starts again at once under its name in the consumer group, and the
rest is taken. At the end each task must have come, and the digest of the list that was told must be one. Needs nginx.
"""

import argparse
import asyncio
import json
import tempfile
import time
import uuid
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.parts import SyntheticSource, have, start_worker
from export_service.devstack import aws, stack
from export_service.messages import DownloadDemand, JobPlanned
from export_service.readers import read_batch, read_event
from export_service.settings import Settings, load
from streams.publisher import KafkaPublisher
from streams.topics import topics
from tests.kafka import records

_PACE, _PACE_SECONDS = 2_500, 10.0
_LOOK_SECONDS = 0.2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--at", type=int, default=500_000, help="tasks that are handed out before the kill")
    parser.add_argument("--folder", default="/dev/shm")
    options = parser.parse_args()
    if not have("nginx", packages="nginx-light"):
        return 1
    with tempfile.TemporaryDirectory(prefix="export-resume-", dir=options.folder) as folder:
        source, running = SyntheticSource(Path(folder)), asyncio.run(stack.up(Path(folder) / "stack"))
        try:
            source.write_list("list", options.files)
            env = running.env | {
                "EXPORT_CATALOG": f"{source.base}/lists/{{exportId}}.jsonl",
                "EXPORT_KAFKA_GROUP_INSTANCE_ID": "plan-1",
            }
            return asyncio.run(run(Path(folder) / "worker.log", env, options.files, options.at))
        finally:
            running.stop()
            source.close()


async def run(log: Path, env: dict[str, str], files: int, at: int) -> int:
    worker = start_worker(log, env, "connector,plan")
    settings = load(kafka={"bootstrap_servers": env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"]})
    text = json.dumps({"jobId": str(uuid.uuid4()), "exportId": "list", "userId": "bench"})
    aws.Aws(env["AWS_ENDPOINT"]).client("sqs").send_message(QueueUrl=env["EXPORT_QUEUE_URL"], MessageBody=text)
    async with Workers(settings) as workers:
        try:
            began = time.monotonic()
            while len(workers.had) < at:
                await workers.take(50_000)
            print(f"{len(workers.had):,} tasks were handed out in {time.monotonic() - began:.1f} s", flush=True)
            end = time.monotonic() + _PACE_SECONDS
            while time.monotonic() < end:
                await workers.take(int(_PACE * _LOOK_SECONDS))
            worker.kill()
            killed = time.monotonic()
            worker.wait()
            while await workers.take(0):
                pass
            before, workers.twice = len(workers.had), 0
            starting = asyncio.create_task(asyncio.to_thread(start_worker, log, env, "connector,plan"))
            starting.add_done_callback(lambda _: print(f"the worker was ready {time.monotonic() - killed:.1f} s after the kill"))
            while len(workers.had) + workers.twice == before:
                await workers.take(int(_PACE * _LOOK_SECONDS))
            first = time.monotonic() - killed
            worker = await starting
            while len(workers.had) < files:
                await workers.take(50_000)
            print(f"kill at {before:,}: the next tasks came after {first:.1f} s; {workers.twice:,} tasks came twice")
        finally:
            worker.kill()
            worker.wait()
    results = await records(settings.kafka.bootstrap_servers, topics(settings).results.name)
    said = [read_event(record.value or b"") for record in results]
    planned = {(event.total_tasks, event.plan_digest) for event in said if isinstance(event, JobPlanned)}
    if workers.had != set(range(files)) or {total for total, _ in planned} != {files} or len(planned) != 1:
        raise SystemExit(f"{len(workers.had):,} of {files:,} tasks came; planned: {planned}")
    return 0


class Workers:
    """In place of the download workers: says what they take, and notes what comes."""

    def __init__(self, settings: Settings) -> None:
        self._names = topics(settings)
        self._publisher = KafkaPublisher(settings)
        self._consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka.bootstrap_servers, auto_offset_reset="earliest")
        self._places = [TopicPartition(self._names.tasks.name, number) for number in range(self._names.tasks.partitions)]
        self.had: set[int] = set()
        self.twice = 0

    async def __aenter__(self) -> "Workers":
        await self._publisher.__aenter__()
        await self._consumer.start()
        self._consumer.assign(self._places)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()
        await self._publisher.__aexit__()

    async def take(self, tasks: int) -> int:
        """Say that there is room for so many more, and read for a moment; how many came."""
        read = {place.partition: await self._consumer.position(place) for place in self._places}
        if tasks:
            demand = DownloadDemand(worker="bench", read=read, window=tasks, waiting={})
            await (await self._publisher.send(self._names.demand.name, b"bench", demand.to_bytes()))
        came, end = 0, time.monotonic() + _LOOK_SECONDS
        while (left := end - time.monotonic()) > 0:
            for some in (await self._consumer.getmany(timeout_ms=int(left * 1000))).values():
                for record in some:
                    indices = {task.index for task in read_batch(record.value).tasks}
                    self.twice += len(indices & self.had)
                    self.had |= indices
                    came += len(indices)
        return came


if __name__ == "__main__":
    raise SystemExit(main())
