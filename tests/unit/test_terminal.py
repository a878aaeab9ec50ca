"""What people see at 80 columns, with colours, without, and where no terminal is."""

import asyncio
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from aiokafka.errors import GroupAuthorizationFailedError
from aiokafka.protocol.admin import DescribeGroupsResponse_v2
from rich.console import RenderableType

from export_service.cli import job_list, job_view, lag, terminal, watch, workers
from export_service.cli.main import registered
from export_service.history.explanation import Failed
from export_service.messages import JobSnapshot, JobStatus
from export_service.pace import Pace
from streams.group_members import Group, Member, Place
from streams.group_members import _groups as members_of

JOB = "550e8400-e29b-41d4-a716-446655440000"
NOW = datetime.now(UTC)


def snapshot(version: int = 1, **fields: Any) -> JobSnapshot:
    known: dict[str, Any] = {
        "job_id": JOB,
        "attempt": 1,
        "version": version,
        "export_id": "report\x1b[31m-7",
        "user_id": "user-1",
        "status": JobStatus.RUNNING,
        "total_tasks": 1_200_000,
        "completed_tasks": 600_000,
        "failed_tasks": 12_345,
        "bytes": 123_456_789_012,
        "updated_at": datetime.now(UTC) - timedelta(minutes=3),
        "destination": "s3://exports/a/very/long/prefix/of/somebody/who/likes/folders/" + JOB + "/",
    }
    return JobSnapshot(**known | fields)


def shown(view: RenderableType, width: int, **options: Any) -> list[str]:
    out = io.StringIO()
    made = terminal.console(out, width=width, force_terminal=True, **options)
    terminal.put(made, view)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def plain(view: RenderableType, width: int = 80) -> list[str]:
    lines = shown(view, width, no_color=True, color_system=None)
    assert not any("\x1b" in line for line in lines)
    assert max(map(len, lines)) <= width, lines
    return lines


def lagging() -> list[lag.Row]:
    return [
        lag.Row("results", "tally", 0, 1_234_567_890, 1_234_000_000, 567_890, 3_725.0),
        lag.Row("results", "tally", 1, 17, None, 0, 0.0),
        lag.Row("completions", "callback", 0, 5, 4, 1, None),
    ]


def grouped() -> list[Group]:
    member = Member("tally", "faust-0.15.3-" + JOB, "10.11.12.13", tuple(Place("results", number) for number in (0, 1, 2, 5, 7, 8)))
    return [Group("plan", "Empty", ()), Group("tally", "Stable", (member, member._replace(places=())))]


FAILED = [
    Failed(f"Error{number}", 1000 - number, f"task {number}, name: {'a message ' * 20}", "results:0:1") for number in range(12)
]
SEEN = job_view.Seen(snapshot(), NOW, 1234.5, 98_765_432.1, 476.0, 42.0, FAILED, ("DynamoDB does not answer",), explained=True)


@pytest.mark.parametrize("width", [80, 60, 120])
@pytest.mark.parametrize(
    "view",
    [
        job_list.view([snapshot(), snapshot(status=JobStatus.COMPLETED_WITH_FAILURES, job_id="j" * 36)]),
        lag.view(lagging()),
        workers.view(grouped()),
        job_view.view(SEEN),
        job_view.view(job_view.Seen(snapshot(total_tasks=None), NOW)),
        job_view.view(job_view.Seen(snapshot(status=JobStatus.FAILED, error="ExportPlanFailed", cause="x" * 300), NOW)),
    ],
)
def test_a_view_fits_and_has_no_commands_for_the_terminal_in_it(view: RenderableType, width: int) -> None:
    assert plain(view, width)


def test_columns_that_do_not_fit_are_left_out_whole_and_the_first_is_never_cut() -> None:
    view = job_list.view(
        [snapshot(status=JobStatus.COMPLETED_WITH_FAILURES, total_tasks=1200, completed_tasks=1100, failed_tasks=100)]
    )
    assert [line.split() for line in plain(view)] == [
        ["job", "status", "files", "moved"],
        [JOB, "COMPLETED_WITH_FAILURES", "1,200/1,200", "3.0", "min"],
    ]
    assert plain(view, 40)[1].startswith(JOB)
    assert plain(view, 120)[1].split()[-1] == "report�[31m-7"


def test_where_nobody_looks_a_table_is_whole_and_has_no_blanks_at_its_ends() -> None:
    out = io.StringIO()
    terminal.put(terminal.console(out), lag.view(lagging()))
    assert out.getvalue().splitlines() == [
        "topic        for       partition            end      committed      lag    age",
        "results      tally           all  1,234,567,907              –  567,890  1.0 h",
        "results      tally             0  1,234,567,890  1,234,000,000  567,890  1.0 h",
        "results      tally             1             17              –        0",
        "completions  callback        all              5              –        1      –",
        "completions  callback          0              5              4        1      –",
    ]


def test_a_job_is_shown_with_its_failures_by_cause() -> None:
    lines = plain(job_view.view(SEEN), 80)
    assert lines[0] == f"{JOB}  RUNNING"
    assert lines[1].endswith(" 51.0%")
    text = "\n".join(lines)
    for part in (
        "612,345 of 1,200,000 files: 600,000 succeeded, 12,345 failed",
        "1,234 files/s, 98.8 MB/s",
        "about 7.9 min",
        " 1,000  Error0",
        " 3,962  4 other kinds",
        "   411  not known",
        "DynamoDB does not answer",
        "It has not moved for 42 s; see: export-service explain",
    ):
        assert part in text
    assert "Error8" not in text
    assert job_view.line(SEEN._replace(at=datetime(2026, 1, 1, tzinfo=UTC), failed=FAILED[:2])) == (
        "2026-01-01T00:00:00.000Z RUNNING 612,345 of 1,200,000 files, 123.5 GB, 12,345 failed (Error0 1,000, Error1 999), "
        "1,234 files/s, 98.8 MB/s, about 7.9 min left"
    )
    assert job_view.as_object_of(SEEN)["failedBy"]["Error11"] == 989


def test_partitions_are_written_as_ranges() -> None:
    assert "plan   Empty   nobody" in "\n".join(plain(workers.view(grouped())))
    assert "results 0-2,5,7-8" in "\n".join(plain(workers.view(grouped())))
    assert workers.as_object(grouped())["roles"][1]["members"][0]["topics"] == {"results": [0, 1, 2, 5, 7, 8]}


def test_a_group_that_the_broker_does_not_tell_of_is_not_one_without_members() -> None:
    found = members_of(DescribeGroupsResponse_v2(0, [(0, "a", "Empty", "consumer", "", []), (30, "b", "", "", "", [])]))
    assert next(found)["state"] == "Empty"
    with pytest.raises(GroupAuthorizationFailedError):
        next(found)


def test_a_rate_is_of_the_last_seconds_and_falls_when_nothing_moves() -> None:
    pace = Pace()
    assert (pace.files, pace.left) == (None, None)
    for second in range(21):
        pace.see(
            snapshot(second, completed_tasks=100 * second, failed_tasks=0, total_tasks=4000, bytes=1000 * second), 50.0 + second
        )
    assert (pace.files, pace.bytes, pace.left) == (100.0, 1000.0, 20.0)
    pace.see(snapshot(20, completed_tasks=2000, failed_tasks=0, total_tasks=4000, bytes=20_000), 80.0)
    assert pace.files == pytest.approx(500 / 15)
    assert pace.moved == 70.0
    pace.see(snapshot(20, completed_tasks=2000, failed_tasks=0, total_tasks=4000, bytes=20_000), 200.0)
    assert (pace.files, pace.left) == (0.0, None)
    pace.see(snapshot(30, attempt=2, completed_tasks=10, failed_tasks=0), 201.0)
    assert pace.files is None, "a later run begins with less"


def test_a_job_that_has_ended_has_the_rate_of_all_its_time_if_one_attempt_did_it_all() -> None:
    ended = snapshot(status=JobStatus.COMPLETED, completed_tasks=500, failed_tasks=0, bytes=1000, duration_ms=2000)
    pace = Pace()
    pace.see(ended, 1.0)
    assert (pace.files, pace.bytes, pace.left) == (250.0, 500.0, None)
    pace.see(ended.model_copy(update={"attempt": 2}), 2.0)
    assert pace.files is None


async def looks() -> AsyncGenerator[job_view.Seen, None]:
    job = snapshot()
    for version in (1, 1, 2):
        yield job_view.Seen(job.model_copy(update={"version": version}), NOW)
    end = snapshot(3, status=JobStatus.COMPLETED_WITH_FAILURES)
    yield job_view.Seen(end, NOW, troubles=("Kafka is away",))
    yield job_view.Seen(end, NOW, failed=FAILED[:1], troubles=("Kafka is away",), last=True)


def followed(**options: Any) -> job_view.Seen:
    lines, fields = watch.Changes(job_view.line), watch.Changes(job_view.as_object_of)
    return asyncio.run(terminal.show(looks(), job_view.view, fields, lines=lines, **options))


def test_without_a_terminal_each_change_is_a_line_and_the_end_comes_once_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert followed(watch=True).last
    out, errors = capsys.readouterr()
    assert [line.split()[1] for line in out.splitlines()] == ["RUNNING", "RUNNING", "COMPLETED_WITH_FAILURES"]
    assert "(Error0 1,000)" in out.splitlines()[-1]
    assert errors == "export-service: Kafka is away\n"
    followed(watch=True, as_json=True)
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["version"] for each in objects] == [1, 2, 3]
    assert objects[-1]["failedBy"] == {"Error0": 1000}
    assert objects[0]["filesPerSecond"] is None
    followed()
    assert capsys.readouterr().out.startswith(JOB), "one look"


SCRIPT = """
import asyncio, sys
from export_service.cli import terminal
async def values():
    for number in range(10_000):
        yield number
        await asyncio.sleep(0.02)
def view(number):
    return "".join(f"value {number} line {line}\\n" for line in range(40))
asyncio.run(terminal.show(values(), view, lambda number: [number], watch=True))
"""


def in_terminal(end: Callable[[int], None], **env: str) -> tuple[int, str]:
    """Exit code and all that a terminal of 24 lines is sent by SCRIPT, ended by `end` after some values."""
    pid, terminal_end = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, "-c", SCRIPT], {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"} | env)
    text, ended = b"", False
    with os.fdopen(terminal_end, "rb", buffering=0) as sent:
        while True:
            try:
                some = sent.read(65536)
            except OSError:
                break  # how Linux says that nobody is there any more
            text += some  # which may end amid a sign
            if not ended and b"value 5 " in text:
                end(pid)
                ended = True
            if not some:
                break
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_whatever_ends_a_view_the_terminal_is_as_before(number: signal.Signals) -> None:
    code, text = in_terminal(lambda pid: os.kill(pid, number))
    assert code in (128 + number, -number)
    for begin, end in (("\x1b[?1049h", "\x1b[?1049l"), ("\x1b[?25l", "\x1b[?25h")):
        assert text.count(begin) == text.count(end) == 1
        assert text.index(begin) < text.index(end)
    drawn, _, left = text.partition("\x1b[?1049l")
    assert "… 17 more lines" in drawn, "23 of 40 fit"
    assert "line 39" in left, "what was seen last stays, whole"


def test_a_terminal_that_cannot_draw_is_sent_text_alone() -> None:
    code, text = in_terminal(lambda _: None, TERM="dumb")
    assert code == 0
    assert "\x1b" not in text
    assert text.startswith("value 0 line 0")


@pytest.mark.parametrize(
    ("watching", "as_json", "says"), [(0, 0, "?t?"), (1, 0, "?t?"), (0, 1, '"\\u00e9t\\u00e9"'), (1, 1, "u00e9t")]
)
def test_signs_that_the_output_does_not_have_end_nothing(watching: int, as_json: int, says: str) -> None:
    script = f"""
import asyncio
from export_service.cli import terminal
async def values():
    yield "été"
once = lambda value: [value]
asyncio.run(terminal.show(values(), str, once, watch={watching}, as_json={as_json}, lines=once))
"""
    env = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "ascii:strict"}
    ended = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert says in ended.stdout


def test_a_resize_draws_anew() -> None:
    def resize(pid: int) -> None:
        os.kill(pid, signal.SIGWINCH)
        time.sleep(0.1)  # that it is drawn before the end
        os.kill(pid, signal.SIGTERM)

    code, text = in_terminal(resize)
    assert code == 128 + signal.SIGTERM
    assert "Traceback" not in text


def every_command(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, (*path, name))
        else:
            yield (*path, name), command


SILENT = {("worker",), ("console",)}
"""They run until they are stopped, and print their log."""


def test_every_command_that_prints_data_has_json_and_an_example() -> None:
    found = dict(every_command(typer.main.get_command(registered())))
    assert {("jobs",), ("watch",), ("workers",), ("topics", "lag"), ("dead-letters", "list")} <= found.keys()
    for path, command in found.items():
        assert "Example: " in (command.help or ""), path
        names = {name for parameter in command.params for name in parameter.opts}
        assert "--json" in names or path in SILENT, path


BASH = """
source <("$0" --show-completion) && complete -p export-service || exit 1
of() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _export_service_completion "$0"; echo "${COMPREPLY[*]}"; }
of export-service top
of export-service topics lag --be
"""


def test_bash_completes_commands_and_options() -> None:
    cli = str(Path(sys.executable).with_name("export-service"))
    ended = subprocess.run(["bash", "-c", BASH, cli], capture_output=True, text=True, check=False, timeout=60)
    assert ended.stderr == ""
    specification, *found = ended.stdout.splitlines()
    assert re.fullmatch(r"complete .*-F _export_service_completion export-service", specification)
    assert found == ["topics", "--behind"]
