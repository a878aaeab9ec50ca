"""The whole state after each kind of event. The property tests say what holds always; here is what it looks like."""

from datetime import datetime, timedelta

import pytest

from export_service.jobs import JobState, Run, event_attempt, fold, job_of
from export_service.messages import JobAccepted, JobCancelled, JobEvent, JobStatus, Outcome, PlanFailed
from export_service.shards import SHARD_TASKS, Shard
from tests.property.test_fold import JOB, START, Tables, opened, planned, results, run

S, F, C = Outcome.SUCCEEDED, Outcome.FAILED, Outcome.CANCELLED
CANCEL = JobCancelled(job_id="j", cause="by hand")
LATE = JobCancelled(job_id="j", error="ExportDeadlineExceeded", cause="not done in 5 s")
NO_LIST = PlanFailed(job=JOB, cause="no manifest")


def at(offset: int) -> datetime:
    return START + timedelta(seconds=offset + 1)


def state(*events: JobEvent) -> JobState:
    found = run([*events]).state
    assert found is not None
    return found


def test_an_accepted_job_is_known_and_the_first_request_stands() -> None:
    expected = JobState(job=JOB, first_offset=0, offset=0, updated_at=at(0))
    assert state(JobAccepted(job=JOB)) == expected
    early = {"tallies": ((1, 0, 0, 1),), "offset": 1, "updated_at": at(1)}
    assert state(results(1, {0: S}), JobAccepted(job=JOB)) == expected.model_copy(update=early)
    assert state(JobAccepted(job=JOB), JobAccepted(job=JOB.model_copy(update={"user_id": "other"}))) == expected


def test_a_planned_job_runs_and_the_first_plan_stands() -> None:
    plan = planned(1, 5).model_copy(update={"plan_digest": "d"})
    expected = JobState(
        job=JOB,
        total=5,
        plan_digest="d",
        status=JobStatus.RUNNING,
        tallies=((1, 0, 0, 1),),
        first_offset=0,
        offset=1,
        updated_at=at(1),
    )
    assert state(results(1, {0: S}), plan) == expected
    assert state(results(1, {0: S}), plan, planned(1, 7)) == expected


def test_results_are_counted_by_shard_with_their_bytes() -> None:
    counted = state(results(1, {0: S, 1: F, 3: S}), results(1, {2 * SHARD_TASKS: C, 1: S}))
    assert counted == JobState(
        tallies=((3, 0, 0, 1 + 2 + 4), (0, 0, 0, 0), (0, 0, 1, 0)), first_offset=0, offset=1, updated_at=at(1)
    )
    assert (counted.succeeded, counted.failed, counted.cancelled, counted.bytes, counted.finished) == (3, 0, 1, 7, 4)


def test_repeats_and_what_is_beyond_the_list_change_nothing() -> None:
    before: list[JobEvent] = [planned(1, SHARD_TASKS), results(1, {0: S, 1: F})]
    for nothing in (results(1, {}), results(1, {0: S}), results(1, {0: F, 1: C}), results(1, {SHARD_TASKS: S})):
        tables = run([*before])
        step = tables.apply(nothing, 2)
        assert (step.changed, step.shards, step.completes) == (False, {}, False)
        assert tables.state == state(*before)


def test_what_came_before_the_plan_and_is_beyond_it_is_never_counted() -> None:
    early = results(1, {SHARD_TASKS: S, SHARD_TASKS + 3: F})
    assert state(early, planned(1, SHARD_TASKS + 2)).tallies[1][:3] == (1, 0, 0)
    assert state(early, planned(1, SHARD_TASKS + 2), results(1, {SHARD_TASKS + 1: F})).tallies[1][:3] == (1, 1, 0)


ENDED = JobState(job=JOB, total=3, first_offset=0, offset=1, updated_at=at(1), completed_at=at(1), completed_offset=1)


def test_a_job_completes() -> None:
    assert state(planned(1, 3), results(1, {0: S, 1: S, 2: S})) == ENDED.model_copy(
        update={"status": JobStatus.COMPLETED, "tallies": ((3, 0, 0, 6),), "runs": (Run(1, -1, 1, False),)}
    )


def test_a_job_completes_with_failures_and_says_how_many() -> None:
    assert state(planned(1, 3), results(1, {0: S, 1: F, 2: F})) == ENDED.model_copy(
        update={
            "status": JobStatus.COMPLETED_WITH_FAILURES,
            "tallies": ((1, 2, 0, 1),),
            "runs": (Run(1, -1, 1, False),),
            "error": "JobCompletedWithFailures",
            "cause": "Job completed with 2 failed tasks out of 3 total",
        }
    )


def test_a_job_stops_and_says_what_was_left_of_all_its_shards() -> None:
    plan = planned(1, SHARD_TASKS + 2, 1)
    tables = run([plan, results(1, {0: F, 1: S, SHARD_TASKS: F})])
    assert tables.state == ENDED.model_copy(
        update={
            "job": plan.job,
            "total": SHARD_TASKS + 2,
            "status": JobStatus.COMPLETED_WITH_FAILURES,
            "tallies": ((1, 1, SHARD_TASKS - 2, 2), (0, 1, 1, 0)),
            "runs": (Run(1, -1, 1, True),),
            "error": "JobCompletedWithFailures",
            "cause": "Job stopped after 2 failed tasks, more than it tolerates; 8191 of 8194 total were cancelled",
        }
    )
    rest = (1 << SHARD_TASKS) - 1
    assert tables.shards == {(1, 0): Shard(0b10, 0b01, rest - 0b11, 2, 1), (1, 1): Shard(0, 0b01, 0b10, 0, 1)}
    assert tables.cancels == tables.completions == [1]


@pytest.mark.parametrize(
    ("tolerance", "failed", "status"),
    [
        ({"tolerated_failures": 2}, 2, JobStatus.COMPLETED),
        ({"tolerated_failures": 1}, 2, JobStatus.COMPLETED_WITH_FAILURES),
        ({"tolerated_failure_percentage": 50}, 2, JobStatus.COMPLETED),
        ({"tolerated_failure_percentage": 49.9}, 2, JobStatus.COMPLETED_WITH_FAILURES),
        ({"tolerated_failures": 1, "tolerated_failure_percentage": 75}, 3, JobStatus.COMPLETED),
        ({"tolerated_failures": 1, "tolerated_failure_percentage": 1}, 1, JobStatus.COMPLETED),
        ({"tolerated_failure_percentage": 0.5}, 1, JobStatus.COMPLETED_WITH_FAILURES),
        ({}, 1, JobStatus.COMPLETED_WITH_FAILURES),
    ],
)
def test_either_limit_tolerates(tolerance: dict[str, float], failed: int, status: JobStatus) -> None:
    plan = planned(1, 4)
    plan = plan.model_copy(update={"job": JOB.model_copy(update=tolerance)})
    outcomes = {index: F if index < failed else S for index in range(4)}
    assert state(plan, *(results(1, {index: outcome}) for index, outcome in reversed(outcomes.items()))).status is status


def test_a_percentage_stops_a_job_too() -> None:
    def cancels(percentage: float, failed: int) -> list[int]:
        job = JOB.model_copy(update={"tolerated_failure_percentage": percentage})
        return run([planned(1, 4).model_copy(update={"job": job}), results(1, dict.fromkeys(range(failed), F))]).cancels

    assert (cancels(25, 1), cancels(25, 2), cancels(0.5, 1)) == ([], [1], [1])


def test_a_list_that_cannot_be_read_fails_the_job() -> None:
    expected = ENDED.model_copy(
        update={
            "total": None,
            "status": JobStatus.FAILED,
            "runs": (Run(1, -1, 1, False),),
            "error": "ExportPlanFailed",
            "cause": "no manifest",
        }
    )
    assert state(JobAccepted(job=JOB), NO_LIST) == expected
    assert state(NO_LIST) == expected.model_copy(
        update={
            "offset": 0,
            "updated_at": at(0),
            "completed_at": at(0),
            "completed_offset": 0,
            "runs": (Run(1, -1, 0, False),),
        }
    )


@pytest.mark.parametrize(("event", "status"), [(CANCEL, JobStatus.CANCELLED), (LATE, JobStatus.FAILED)])
def test_a_job_is_ended_by_hand_or_by_its_deadline(event: JobCancelled, status: JobStatus) -> None:
    assert state(planned(1, 3), event) == ENDED.model_copy(
        update={
            "status": status,
            "tallies": ((0, 0, 3, 0),),
            "runs": (Run(1, -1, 1, True),),
            "error": event.error,
            "cause": event.cause,
        }
    )


def test_a_cancelled_job_without_a_list_keeps_what_it_has() -> None:
    tables = run([results(1, {0: S, SHARD_TASKS: F}), CANCEL])
    assert tables.state is not None
    assert tables.state.tallies == ((1, 0, 0, 1), (0, 1, 0, 0))
    assert tables.cancels == [1]
    assert state(JobAccepted(job=JOB), CANCEL).tallies == ()


def test_a_new_attempt_takes_over_the_answer_of_a_job_under_way() -> None:
    expected = JobState(
        attempt=2,
        job=JOB.model_copy(update={"attempt": 2, "has_task_token": True}),
        total=3,
        status=JobStatus.RUNNING,
        first_offset=0,
        offset=1,
        updated_at=at(1),
    )
    assert state(planned(1, 3), opened(2)) == expected
    # The plan may come later than the attempt, and says the attempt that it was made for.
    assert state(JobAccepted(job=JOB), opened(2), planned(1, 3)) == expected.model_copy(update={"offset": 2, "updated_at": at(2)})
    assert state(opened(2), planned(1, 3)).job == expected.job


def test_an_attempt_that_is_not_newer_or_that_nobody_waits_for_changes_nothing() -> None:
    before: list[JobEvent] = [planned(1, 3), opened(3)]
    for nothing in (opened(3), opened(2), opened(4, token=False)):
        tables = run([*before])
        step = tables.apply(nothing, 2)
        assert step.state == tables.state == state(*before)
        assert (step.changed, step.completes, step.reruns) == (False, False, False)


@pytest.mark.parametrize("token", [True, False])
def test_a_new_attempt_of_a_job_that_succeeded_hears_the_same_at_once(token: bool) -> None:
    events: list[JobEvent] = [planned(1, 1), results(1, {0: S})]
    before = state(*events)
    waiting = JOB.model_copy(update={"attempt": 2, "has_task_token": token})
    assert state(*events, opened(2, token)) == before.model_copy(
        update={"attempt": 2, "job": waiting, "offset": 2, "completed_offset": 2, "updated_at": at(2)}
    )


@pytest.mark.parametrize("token", [True, False])
def test_a_new_attempt_of_a_job_that_failed_runs_what_has_not_succeeded(token: bool) -> None:
    plan = planned(1, SHARD_TASKS + 1).model_copy(update={"plan_digest": "d"})
    tables = run([plan, results(1, {0: S, 1: F, SHARD_TASKS: F}), LATE])
    assert tables.state is not None
    tables.state = tables.state.model_copy(update={"snapshot_at": at(1)})
    request = opened(2, token)
    tables.apply(request, 3)
    assert tables.state == JobState(
        attempt=2,
        runs=(Run(1, -1, 2, True), Run(2, 3)),
        plan_digest="d",
        status=JobStatus.RUNNING,
        job=request.job,
        total=SHARD_TASKS + 1,
        tallies=((1, 0, 0, 1), (0, 0, 0, 0)),
        first_offset=0,
        offset=3,
        updated_at=at(3),
    )
    assert tables.reruns == [3]
    assert {key: shard for key, shard in tables.shards.items() if key[0] == 2} == {(2, 0): Shard(1, size=1, offset=3)}


@pytest.mark.parametrize("end", [NO_LIST, CANCEL])
def test_a_new_attempt_of_a_job_without_a_list_is_planned_anew(end: JobEvent) -> None:
    request = opened(2)
    assert state(results(1, {0: S}), end, request) == JobState(
        attempt=2,
        runs=(Run(1, -1, 1, end is CANCEL), Run(2, 2)),
        plan=2,
        job=request.job,
        first_offset=2,
        origin=0,
        offset=2,
        updated_at=at(2),
    )
    assert state(results(1, {0: S}), end, request, NO_LIST.model_copy(update={"job": request.job}), opened(3)).origin == 0


def test_a_plan_that_cannot_go_on_ends_the_job_with_its_cause() -> None:
    """Another owner of the plan found another list."""
    ended = state(planned(1, 2), NO_LIST)
    assert (ended.status, ended.error, ended.cause) == (JobStatus.FAILED, "ExportPlanFailed", "no manifest")
    assert ended.tallies == ((0, 0, 2, 0),)


def test_a_list_that_was_refused_is_not_kept() -> None:
    """The later run's plan found that the list had changed."""
    changed = PlanFailed(job=JOB.model_copy(update={"attempt": 2}), cause="the list has changed")
    events: list[JobEvent] = [
        planned(1, 2).model_copy(update={"plan_digest": "d"}),
        results(1, {0: S, 1: F}),
        opened(2),
        changed,
        opened(3),
    ]
    ended = state(*events)
    assert (ended.plan, ended.run, ended.total, ended.plan_digest, ended.tallies) == (3, 3, None, None, ())
    assert ended.status is JobStatus.PENDING


def test_a_plan_of_an_earlier_attempt_says_nothing_about_a_later_run() -> None:
    again: list[JobEvent] = [NO_LIST, opened(2)]
    for nothing in (NO_LIST, planned(1, 3)):
        tables = run([*again])
        step = tables.apply(nothing, 2)
        assert step.state == tables.state == state(*again)
        assert (step.changed, step.completes) == (False, False)


def test_a_job_may_begin_with_any_event_of_any_attempt() -> None:
    assert state(results(3, {0: S})).attempt == 3
    assert state(planned(2, 1)).attempt == 2
    assert state(CANCEL).attempt == 1
    assert state(opened(2)) == JobState(attempt=2, job=opened(2).job, first_offset=0, offset=0, updated_at=at(0))


def test_every_event_says_its_job_and_attempt() -> None:
    events: list[JobEvent] = [JobAccepted(job=JOB), NO_LIST, planned(1, 1), opened(1), results(1, {}), CANCEL]
    assert [(job_of(event), event_attempt(event)) for event in events] == [("j", 1)] * 6
    assert [event_attempt(event) for event in (planned(2, 1), results(2, {}), CANCEL.model_copy(update={"attempt": 2}))] == [
        2,
        2,
        2,
    ]


def test_the_first_offset_is_that_of_the_first_event() -> None:
    step = fold(None, JobAccepted(job=JOB), 7, at(7), lambda *_: Shard())
    assert (step.state.first_offset, step.state.offset, step.state.updated_at) == (7, 7, at(7))


def test_outcomes_of_several_attempts_in_one_run() -> None:
    """A failure of an earlier attempt is being tried again; a file that is there is there."""
    tables: Tables = run([planned(1, 3), results(1, {0: F, 1: F, 2: F}), opened(2), results(1, {0: F, 1: S}), results(2, {2: F})])
    assert tables.state is not None
    assert tables.state.tallies == ((1, 1, 0, 2),)
