"""One, two and four workers, on one broker and on three: what a file costs which part, and whether that stays the same. Prints a table.

    ./dev benchmark scale [--workers 1,2,4] [--brokers 1,3] [--files 10000] [--folder /dev/shm]

All parts run on this machine, so more workers do not make it faster than its processors are: what is looked at is the cost of a file,
which sizes a deployment (docs/scaling.md). nginx answers any path with 100 bytes; files go to a RAM disk; several jobs run at a time.
With three brokers every topic has three copies, two of which must confirm. Each set of workers has done a job before. Needs nginx.
"""

import argparse
import asyncio
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.growth import export
from benchmarks.parts import SyntheticSource, children, cpu_seconds, have, start_worker, table
from export_service.devstack import aws, processes, stack
from tests.chaos.brokers import Brokers

_JOBS = 4
"""At a time, from one user each would be."""
Row = list[str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--brokers", default="1,3")
    parser.add_argument("--files", type=int, default=10_000, help="of each of four jobs")
    parser.add_argument("--folder", default="/dev/shm")
    options = parser.parse_args()
    if not have("nginx", packages="nginx-light"):
        return 1
    rows: list[Row] = []
    for brokers in map(int, options.brokers.split(",")):
        with tempfile.TemporaryDirectory(prefix="export-scale-", dir=options.folder) as folder:
            rows += run(Path(folder), brokers, list(map(int, options.workers.split(","))), options.files)
    head = [
        "brokers",
        "workers",
        "files/s",
        "CPU us a file",
        "workers",
        "fetch processes",
        "brokers",
        "emulator",
        "nginx",
        "processors busy",
    ]
    print("\n" + table(head, rows))
    return 0


def run(folder: Path, nodes: int, workers: list[int], files: int) -> list[Row]:
    source, brokers = SyntheticSource(folder), Brokers(folder / "kafka", nodes)
    port = processes.free_port()
    emulator = aws.launch(folder, port)
    rows = []
    try:
        brokers.start()
        asyncio.run(aws.ready(emulator, port, folder))
        endpoint = f"http://127.0.0.1:{port}"
        env = stack.environment(folder, 0, endpoint, aws.Aws(endpoint).provision()) | {
            "EXPORT_KAFKA_BOOTSTRAP_SERVERS": brokers.direct,
            "EXPORT_KAFKA_REPLICATION_FACTOR": str(nodes),
            "EXPORT_CATALOG": f"{source.base}/lists/{{exportId}}.jsonl",
            "EXPORT_DESTINATION": (folder / "out").as_uri() + "/{jobId}/",
        }
        running = stack.Stack(folder, env=env)
        for name, size in (("warm", 1000), ("measured", files)):
            source.write_list(name, size)
        for count in workers:
            rows.append(measure(folder, running, source, brokers, emulator.pid, count, files))
            print(f"{nodes} brokers, {count} workers: {rows[-1]}", flush=True)
    finally:
        brokers.close()
        emulator.terminate()
        emulator.wait()
        source.close()
    return rows


def measure(
    folder: Path, running: stack.Stack, source: SyntheticSource, brokers: Brokers, emulator: int, count: int, files: int
) -> Row:
    started = []
    try:
        for number in range(count):
            state = {"EXPORT_WORKER_STATE_DIR": str(folder / f"state-{number}")}
            started.append(start_worker(folder / f"worker-{number}.log", running.env | state))
        pids = {
            "workers": [worker.pid for worker in started],
            "fetch": [child for worker in started for child in children(worker.pid)],
            "brokers": [process.pid for process in brokers._processes.values()],
            "emulator": [emulator],
            "nginx": [source.pid],
        }
        export(folder, running, "warm", 1000)
        before, began = {name: cpu_seconds(*some) for name, some in pids.items()}, time.monotonic()
        with ThreadPoolExecutor(_JOBS) as pool:
            list(pool.map(partial(export, folder, running, "measured"), [files] * _JOBS))
        taken = time.monotonic() - began
        used = {name: cpu_seconds(*some) - before[name] for name, some in pids.items()}
    finally:
        for worker in started:
            worker.terminate()
        for worker in started:
            worker.wait(60)
    done = files * _JOBS
    each = [f"{seconds / done * 1e6:,.0f}" for seconds in used.values()]
    total = sum(used.values())
    return [
        str(len(pids["brokers"])), str(count), f"{done / taken:,.0f}", f"{total / done * 1e6:,.0f}", *each,
        f"{total / taken:.2f} of {os.cpu_count()}",
    ]  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
