"""Every snippet of the docs, held against the product's own parsers. tests/e2e/test_quick_start.py runs what can run."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from export_service.callbacks import Failure, Success, answer
from export_service.cli.main import registered
from export_service.messages import JobCancelled, JobSnapshot, JobStatus, from_millis
from export_service.readers import read_event
from export_service.requests import Policy, parse
from export_service.settings import load
from tests.snippets import BESIDE, DEV, ROOT, SESSION, Block, Command, blocks, commands, mentioned
from tests.unit.test_alarms import Cfn

BLOCKS = blocks()
LANGUAGES = {"bash", "json", "python", "text", "diff"}
NOT_RUN = {
    "./dev test": "it runs this test",
    "./dev demo": "tests/e2e/test_demo.py runs it",
    "demo": "tests/e2e/test_demo.py runs it",
    "dev": "the quick start has up, env and down; another stack is a minute's work for nothing new",
    "worker": "a worker of the quick start runs; tests/e2e runs single roles",
    "console": "it does not end by itself; tests/browser",
    "submit": "its files are on the internet; the quick start submits files that are here",
    "cancel": "ends the job that the others are about; tests/e2e/test_ending_early.py",
    "redrive": "needs failures of certain kinds; tests/e2e/test_by_hand.py, and the quick start for a plain one",
    "dead-letters show": "needs a dead letter; tests/e2e/test_by_hand.py",
    "dead-letters redrive": "the same",
    "dead-letters discard": "the same",
    "rewind": "needs workers to be stopped; tests/e2e/test_by_hand.py",
    "reset": "the same",
    "sweep file:///var/exports/": "a folder of the machine that nobody promised to be there; tests/unit/test_sweep.py",
    "doctor --role download": "the bucket is an example; tests/e2e/test_doctor.py",
    "aws": "the aws program is not a dependency; the quick start's test does the same with boto3",
    "helm": "needs a cluster; tests/unit/test_chart.py",
}
"""First words of commands that nobody runs from the docs -> why."""
TOOLS = {"python3", "grep", "sleep", "ls", "cat", "cp", "rm", "kill", "wait", "jobs"}
"""Programs of the quick start, which runs them."""


def begins(command: Command, with_: str) -> bool:
    words = with_.split()
    return list(command.ours or command.words)[: len(words)] == words or list(command.words[: len(words)]) == words


def in_bash() -> list[Command]:
    return [command for block in BLOCKS if block.language == "bash" for command in commands(block)]


def named(commands: list[Command]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("command", commands, ids=lambda each: f"{each.page}: {' '.join(each.words)}"[:100])


def test_every_block_says_what_it_is() -> None:
    assert {(block.page, block.language) for block in BLOCKS if block.language not in LANGUAGES} == set()
    assert len(BLOCKS) > 60
    # What is only looked at has no command in it that would have to be tried.
    for block in BLOCKS:
        if block.language == "text":
            assert not re.search(r"^(?:\./dev|export-service) [a-z-]+(?:$| --| [A-Z])", block.text, re.MULTILINE), block


@named([command for command in dict.fromkeys(in_bash() + mentioned()) if command.ours is not None])
def test_a_command_is_one_that_the_program_takes(command: Command) -> None:
    """With its options and arguments; in sentences the arguments may be missing."""
    words = [word for word in command.ours or () if word not in ("[OPTIONS]", "…")]
    takes: Any = get_command(registered())
    if words in (["--version"], ["--install-completion"]):
        return
    names: list[str] = []
    while hasattr(takes, "commands") and words:
        assert words[0] in takes.commands, f"no such command: {' '.join([*names, words[0]])}"
        names.append(words[0])
        takes = takes.commands[words.pop(0)]
    if command in in_bash():
        takes.make_context(names[-1], words)
    known = {flag for each in takes.params for flag in (*each.opts, *each.secondary_opts)}
    assert {word.lstrip("[") for word in words if word.lstrip("[").startswith("--")} <= known | {"--help"}


@named([command for command in dict.fromkeys(in_bash() + mentioned()) if command.words[0] == "./dev" and command.ours is None])
def test_a_command_of_the_script_is_in_the_script(command: Command) -> None:
    script = (ROOT / "dev").read_text()
    assert re.search(rf"^{command.words[1]}\)$", script, re.MULTILINE)
    if command.words[1:2] == ("benchmark",) and len(command.words) > 2 and not command.words[2].startswith("-"):
        assert (ROOT / f"benchmarks/{command.words[2]}.py").exists()
        assert re.search(rf"^    .*\b{command.words[2]}\b.*\)$", script, re.MULTILINE)


def test_the_script_hands_on_what_is_not_its_own() -> None:
    own = set(re.findall(r"^(\w+)\)$", (ROOT / "dev").read_text(), re.MULTILINE))
    assert own == DEV


def test_every_command_runs_somewhere_or_says_why_not() -> None:
    outside = [command for command in in_bash() if command.page != SESSION]
    reasons = {command: [name for name in NOT_RUN if begins(command, name)] for command in outside}
    run = {command: [name for name in BESIDE if command.ours and begins(command, name)] for command in outside}
    assert [command for command in outside if not reasons[command] and not run[command]] == []
    session = [command for command in in_bash() if command.page == SESSION and command.ours is None]
    assert {command.words[0] for command in session} - {"./dev"} <= TOOLS | {"aws"}
    used = {name for names in (*reasons.values(), *run.values()) for name in names} | {"aws"}
    assert {*NOT_RUN, *BESIDE} - used == set(), "nothing in the docs begins like this"


def test_a_stack_is_deployed_with_parameters_that_its_template_has() -> None:
    found = [command.words for command in in_bash() if command.words[:3] == ("aws", "cloudformation", "deploy")]
    assert found
    for words in found:
        template = yaml.load((ROOT / words[words.index("--template-file") + 1]).read_text(), Cfn)
        given = {word.partition("=")[0] for word in words[words.index("--parameter-overrides") + 1 :]}
        assert given <= set(template["Parameters"])


def of(language: str) -> pytest.MarkDecorator:
    found = [block for block in BLOCKS if block.language == language]
    assert found
    return pytest.mark.parametrize("block", found, ids=lambda block: f"{block.page}: {block.text[:40]!r}")


def values(text: str) -> list[Any]:
    """A value, the inside of an object, or one value a line."""
    for attempt in (text, "{" + text.strip().rstrip(",") + "}"):
        try:
            return [json.loads(attempt)]
        except ValueError:
            continue
    return [json.loads(line) for line in text.splitlines()]


@of("json")
def test_json_is_what_the_product_reads_and_writes(block: Block) -> None:
    for value in values(block.text):
        kinds = [check for known, check in KINDS.items() if known in value]
        assert len(kinds) == 1, f"{block.page}: nobody knows what this is: {value}"
        kinds[0](value)


def message(value: dict[str, Any]) -> None:
    parsed = parse(json.dumps(value), Policy.of(load(catalog="s3://exports/{exportId}/manifest.jsonl")))
    assert parsed.token == value["taskToken"]


def snapshot(value: dict[str, Any], **more: Any) -> JobSnapshot:
    at = from_millis(1736937000000)
    numbers = {name: value[name] for name in ("jobId", "exportId", "totalTasks", "completedTasks", "failedTasks")}
    fields = {"attempt": 1, "version": 1, "updatedAt": at, "completedAt": at, "userId": "user-67890", "durationMs": 45000}
    return JobSnapshot.model_validate(fields | numbers | more)


def success(value: dict[str, Any]) -> None:
    job = snapshot(value, status=JobStatus.COMPLETED)
    made = answer(job, "json", value["reportUri"])
    assert isinstance(made, Success)
    assert json.loads(made.output) == value
    assert list(json.loads(made.output)) == list(value)


def failure(value: dict[str, Any]) -> None:
    job = snapshot(value, status=JobStatus.COMPLETED_WITH_FAILURES, error=value["error"], cause=value["cause"])
    made = answer(job, "json", value["reportUri"])
    assert isinstance(made, Failure)
    assert made.error == value["error"]
    assert json.loads(made.cause) == value


def state(value: dict[str, Any]) -> None:
    definition = json.loads((ROOT / "deploy/state-machine.asl.json").read_text())
    assert value["StartExportJob"] == definition["States"]["StartExportJob"]


def policy(value: dict[str, Any]) -> None:
    assert all(set(each) == {"Effect", "Action", "Resource"} for each in value["Statement"])


def fragment(value: dict[str, Any]) -> None:
    """Of a state: the e2e test has the emulator take all of these."""
    assert set(value) <= {"Retry", "MessageGroupId.$", "MessageDeduplicationId.$"}


def log_line(value: dict[str, Any]) -> None:
    assert value["level"] in ("info", "warning", "error")
    assert written(value["msg"].partition(" for job ")[0]), value["msg"]


KINDS = {
    "metadata": message,
    "durationMs": success,
    "cause": failure,
    "StartExportJob": state,
    "Statement": policy,
    "Retry": fragment,
    "MessageGroupId.$": fragment,
    "msg": log_line,
}


def source() -> str:
    folders = ("export_service", "connectors", "streams", "agents", "tables")
    texts = [path.read_text() for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return re.sub(r"\"\s*f?\"", "", "\n".join(texts)).replace("Functions {kind} callback", "Functions success callback")


SOURCE = source()


def written(text: str) -> bool:
    """Whether the code says this."""
    return all(part.strip() in SOURCE for part in text.split("…") if len(part.strip()) > 2)


def test_log_lines_of_the_guide_are_those_of_the_code() -> None:
    table = (ROOT / "docs/guide.md").read_text().partition("| `msg` | Level | Means |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.*?`) \| ([a-z, ]+) \|", table, re.MULTILINE)
    said = [text for cell, _ in rows for text in re.findall(r"`([^`]+)`", cell)]
    assert [text for text in said if not written(text.replace("failure callback", "callback"))] == []
    assert len(said) > 15


def test_errors_of_the_guide_are_those_of_the_code() -> None:
    guide = (ROOT / "docs/guide.md").read_text()
    named = set(re.findall(r"`((?:Export|Job|Task|Http|Invalid|Host|Address|Redirect)[A-Z]\w+)`", guide))
    assert {name for name in named if name not in SOURCE} == set()
    assert named >= {"ExportRejected", "ExportPlanFailed", "ExportDeadlineExceeded", "ExportCancelled", "JobCompletedWithFailures"}


@of("python")
def test_python_is_python(block: Block) -> None:
    """It runs in the test of the quick start."""
    ast.parse(block.text)
    assert block.page == "docs/guide.md"


def test_a_record_that_the_guide_tells_people_to_write_is_one() -> None:
    (text,) = re.findall(r"`(\{\"type\": \"JobCancelled\".*?\})`", (ROOT / "docs/guide.md").read_text())
    assert isinstance(read_event(text.encode()), JobCancelled)


PROMISED = (
    "waitForTaskToken", "jobId", "exportId", "userId", "requestedBy", "format", "taskToken",
    "COMPLETED", "totalTasks", "completedTasks", "failedTasks", "completedAt", "durationMs",
    "JobCompletedWithFailures", "Job completed with 3 failed tasks out of 10 total",
    "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT", "LocalStack",
    "states:SendTaskSuccess", "states:SendTaskFailure",
    "Processing export job", "hasTaskToken", "Sent Step Functions success callback for job", "AAAAKgAA...********...AAAA",
    "Failed to send Step Functions callback for job", "TaskDoesNotExist",
    "callback success rate", "callback latency", "callback errors by type", "share of jobs with a token",
    "another account or region", "older than a year", "States.Timeout", "TimeoutSeconds", "HeartbeatSeconds",
    "standard workflow", "express", "CallbackFailureRate", "StepFunctionTimeouts", "5 %", "300 seconds", "3600 seconds",
    "Catch", "States.ALL", "HandlePartialFailure", "HandleTimeout", "HandleFailure", "ProcessResults", "Migration: jobs without a token",
)  # fmt: skip
"""What the integration guide of the service before this one tells its users: ours has all of it, or says what differs."""


@pytest.mark.parametrize("text", PROMISED)
def test_the_guide_has_what_its_users_know(text: str) -> None:
    assert text in (ROOT / "docs/guide.md").read_text()


def test_no_page_names_a_machine() -> None:
    pages = [*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "docs/asyncapi.yaml", ROOT / "mkdocs.yml"]
    homes = (str(Path.home()) + "/", str(ROOT))
    assert [path.name for path in pages if any(home in path.read_text() for home in homes if len(home) > 4)] == []
