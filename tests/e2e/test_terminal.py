"""A job and what carries it, as people and programs at a terminal see them."""

import json
import os
import pty
import re
import subprocess
import sys
import uuid
from typing import Any

import pytest

from export_service.cli.main import run
from tests.e2e.conftest import World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
COMMAND = [sys.executable, "-m", "export_service"]


class Terminal:
    """Commands, run here: a process for each would spend its time on imports."""

    def __init__(self, world: World, patch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[str]) -> None:
        self._patch, self._captured = patch, captured
        for name, value in world.env.items():
            patch.setenv(name, value)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        self._captured.readouterr()
        self._patch.setattr(sys, "argv", ["export-service", *arguments])
        with pytest.raises(SystemExit) as ended:
            run()
        code = ended.value.code
        assert isinstance(code, int)
        return code, *self._captured.readouterr()

    def objects(self, *arguments: str) -> list[dict[str, Any]]:
        code, out, errors = self.run(*arguments, "--json")
        assert (code, errors) == (0, "")
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def terminal(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(world, monkeypatch, capsys)


def test_a_job_is_watched_to_its_end_beside_lists_of_jobs_lag_and_workers(world: World, terminal: Terminal) -> None:
    wanted = [f"f/{number}" for number in range(12)]
    world.catalog("many", wanted)
    world.files.missing |= {"/f/3", "/f/4"}
    world.files.held.add("/f/7")
    world.files.gate.clear()
    world.worker(EXPORT_TALLY_SNAPSHOT_SECONDS="0")
    job = str(uuid.uuid4())
    world.send({"jobId": job, "exportId": "many", "userId": "u"})
    child = subprocess.Popen([*COMMAND, "watch", job, "--wait", "60", "--json"], env=world.env, stdout=subprocess.PIPE)
    world.workers.append(child)  # so that it ends with them
    world.until(lambda: world.snapshot(job).get("failedTasks") == "2", "two have failed")
    text = interrupted(world, job)
    assert re.search(r"2\s+HttpNotFound\s+task [34], ", text)
    assert re.search(r"of 12 files: \d succeeded, 2 failed", text)

    assert [each["jobId"] for each in terminal.objects("jobs", "--user", "u", "--status", "open")] == [job]
    assert terminal.objects("jobs", "--status", "unsuccessful") == []
    (found,) = terminal.objects("topics", "lag", "--behind")
    tasks = next(each for each in found["topics"] if each["topic"] == "tasks")
    assert tasks["records"] > 0
    assert 0 < tasks["ageSeconds"] < 120
    for part in tasks["partitions"]:
        assert part["end"] - (part["committed"] or 0) == part["records"]
    (groups,) = terminal.objects("workers")
    roles = ("plan", "download", "tally", "callback", "snapshot", "watch")
    assert {each["role"]: each["state"] for each in groups["roles"]} == dict.fromkeys(roles, "Stable")
    (member,) = next(each["members"] for each in groups["roles"] if each["role"] == "download")
    assert member["topics"] == {"tasks": [0, 1]}

    world.files.gate.set()
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 1, "not all files are there"
    changes = [json.loads(line) for line in out.splitlines()]
    assert [each["version"] for each in changes] == sorted({each["version"] for each in changes})
    assert changes[-1] | {"status": "COMPLETED_WITH_FAILURES", "completedTasks": 10, "failedBy": {"HttpNotFound": 2}} == changes[-1]
    assert [each["jobId"] for each in terminal.objects("jobs", "--status", "unsuccessful", "--since", "1h")] == [job]
    world.until(lambda: not lags(terminal), "nothing waits", every=0.5)


def lags(terminal: Terminal) -> dict[str, int]:
    (found,) = terminal.objects("topics", "lag", "--behind")
    return {each["topic"]: each["records"] for each in found["topics"]}


def test_what_is_away_or_not_known_is_one_sentence(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, errors = terminal.run("watch", "nobody's", "--wait", "0")
    assert (code, out) == (1, "")
    assert errors.startswith("export-service: job nobody's is not known in the table (EXPORT_TABLE_NAME)")
    code, out, errors = terminal.run("jobs", "--status", "done")
    assert (code, out) == (2, "")
    assert "--status" in errors
    assert "'done' is not one of" in errors
    monkeypatch.setenv("EXPORT_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:1")
    kafka = "Kafka does not answer (127.0.0.1:1: KafkaConnectionError); check EXPORT_KAFKA_BOOTSTRAP_SERVERS"
    table = "DynamoDB does not answer (EndpointConnectionError http://127.0.0.1:1); check AWS_ENDPOINT_URL_DYNAMODB"
    for arguments, said in ((("jobs",), table), (("watch", "j"), table), (("workers",), kafka), (("topics", "lag"), kafka)):
        code, out, errors = terminal.run(*arguments)
        assert (code, out) == (1, "")
        assert errors.startswith(f"export-service: {said}")
        assert errors.count("\n") == 1


def interrupted(world: World, job: str) -> str:
    """What `watch` leaves on a terminal of 80 columns after Ctrl-C."""
    pid, end = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [*COMMAND, "watch", job], world.env | {"TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"})
    text, asked = b"", False
    with os.fdopen(end, "r+b", buffering=0) as terminal:
        while True:
            try:
                text += terminal.read(65536)
            except OSError:
                break  # how Linux says that nobody is there any more
            if not asked and b"HttpNotFound" in text:
                terminal.write(b"\x03")
                asked = True
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    for begin, back in ((b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?25l", b"\x1b[?25h")):
        assert text.count(begin) == text.count(back) == 1
    left = text.rpartition(b"\x1b[?1049l")[2].decode()
    assert "\x1b[3" not in left, "no colour was asked for"
    return re.sub(r"\x1b\[[0-9;]*m", "", left)
