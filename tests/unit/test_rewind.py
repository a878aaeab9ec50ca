"""Which jobs are counted again when a group goes back, and from where."""

from datetime import UTC, datetime

import pytest
import typer

from export_service.cli.rewind import _roles
from export_service.jobs import JobState
from export_service.messages import OperatorAction
from export_service.rewind import Again, Move, Plan, counted_again, moved_since
from streams.rewind import _further

AT = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)


def state(first: int, last: int, plan: int = 1) -> JobState:
    return JobState(first_offset=first, offset=last, plan=plan, updated_at=AT)


STATES = {"old": state(2, 9), "long": state(5, 30), "new": state(20, 25), "replanned": state(22, 28, plan=2)}


def tally(target: int, committed: int | None = 40, begin: int = 0) -> Move:
    return Move("tally", "results", 0, begin, 40, committed, target)


def test_jobs_that_have_moved_since_are_counted_again_from_the_first_event_of_the_first() -> None:
    assert moved_since(STATES, 21) == ["long", "new", "replanned"]
    assert counted_again(STATES, ["new", "long"], 0) == Again(("long", "new"), (), 5)
    assert counted_again(STATES, ["replanned"], 0) == Again(("replanned",), (), 0), "where it began is not in its state any more"
    known = {"replanned": STATES["replanned"].but(origin=7)}
    assert counted_again(known, ["replanned"], 6) == Again(("replanned",), (), 7)


def test_a_job_whose_beginning_is_gone_stays() -> None:
    assert counted_again(STATES, ["new", "long", "replanned"], 6) == Again(("new",), ("long", "replanned"), 20)
    assert counted_again(STATES, [], 6) == Again((), (), None)


@pytest.mark.parametrize(
    ("again", "target", "alone", "before", "goes_to"),
    [
        (Again(("long",), (), 5), 21, False, None, 5),
        (Again((), (), None), 21, False, None, 21),
        (Again(("new",), (), 20), 0, True, None, 20),
        (Again((), (), None), 0, True, None, 40),
        (Again((), (), None), 21, False, 7, 7),
    ],
)
def test_the_tally_goes_back_far_enough(again: Again, target: int, alone: bool, before: int | None, goes_to: int) -> None:
    fields = {"id": "1", "action": "rewind", "subject": "export", "stage": "begun", "who": "me", "at": AT}
    unfinished = (
        OperatorAction.model_validate(fields | {"details": {"targets": {"tally:0": before}}}) if before is not None else None
    )
    assert _further(tally(target), {0: again}, unfinished, alone=alone).target == goes_to


def test_a_group_only_goes_back() -> None:
    assert tally(39).moves
    assert not tally(40).moves
    assert not tally(5, committed=None).moves, "it begins at the beginning anyway"


def test_the_plan_says_what_is_dangerous() -> None:
    download = Move("download", "tasks", 1, 0, 9, 9, 3)
    plan = Plan([tally(5), download], ["long"], ["old"], [("jobs", 0, b"long"), ("shards", 0, b"long/0")], AT)
    text = plan.as_text("export")
    for said in (
        "40 -> 5  (35 records again)",
        "9 -> 3",
        "1 jobs are counted again",
        "2 entries go",
        "job old: retention",
        "files are",
    ):
        assert said in text
    assert plan.as_object()["offsets"][1] == {"role": "download", "topic": "tasks", "partition": 1, "from": 9, "to": 3}


def test_roles() -> None:
    assert _roles(None) == ("tally", "callback", "snapshot")
    assert _roles("tally, plan,tally") == ("tally", "plan")
    assert "download" in _roles("all")
    with pytest.raises(typer.BadParameter, match="'watch' is none of"):
        _roles("watch")
