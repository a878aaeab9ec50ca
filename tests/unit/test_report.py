"""The report has each task's outcome that counts, once, whatever the topic says more."""

import csv
import io
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import pytest

from agents import report as reporting
from agents.report import Reporter
from connectors.destinations import StoreDestinations
from export_service.memory_share import MemoryShare
from export_service.messages import JobCompleted, JobSnapshot, JobStatus, Outcome, ResultsRange, TaskResult, TaskResults

OK, BAD, GONE = Outcome.SUCCEEDED, Outcome.FAILED, Outcome.CANCELLED


def event(*outcomes: tuple[int, Outcome], attempt: int = 1) -> TaskResults:
    results = tuple(
        TaskResult(
            index=index, outcome=outcome, name=f"n\u00e9-{index}", url=f"http://h/{index}", error=None if outcome is OK else "E"
        )
        for index, outcome in outcomes
    )
    return TaskResults(job_id="j", attempt=attempt, results=results)


async def written(
    folder: Path, events: list[TaskResults], total: int, form: Literal["jsonl", "csv"] = "jsonl", plan: int = 1, run: int = 1
) -> str:
    async def read(_job: str, _range: ResultsRange) -> AsyncIterator[TaskResults]:
        for each in events:
            yield each

    uri = folder.as_uri() + "/"
    snapshot = JobSnapshot(
        job_id="j", attempt=1, version=1, status=JobStatus.COMPLETED, total_tasks=total, updated_at=datetime.now(UTC),
        destination=uri, report_uri=f"{uri}_report.{form}",
    )  # fmt: skip
    completed = JobCompleted(
        id="j:1",
        snapshot=snapshot,
        report_format=form,
        events=ResultsRange(partition=0, first=0, last=len(events)),
        plan=plan,
        run=run,
    )
    with ThreadPoolExecutor(1) as pool:
        await Reporter(read, StoreDestinations(cast("Any", None), pool, MemoryShare(0))).write(completed)
    return (folder / f"_report.{form}").read_text()


def outcomes(text: str) -> list[tuple[int, str]]:
    return [(line["index"], line["outcome"]) for line in map(json.loads, text.splitlines())]


@pytest.mark.parametrize("in_memory", [True, False], ids=["sorted in memory", "read twice"])
async def test_the_best_outcome_of_each_task_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool) -> None:
    if not in_memory:
        monkeypatch.setattr(reporting, "_IN_MEMORY", 0)
    events = [
        event((9000, OK), (1, BAD)),
        event((0, GONE), (1, OK), (2, BAD), (2, GONE)),
        event((1, OK), (1, BAD), (0, BAD), (9000, OK)),
        event((9001, OK)),
    ]
    found = outcomes(await written(tmp_path, events, 9001))
    assert sorted(found) == [(0, "FAILED"), (1, "SUCCEEDED"), (2, "FAILED"), (9000, "SUCCEEDED")]
    assert not in_memory or found == sorted(found)


async def test_failures_of_earlier_runs_and_outcomes_of_earlier_plans_are_left_out(tmp_path: Path) -> None:
    events = [event((0, OK), (1, OK)), event((0, OK), (1, BAD), attempt=2), event((1, GONE), attempt=3)]
    assert outcomes(await written(tmp_path, events, 2, plan=2, run=3)) == [(0, "SUCCEEDED"), (1, "CANCELLED")]


async def test_its_columns(tmp_path: Path) -> None:
    line = json.loads(await written(tmp_path, [event((0, BAD))], 1))
    assert line == {
        "index": 0, "name": "né-0", "url": "http://h/0", "outcome": "FAILED", "bytes": 0, "attempts": 1, "durationMs": 0, "error": "E",
    }  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(await written(tmp_path, [event((0, BAD))], 1, "csv"))))
    assert rows[0] == {**{name: str(value) for name, value in line.items()}, "sha256": "", "message": ""}


async def test_a_job_without_files_has_an_empty_report(tmp_path: Path) -> None:
    assert await written(tmp_path, [], 0) == ""
    assert await written(tmp_path, [], 0, "csv") == ",".join(reporting.FIELDS) + "\n"
