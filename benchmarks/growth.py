"""Jobs of a thousand to a million files: what one task costs, and what a job of a million needs. Prints a table.

    ./dev benchmark growth [--sizes 1000,10000,100000,1000000] [--folder /dev/shm]

Each size has a stack and a worker of its own, which has done a job of 1,000 before. nginx answers any path with 100 bytes; the files go to
a RAM disk (4 KiB each). A job lasts from StartExecution to SUCCEEDED, as the state machine says. Small jobs run several times. Counted
are processor time (from /proc), the worker's greatest memory, and what is on the changelogs: record by record as a reader finds it, and
the broker's segment files as they are on disk. Files and report lines are counted before anything is printed. Needs nginx.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from benchmarks.parts import BODY, SyntheticSource, children, cpu_seconds, have, peak_mib, start_worker, table
from export_service.devstack import aws, stack
from export_service.settings import load
from streams.topics import topics
from tests.kafka import records

_LEAST = 5_000
"""Tasks of all repetitions of one size together: processor time is counted in hundredths of a second."""


@dataclass(frozen=True)
class Figures:
    """Of one size; seconds and bytes are of all its tasks."""

    files: int
    seconds: float
    cpu: dict[str, float]
    peak: dict[str, float]
    changelog: int
    on_disk: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,100000,1000000")
    parser.add_argument("--folder", default="/dev/shm")
    options = parser.parse_args()
    if not have("nginx", packages="nginx-light"):
        return 1
    found = []
    for size in map(int, options.sizes.split(",")):
        with tempfile.TemporaryDirectory(prefix="export-growth-", dir=options.folder) as folder:
            found.append(measure(Path(folder), size))
    head = ["files", "seconds", "files/s", "CPU us a file", "of it worker", "fetch", "broker", "worker peak", "fetch peak",
            "changelog bytes a file", "on the broker's disk"]  # fmt: skip
    print("\n" + table(head, [_row(figures) for figures in found]))
    costs = {
        "CPU": [sum(each.cpu.values()) / each.files for each in found],
        "CPU of worker and fetch process": [(each.cpu["worker"] + each.cpu["fetch"]) / each.files for each in found],
        "wall": [each.seconds / each.files for each in found],
    }
    for what, cost in costs.items():
        print(f"{what} a file, largest job to smallest: {cost[-1] / cost[0]:.2f}; most to least: {max(cost) / min(cost):.2f}")
    return 0


def _row(figures: Figures) -> list[str]:
    def each(cpu: float) -> str:
        return f"{cpu / figures.files * 1e6:,.0f}"

    cpu, peak = figures.cpu, figures.peak
    return [
        f"{figures.files:,}", f"{figures.seconds:.1f}", f"{figures.files / figures.seconds:,.0f}", each(sum(cpu.values())),
        each(cpu["worker"]), each(cpu["fetch"]), each(cpu["broker"]), f"{peak['worker']:.0f} MiB", f"{peak['fetch']:.0f} MiB",
        f"{figures.changelog / figures.files:.1f}", f"{figures.on_disk / figures.files:.1f}",
    ]  # fmt: skip


def measure(folder: Path, size: int) -> Figures:
    repeat = max(1, _LEAST // size)
    source = SyntheticSource(folder)
    running = asyncio.run(stack.up(folder / "stack"))
    worker = None
    try:
        for name, files in (("warm", 1000), ("measured", size)):
            source.write_list(name, files)
        env = running.env | {
            "EXPORT_CATALOG": f"{source.base}/lists/{{exportId}}.jsonl",
            "EXPORT_DESTINATION": (folder / "out").as_uri() + "/{jobId}/",
            "EXPORT_TOPICS_TASK_PARTITIONS": "4",
        }
        worker = start_worker(folder / "worker.log", env)
        (fetcher,) = children(worker.pid)
        broker, emulator = (service.pid for service in running.services)
        pids = {
            "worker": worker.pid,
            "fetch": fetcher,
            "broker": broker,
            "emulator": emulator,
            "nginx": source.pid,
        }
        export(folder, running, "warm", 1000)
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        changelog = asyncio.run(changelog_bytes(env))
        for name in ("worker", "fetch"):
            peak_mib(pids[name], reset=True)
        seconds = sum(export(folder, running, "measured", size) for _ in range(repeat))
        files = size * repeat
        cpu = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
        peak = {name: peak_mib(pids[name]) for name in ("worker", "fetch")}
        bytes_ = asyncio.run(changelog_bytes(env)) - changelog
        on_disk = sum(file.stat().st_size for file in (folder / "stack" / "kafka" / "data").glob("*-changelog-*/*.log"))
        print(
            f"{files:>9,} files: {seconds:.1f} s, CPU us a file "
            + ", ".join(f"{n} {c / files * 1e6:,.0f}" for n, c in cpu.items()),
            flush=True,
        )
        return Figures(files, seconds, cpu, peak, bytes_, on_disk)
    finally:
        if worker is not None:
            worker.terminate()
            worker.wait(60)
        running.stop()
        source.close()


def export(folder: Path, running: stack.Stack, list_: str, files: int) -> float:
    """Seconds from StartExecution to SUCCEEDED. Raises SystemExit if not all is there."""
    machine = aws.Aws(running.env["AWS_ENDPOINT"]).client("stepfunctions")
    job = str(uuid.uuid4())
    text = json.dumps({"jobId": job, "exportId": list_, "userId": "bench"})
    arn = machine.start_execution(stateMachineArn=running.env["EXPORT_STATE_MACHINE_ARN"], name=f"bench-{job}", input=text)[
        "executionArn"
    ]
    # Seldom: the emulator shares the machine, and each question costs it some milliseconds.
    while (execution := machine.describe_execution(executionArn=arn))["status"] == "RUNNING":
        time.sleep(min(1.0, files / 10_000))
    out = folder / "out" / job
    written = sum(1 for place in out.iterdir() if place.is_dir() for file in place.iterdir() if file.stat().st_size == len(BODY))
    with (out / "_report.jsonl").open() as report:
        succeeded = sum(1 for line in report if '"SUCCEEDED"' in line)
    if (execution["status"], written, succeeded) != ("SUCCEEDED", files, files):
        raise SystemExit(f"{execution['status']}: {written} files, {succeeded} lines of the report, of {files}; {running.folder}")
    shutil.rmtree(out)
    return float((execution["stopDate"] - execution["startDate"]).total_seconds())


async def changelog_bytes(env: dict[str, str]) -> int:
    """Keys and values of all records that are on the changelogs."""
    names = topics(load())
    found = await records(env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"], names.jobs_changelog.name, names.shards_changelog.name)
    return sum(len(record.key) + len(record.value or b"") for record in found)


if __name__ == "__main__":
    raise SystemExit(main())
