"""The demo as a newcomer runs it, and as an impatient one ends it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


def demo(folder: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "export_service", "demo", "--state-dir", str(folder), *options]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # As a terminal has it. Tests that run in the background are told to ignore it, and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def processes_of(folder: Path) -> list[str]:
    """Command lines of processes that have the folder in their command line or environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in text and path.name != str(os.getpid()):
            found.append((path / "cmdline").read_bytes().decode().replace("\0", " "))
    return found


def gone(folder: Path) -> bool:
    deadline = time.monotonic() + 20
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes_of(folder)


def test_the_demo_exports_the_standard_library_with_failures_to_a_folder(tmp_path: Path) -> None:
    child = demo(tmp_path / "state", "--json", "--fail", "3", "--dest", str(tmp_path / "out"))
    stdout, stderr = child.communicate(timeout=150)
    assert child.returncode == 0, stderr
    (job,) = json.loads(stdout)["jobs"]
    assert (job["status"], job["state"], job["failedTasks"]) == ("SUCCEEDED", "HandlePartialFailure", 3)
    assert job["compared"] == job["identical"] == job["completedTasks"] > 1_000
    assert len((tmp_path / "out" / "_report.jsonl").read_text().splitlines()) == job["totalTasks"]
    assert gone(tmp_path), processes_of(tmp_path)


@pytest.mark.parametrize("when", ["Starting Kafka", "Started execution"])
def test_ctrl_c_leaves_no_process(tmp_path: Path, when: str) -> None:
    child = demo(tmp_path / "state")
    assert child.stderr is not None
    for line in child.stderr:
        if when in line:
            break
    os.kill(child.pid, signal.SIGINT)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 130, stderr
    assert "Stopped; nothing is left running." in stderr
    assert gone(tmp_path), processes_of(tmp_path)


def test_a_manifest_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    child = demo(tmp_path / "state", "--manifest", str(tmp_path / "nope.csv"))
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "there is no such file" in stderr
    assert "Traceback" not in stderr
