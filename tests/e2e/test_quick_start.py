"""The quick start, typed as it stands; and beside its worker the other commands of the docs that can run there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import pytest

from export_service.devstack import aws
from export_service.devstack.processes import claim_port
from export_service.devstack.stack import Stack
from tests.e2e.test_by_hand import run_cli
from tests.snippets import BESIDE, NOT_BESIDE, ROOT, SESSION, blocks, commands

pytestmark = pytest.mark.e2e
REFUSED = {
    "explain JOB --at 15m": "no record of the job is older",
    "watch JOB": "a file of the job is missing",
}
_ID = re.compile(r"^(?:JOB|JOB_ID|550e8400-e29b-41d4-a716-446655440000)$")


class Shell:
    """A shell that somebody types blocks into."""

    def __init__(self, folder: Path) -> None:
        self._log = (folder / "session.log").open("w")
        # As a newcomer's: nothing that points to a stack is set.
        env = {name: value for name, value in os.environ.items() if not name.startswith(("EXPORT_", "AWS_"))}
        env["PYTHONPATH"] = str(ROOT)
        self._bash = subprocess.Popen(
            ["bash", "-e"], cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )

    def __enter__(self) -> "Shell":
        return self

    def enter(self, block: str) -> str:
        """What it prints. Fails if a command does."""
        assert self._bash.stdin is not None and self._bash.stdout is not None
        self._bash.stdin.write(f"{block}\necho --done--\n")
        self._bash.stdin.flush()
        lines: list[str] = []
        while (line := self._bash.stdout.readline()) != "--done--\n":
            said = Path(self._log.name).read_text()
            assert line, f"{block}\n{''.join(lines)}\n{said[-3000:]}"
            lines.append(line)
        return "".join(lines)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._bash.stdin is not None and self._bash.stdout is not None
        if kind is not None:
            self._bash.stdin.write("kill $(jobs -p) || true\n")
        self._bash.stdin.close()
        self._bash.stdout.close()
        self._bash.wait(20)
        self._log.close()


@pytest.mark.timeout(300)
def test_the_quick_start_and_the_commands_of_the_docs(tmp_path: Path) -> None:
    (tmp_path / "dev").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m export_service "$@"\n')
    (tmp_path / "dev").chmod(0o755)
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("decisions"))
    port = str(claim_port(None, ""))
    typed = [block.text.replace("8000", port) for block in blocks() if block.page == SESSION and block.language == "bash"]
    demo, up, start, submit, look, judge, redrive, down, start_execution = typed
    assert demo == "./dev demo\n"
    assert start_execution.startswith("aws ")
    with Shell(tmp_path) as shell:
        try:
            shell.enter(up)
            stack = Stack.load(tmp_path / ".export-service")
            assert stack is not None
            shell.enter(start)
            assert "COMPLETED_WITH_FAILURES" in shell.enter(submit)
            listed = shell.enter(look)
            assert "guide.md" in listed
            assert '"error":"HttpNotFound"' in listed.replace(" ", "")
            assert "COMPLETED_WITH_FAILURES" in shell.enter(judge)
            job = shell.enter('echo "$job"').strip()
            python_of_the_guide(shell, port)
            fragments_of_states(stack)
            commands_of_the_docs(stack, job, tmp_path)
            shell.enter(redrive)
            files = tmp_path / f".export-service/files/{job}"
            assert (files / "nowhere.md").read_bytes() == (ROOT / "docs/start.md").read_bytes()
            assert "Stopped" in shell.enter(down)
        finally:
            if (left := Stack.load(tmp_path / ".export-service")) is not None:
                left.stop()


def python_of_the_guide(shell: Shell, port: str) -> None:
    for block in blocks():
        if block.language == "python":
            shell.enter(f"{sys.executable} - <<'end of python'\n{block.text.replace('8000', port)}end of python\n")


def fragments_of_states(stack: Stack) -> None:
    """The emulator, which reads state machines as AWS does, takes the definition with each fragment of the guide in it."""
    client = aws.Aws(stack.env["AWS_ENDPOINT"]).client("stepfunctions")
    tried = 0
    for number, block in enumerate(blocks()):
        if block.language == "json" and block.text.startswith(('"Retry"', '"MessageGroupId')):
            definition = json.loads(aws.state_machine_definition().replace("${QueueUrl}", stack.env["EXPORT_QUEUE_URL"]))
            state, fragment = definition["States"]["StartExportJob"], json.loads("{" + block.text + "}")
            (state if "Retry" in fragment else state["Parameters"]).update(fragment)
            role = "arn:aws:iam::123456789012:role/export-state-machine"
            client.create_state_machine(name=f"fragment-{number}", definition=json.dumps(definition), roleArn=role)
            tried += 1
    assert tried == 2


def commands_of_the_docs(stack: Stack, job: str, folder: Path) -> None:
    """In the order of the pages: some need what one before them has made."""
    found = [command for block in blocks() if block.language == "bash" and block.page != SESSION for command in commands(block)]
    words = [tuple("JOB" if _ID.match(word) else word for word in command.ours) for command in found if command.ours is not None]
    chosen = [each for each in dict.fromkeys(words) if starts(each, BESIDE) and not starts(each, NOT_BESIDE)]
    assert len(chosen) > 20
    wrong = {}
    for each in chosen:
        told = " ".join(each)
        ended = run_cli(stack.env, *(job if word == "JOB" else word for word in each), folder=folder)
        if (ended.code != 0) is not (told in REFUSED):
            wrong[told] = ended
    assert wrong == {}


def starts(words: tuple[str, ...], with_: tuple[str, ...]) -> bool:
    return any(list(words[: len(each.split())]) == each.split() for each in with_)
