"""Recorded histories of every version that was released, folded by this one: their jobs end as they did."""

import asyncio
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from export_service import jobs as folding
from export_service.cli.replay_file import folded
from export_service.failures import ExportError
from export_service.history.file import read
from export_service.settings import load
from export_service.verify.finding import Difference
from export_service.verify.history import Decoded, fold

HERE = Path(__file__).parent
HISTORIES = sorted(HERE.glob("*/*.jsonl"))
COUNTS = ("completedTasks", "failedTasks", "cancelledTasks")
ENDS = {
    "attempts": [("COMPLETED_WITH_FAILURES", 6, 2, 0), ("COMPLETED_WITH_FAILURES", 7, 1, 0), *2 * [("COMPLETED", 8, 0, 0)]],
    "cancelled": [("CANCELLED", 10, 0, 10)],
    "deadline": [("FAILED", 3, 0, 3)],
    "duplicates": [("COMPLETED_WITH_FAILURES", 19, 1, 0)],
    "failures": [("COMPLETED_WITH_FAILURES", 6, 2, 0)],
    "list_changed": [("COMPLETED_WITH_FAILURES", 4, 1, 0), ("FAILED", 4, 0, 1), ("COMPLETED", 5, 0, 0)],
    "no_token": [("COMPLETED", 3, 0, 0)],
    "plan_failed": [("FAILED", 0, 0, 0), ("COMPLETED", 5, 0, 0)],
    "rebuilt": [("COMPLETED", 4, 0, 0)],
    "success": [("COMPLETED", 12, 0, 0)],
    "taken_over": [("COMPLETED", 6, 0, 0)],
    "tolerated": [("COMPLETED", 9, 1, 0)],
}
"""Status, and succeeded, failed, cancelled, of each attempt that ended. Not `tolerance`: what was done by its end is a race."""


def of(path: Path) -> tuple[list[dict[str, Any]], list[Difference]]:
    return asyncio.run(folded(load(), read(path)))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_recorded_history_ends_as_it_did(path: Path) -> None:
    ends, differences = of(path)
    assert differences == []
    found = [(end["status"], *(end.get(name, 0) for name in COUNTS)) for end in ends]
    if path.stem in ENDS:
        assert found == ENDS[path.stem]
    else:
        assert found[0][0] == "COMPLETED_WITH_FAILURES"
        assert found[0][3] > 0, "it stopped"
    # The oracle, which folds for itself, says the same.
    results = [Decoded(raw, json.loads(raw.value or b"")) for raw in read(path).records["results"]]
    oracle = fold(results)
    assert [(end.status, *end.counts) for _, end in sorted(oracle.ends.items())] == found


def test_all_kinds_of_ends_are_among_them() -> None:
    assert {path.stem for path in HISTORIES if path.parent.name == "0.1.0"} == {*ENDS, "tolerance"}


def test_a_fold_that_has_changed_is_found_and_shown_field_by_field() -> None:
    with patch.object(folding, "_tolerated", lambda _: True):
        _, differences = of(HERE / "0.1.0" / "failures.jsonl")
    said = {(each.field, each.found, each.fold) for each in differences}
    assert {("status", "COMPLETED_WITH_FAILURES", "COMPLETED"), ("error", "JobCompletedWithFailures", None)} <= said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "line 1, is no JSON object"),
        ('{"jobs": []}', "is no history"),
        ('{"history": 2}', "has format 2, and this version reads 1"),
        ('{"history": 1}\n{"topic": "results"', "line 2, is no JSON object: the file is cut off"),
        ('{"history": 1}\n{"topic": "results"}', "line 2, is no record"),
    ],
)
def test_a_file_that_is_none_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(text)
    with pytest.raises(ExportError, match=sentence):
        read(path)


def test_a_record_from_the_future_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(
        (HERE / "0.1.0" / "success.jsonl").read_text().replace('"v":1,"type":"JobPlanned"', '"v":2,"type":"JobPlanned"')
    )
    with pytest.raises(ExportError, match=r"results:\d:\d+ has schema version 2, and this version of export-service reads 1"):
        of(path)
