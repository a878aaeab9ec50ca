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
import subprocess
import tempfile
from pathlib import Path

from benchmarks.parts import children, execute, have, peak_mib, race, start_nginx, start_worker, timed
from export_service.devstack import aws, stack


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--size", type=int, default=16 * 1024, help="bytes of one file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to work; /dev/shm takes a slow disk out of the comparison")
    options = parser.parse_args()
    if not have("nginx", "aria2c", "rclone", packages="nginx-light aria2 rclone"):
        return 1
    with tempfile.TemporaryDirectory(prefix="export-benchmark-", dir=options.folder) as folder:
        return run(Path(folder), options.files, options.size, options.rounds)


def run(folder: Path, files: int, size: int, rounds: int) -> int:
    source = folder / "source"
    names = make_files(source, files, size)
    nginx, base = start_nginx(folder, served(source))
    ours = Ours(folder, base, names)
    tools = {
        "export-service": ours.export,
        "aria2c -j32": timed(lambda out: aria2(folder, base, names, out)),
        "rclone --transfers 32": timed(lambda out: rclone(folder, base, names, out)),
    }
    try:
        print(f"{files} files of {size} bytes; the first round warms caches, and is not counted")
        race(folder / "out", tools, lambda out: check(source, out, names), rounds, files, "files", warm=1)
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


def served(source: Path, more: str = "") -> str:
    """For nginx: this folder, with its listings."""
    return f"root {source}; autoindex on; {more}"


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
        env = self._stack.env | {
            "EXPORT_DESTINATION": (folder / "out").as_uri() + "/",
            "EXPORT_TOPICS_TASK_PARTITIONS": "4",
        }
        self._worker = start_worker(folder / "worker.log", env)

    def export(self, out: Path) -> float:
        """Seconds from StartExecution to SUCCEEDED, from the execution's own times."""
        machine = self._clients.client("stepfunctions")
        status, taken = execute(machine, self._stack.env["EXPORT_STATE_MACHINE_ARN"], exportId="bench")
        if status != "SUCCEEDED" or not (out / "_report.jsonl").exists():
            raise SystemExit(f"the execution ended as {status}; see {self._folder}/worker.log")
        return taken

    def peaks_mib(self) -> list[float]:
        """Of the worker, then of its fetch processes; what they share counts in each."""
        return [peak_mib(pid) for pid in (self._worker.pid, *children(self._worker.pid))]

    def close(self) -> None:
        self._worker.terminate()
        self._worker.wait(timeout=60)
        self._stack.stop()


if __name__ == "__main__":
    raise SystemExit(main())
