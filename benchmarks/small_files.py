"""Many small files, end to end, beside the tools people would pick instead. Prints medians and ratios.

    ./dev benchmark small_files [--files 5000] [--rounds 3] [--folder /dev/shm]

nginx serves the files on loopback to a local folder; each tool runs in turn, in every round, on the same machine. Ours is one worker, from
StartExecution to SUCCEEDED as the state machine sees it, with Kafka and the AWS emulator on the same two cores; theirs is the
command's own run. Every tool's files are compared with the source, byte for byte, before its time counts.
Needs nginx, aria2c and rclone (Debian: apt-get install nginx-light aria2 rclone).
"""

import argparse
import asyncio
import filecmp
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from export_service.devstack import aws, processes, stack

TOOLS = ("nginx", "aria2c", "rclone")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--size", type=int, default=16 * 1024, help="bytes of one file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to work; /dev/shm takes a slow disk out of the comparison")
    options = parser.parse_args()
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        print(f"missing: {', '.join(absent)}. Debian: apt-get install nginx-light aria2 rclone", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="export-benchmark-", dir=options.folder) as folder:
        return run(Path(folder), options.files, options.size, options.rounds)


def run(folder: Path, files: int, size: int, rounds: int) -> int:
    source = folder / "source"
    names = make_files(source, files, size)
    nginx, base = start_nginx(folder, source)
    peers: dict[str, Callable[[Path], None]] = {
        "aria2c -j32": lambda out: aria2(folder, base, names, out),
        "rclone --transfers 32": lambda out: rclone(folder, base, names, out),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ("export-service", *peers)}
    ours = Ours(folder, base, names)
    try:
        for number in range(rounds + 1):
            for name in seconds:
                out = folder / "out"
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir()
                started = time.monotonic()
                if name == "export-service":
                    taken = ours.export(out)
                else:
                    peers[name](out)
                    taken = time.monotonic() - started
                check(source, out, names)
                if number:  # the first round warms caches, and is not counted
                    seconds[name].append(taken)
                print(f"round {number}: {name:<22} {files / taken:>7,.0f} files/s  {taken:.2f} s", flush=True)
        rates = {name: files / statistics.median(taken) for name, taken in seconds.items()}
        print(f"\nmedian of {rounds} rounds, {files} files of {size} bytes")
        for name, rate in rates.items():
            ratio = rates["export-service"] / rate
            print(f"  {name:<22} {rate:>7,.0f} files/s   export-service is {ratio:.2f} x of it")
        print(f"  worker memory, peak    {ours.peaks_mib()[0]:>7,.0f} MiB")
    finally:
        ours.close()
        nginx.terminate()
        nginx.wait()
    return 0


def make_files(source: Path, files: int, size: int) -> list[str]:
    names = [f"{number // 500:03d}/{number:06d}.bin" for number in range(files)]
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(os.urandom(size))
    return names


def start_nginx(folder: Path, source: Path, more: str = "") -> tuple["subprocess.Popen[bytes]", str]:
    port = processes.free_port()
    config = folder / "nginx.conf"
    config.write_text(f"""
        daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; worker_processes 1;
        user {"root" if os.geteuid() == 0 else "nobody"};
        events {{ worker_connections 1024; }}
        http {{ access_log off; sendfile on; keepalive_requests 100000; client_body_temp_path {folder}/body;
          server {{ listen 127.0.0.1:{port}; root {source}; autoindex on; {more} }} }}
    """)
    child = subprocess.Popen(["nginx", "-c", str(config), "-p", str(folder)], stderr=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 10
    while subprocess.run(["curl", "-sf", "-o", os.devnull, base + "/"], check=False).returncode and time.monotonic() < deadline:
        time.sleep(0.05)
    return child, base


def aria2(folder: Path, base: str, names: list[str], out: Path) -> None:
    listing = folder / "aria2.txt"
    listing.write_text("".join(f"{base}/{name}\n  out={name}\n" for name in names))
    command = ["aria2c", "-j32", "-q", "--file-allocation=none", "--no-conf", f"-d{out}", f"-i{listing}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def rclone(folder: Path, base: str, names: list[str], out: Path) -> None:
    listing = folder / "rclone.txt"
    listing.write_text("".join(f"{name}\n" for name in names))
    flags = ["--transfers", "32", "--checkers", "32", "--no-traverse", "--config", os.devnull, "--files-from-raw", str(listing)]
    subprocess.run(["rclone", "copy", "-q", *flags, "--http-url", base + "/", ":http:", str(out)], check=True)


def check(source: Path, out: Path, names: list[str]) -> None:
    _, different, absent = filecmp.cmpfiles(source, out, names, shallow=False)
    if different or absent:
        raise SystemExit(f"{len(different)} files differ, {len(absent)} are missing, e.g. {[*different, *absent][:3]}")


class Ours:
    """The embedded stack and one worker."""

    def __init__(self, folder: Path, base: str, names: list[str]) -> None:
        self._folder = folder
        self._stack = asyncio.run(stack.up(folder / "stack"))
        self._clients = aws.Aws(self._stack.env["AWS_ENDPOINT"])
        lines = "".join(json.dumps({"url": f"{base}/{name}", "name": name}) + "\n" for name in names)
        self._clients.client("s3").put_object(Bucket=aws.BUCKET, Key="bench/manifest.jsonl", Body=lines.encode())
        log = folder / "worker.log"
        env = self._stack.env | {
            "EXPORT_DESTINATION": (folder / "out").as_uri() + "/",
            "EXPORT_LOG_FORMAT": "json",
            "EXPORT_TOPICS_TASK_PARTITIONS": "4",
        }
        self._worker = processes.start([sys.executable, "-m", "export_service", "worker"], log, env)
        while b'"Worker ready"' not in log.read_bytes():
            if self._worker.poll() is not None:
                raise SystemExit(f"the worker ended:\n{processes.tail(log)}")
            time.sleep(0.05)

    def export(self, out: Path) -> float:
        """Seconds from StartExecution to SUCCEEDED, from the execution's own times."""
        machine, name = self._clients.client("stepfunctions"), f"bench-{uuid.uuid4().hex[:8]}"
        text = json.dumps({"jobId": str(uuid.uuid4()), "exportId": "bench", "userId": "bench"})
        arn = machine.start_execution(stateMachineArn=self._stack.env["EXPORT_STATE_MACHINE_ARN"], name=name, input=text)[
            "executionArn"
        ]
        # Seldom: the emulator shares the machine, and each question costs it some milliseconds.
        while (execution := machine.describe_execution(executionArn=arn))["status"] == "RUNNING":
            time.sleep(0.1)
        status = execution["status"]
        taken: float = (execution["stopDate"] - execution["startDate"]).total_seconds()
        if status != "SUCCEEDED" or not (out / "_report.jsonl").exists():
            raise SystemExit(f"the execution ended as {status}; see {self._folder}/worker.log")
        return taken

    def peaks_mib(self) -> list[float]:
        """Of the worker, then of its fetch processes; what they share counts in each."""
        pid = self._worker.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        statuses = [Path(f"/proc/{each}/status").read_text().splitlines() for each in (pid, *children)]
        return [int(line.split()[1]) / 1024 for lines in statuses for line in lines if line.startswith("VmHWM")]

    def close(self) -> None:
        self._worker.terminate()
        self._worker.wait(timeout=60)
        self._stack.stop()


if __name__ == "__main__":
    raise SystemExit(main())
