"""What several benchmarks start and look at: a source of synthetic files, the worker, and the processor time and memory of processes."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from export_service.devstack import processes

BODY = b"x" * 100
"""Every file of the synthetic source."""
_TICKS = os.sysconf("SC_CLK_TCK")


def have(*programs: str, packages: str) -> bool:
    """Whether these are installed; else says which are not, and Debian's packages of all."""
    if absent := [program for program in programs if shutil.which(program) is None]:
        print(f"missing: {', '.join(absent)}. Debian: apt-get install {packages}", file=sys.stderr)
    return not absent


def start_nginx(folder: Path, server: str) -> tuple["subprocess.Popen[bytes]", str]:
    """One that answers on loopback as `server`, a part of its configuration, says; and its base URL."""
    port = processes.free_port()
    config = folder / "nginx.conf"
    config.write_text(f"""
        daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; worker_processes 1;
        user {"root" if os.geteuid() == 0 else "nobody"};
        events {{ worker_connections 1024; }}
        http {{ access_log off; sendfile on; keepalive_requests 100000; client_body_temp_path {folder}/body;
          server {{ listen 127.0.0.1:{port}; {server} }} }}
    """)
    child = subprocess.Popen(["nginx", "-c", str(config), "-p", str(folder)], stderr=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"
    wait(lambda: subprocess.run(["curl", "-sf", "-o", os.devnull, base + "/"], check=False).returncode == 0, 10, "nginx")
    return child, base


class SyntheticSource:
    """nginx that answers any path with BODY, and serves the manifests of its folder below /lists/."""

    def __init__(self, folder: Path) -> None:
        self._lists = folder / "lists"
        self._lists.mkdir(parents=True)
        server = f'location / {{ return 200 "{BODY.decode()}"; }} location /lists/ {{ root {folder}; }}'
        self.process, self.base = start_nginx(folder, server)

    def write_list(self, name: str, files: int) -> str:
        """A manifest of so many files, 1,000 a folder; its URL."""
        path = self._lists / f"{name}.jsonl"
        with path.open("w") as out:
            for number in range(files):
                file = f"{number // 1000:04d}/{number:07d}.bin"
                out.write(json.dumps({"url": f"{self.base}/{file}", "name": file}) + "\n")
        return f"{self.base}/lists/{path.name}"

    @property
    def pid(self) -> int:
        """Of the process that answers."""
        return children(self.process.pid)[0]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def start_worker(log: Path, env: Mapping[str, str], roles: str = "all") -> "subprocess.Popen[bytes]":
    """Returns when it is ready. Raises SystemExit if it ends instead."""
    before = log.read_bytes().count(b'"Worker ready"') if log.exists() else 0
    command = [sys.executable, "-m", "export_service", "worker", "--role", roles]
    worker = processes.start(command, log, {**env, "EXPORT_LOG_FORMAT": "json"})

    def ready() -> bool:
        if worker.poll() is not None:
            raise SystemExit(f"the worker ended:\n{processes.tail(log)}")
        return log.read_bytes().count(b'"Worker ready"') > before

    wait(ready, 300, "the worker")
    return worker


def execute(machine: Any, arn: str, **fields: str) -> tuple[str, float]:
    """Run a state machine for a new job; how it ended, and the seconds from its start to its end by its own times."""
    text, name = json.dumps({"jobId": str(uuid.uuid4()), "userId": "bench", **fields}), f"bench-{uuid.uuid4().hex[:8]}"
    started = machine.start_execution(stateMachineArn=arn, name=name, input=text)["executionArn"]
    # Seldom: the emulator shares the machine, and each question costs it some milliseconds.
    while (execution := machine.describe_execution(executionArn=started))["status"] == "RUNNING":
        time.sleep(0.1)
    return str(execution["status"]), (execution["stopDate"] - execution["startDate"]).total_seconds()


def wait(condition: Callable[[], bool], seconds: float, what: str, every: float = 0.05) -> None:
    """Raises SystemExit after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} took more than {seconds:g} s")
        time.sleep(every)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_seconds(*pids: int) -> float:
    """Of user and system, that these processes have used."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / _TICKS


def peak_mib(pid: int, *, reset: bool = False) -> float:
    """The most memory that a process had resident since its start, or since the last reset."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    peak = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    if reset:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak


def timed(run: Callable[[Path], None]) -> Callable[[Path], float]:
    def tool(out: Path) -> float:
        started = time.monotonic()
        run(out)
        return time.monotonic() - started

    return tool


def race(
    out: Path,
    tools: Mapping[str, Callable[[Path], float]],
    check: Callable[[Path], None],
    rounds: int,
    amount: int,
    unit: str,
    warm: int = 0,
) -> None:
    """Each tool in turn, in every round, into an empty folder `out`, which is checked; prints medians, and ratios to the first tool.

    Args:
        tools: each gives the seconds that it took.
        amount: of `unit`s that each run moves.
        warm: rounds before the first that counts.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    for number in range(1 - warm, rounds + 1):
        for name, tool in tools.items():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            taken = tool(out)
            check(out)
            if number > 0:
                seconds[name].append(taken)
            print(f"round {number}: {name:<22} {amount / taken:>7,.0f} {unit}/s  {taken:.2f} s", flush=True)
    rates = {name: amount / statistics.median(taken) for name, taken in seconds.items()}
    first = next(iter(rates))
    print(f"\nmedian of {rounds} rounds")
    for name, rate in rates.items():
        print(f"  {name:<22} {rate:>7,.0f} {unit}/s   {first} is {rates[first] / rate:.2f} x of it")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown, for docs/performance.md."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
