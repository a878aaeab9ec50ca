"""The fold gives the same job whatever order, repeats and crashes its events went through."""

from copy import copy
from datetime import UTC, datetime, timedelta
from itertools import product
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export_service.jobs import JobState, Step, fold
from export_service.messages import (
    AttemptOpened,
    ExportRequested,
    JobAccepted,
    JobCancelled,
    JobEvent,
    JobInfo,
    JobPlanned,
    JobStatus,
    Outcome,
    PlanFailed,
    TaskResult,
    TaskResults,
)
from export_service.shards import SHARD_TASKS, Shard

START = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)
JOB = JobInfo(job_id="j", export_id="e", user_id="u", requested_at=START, destination="file:///out/")
Events = list[JobEvent]
EXAMPLES = settings().max_examples
"""Of the profile: more of them where there is more to find."""


class Tables:
    """Two tables, as the tally has them, and what it sent."""

    def __init__(self) -> None:
        self.state: JobState | None = None
        self.shards: dict[tuple[int, int], Shard] = {}
        self.completions: list[int] = []
        self.cancels: list[int] = []
        self.reruns: list[int] = []

    def apply(self, event: JobEvent, offset: int) -> Step:
        at = START + timedelta(seconds=offset + 1)
        step = fold(self.state, event, offset, at, lambda *key: self.shards.get(key, Shard()))
        assert all(shard.offset > self.shards.get(key, Shard()).offset for key, shard in step.shards.items()), "what is ahead stays"
        assert step.changed or step.state == (self.state or step.state)
        if step.changed:
            # Through bytes and back, as in the changelog.
            self.state = JobState.model_validate_json(step.state.to_bytes())
        self.shards = self.shards | {key: Shard.from_bytes(shard.to_bytes()) for key, shard in step.shards.items()}
        self.completions = [*self.completions, *([offset] if step.completes else [])]
        self.cancels = [*self.cancels, *([offset] if step.cancels else [])]
        self.reruns = [*self.reruns, *([offset] if step.reruns else [])]
        return step

    def summary(self) -> tuple[object, ...]:
        state = self.state
        assert state is not None
        return (
            state.status,
            state.total,
            state.succeeded,
            state.failed,
            state.cancelled,
            state.bytes,
            {key: s._replace(offset=0) for key, s in self.shards.items() if key[0] >= state.plan and s.tally() != (0, 0, 0, 0)},
        )


def run(events: Events) -> Tables:
    tables = Tables()
    for offset, event in enumerate(events):
        tables.apply(event, offset)
    return tables


@st.composite
def jobs(draw: st.DrawFn) -> tuple[Events, list[Outcome]]:
    """Events of a whole job: some batches of outcomes (one outcome a task), and the plan."""
    total = draw(st.integers(0, 40))
    indices = range(total)
    outcomes = [draw(st.sampled_from(Outcome)) for _ in indices]
    results = [
        TaskResult(index=i, outcome=o, name=f"n{i}", url=f"http://h/{i}", bytes=i + 1 if o is Outcome.SUCCEEDED else 0)
        for i, o in zip(indices, outcomes, strict=True)
    ]
    events: Events = []
    while results:
        size = draw(st.integers(1, len(results)))
        events.append(TaskResults(job_id="j", attempt=1, results=tuple(results[:size])))
        results = results[size:]
    return [*events, JobPlanned(job=JOB, total_tasks=total)], outcomes


def opened(attempt: int, token: bool = True) -> AttemptOpened:
    return AttemptOpened(request=ExportRequested(job=JOB.model_copy(update={"attempt": attempt, "has_task_token": token})))


def results(attempt: int, outcomes: dict[int, Outcome]) -> TaskResults:
    done = Outcome.SUCCEEDED
    return TaskResults(
        job_id="j",
        attempt=attempt,
        results=tuple(
            TaskResult(index=i, outcome=o, name=f"n{i}", url=f"http://h/{i}", bytes=i + 1 if o is done else 0)
            for i, o in outcomes.items()
        ),
    )


@st.composite
def histories(draw: st.DrawFn) -> Events:
    """A job that is asked for several times and cancelled, at any moment, some of its plans failing, and stale outcomes in between."""
    total = draw(st.integers(1, 6))
    tolerated = draw(st.integers(0, 2))
    events: Events = []
    for attempt in range(1, draw(st.integers(2, 4)) + 1):
        job = JOB.model_copy(update={"attempt": attempt, "tolerated_failures": tolerated})
        plan = PlanFailed(job=job, cause="c") if draw(st.integers(0, 5)) == 0 else JobPlanned(job=job, total_tasks=total)
        accepted = [JobAccepted(job=job)] if draw(st.booleans()) else []
        of = st.dictionaries(st.integers(0, total - 1), st.sampled_from(Outcome), max_size=3)
        stale = [results(draw(st.integers(1, attempt)), draw(of)) for _ in range(draw(st.integers(0, 4)))]
        rest = [results(attempt, {i: draw(st.sampled_from(Outcome))}) for i in range(total)] if draw(st.booleans()) else []
        begun: Events = [opened(attempt, draw(st.booleans()))] if attempt > 1 else []
        events += begun
        of_attempt = draw(st.sampled_from([None, attempt, 1]))
        cancelled = [JobCancelled(job_id="j", attempt=of_attempt, cause="c")] if draw(st.integers(0, 3)) == 0 else []
        events += draw(st.permutations([plan, *accepted, *stale, *rest, *cancelled]))
    return events


def test_a_crash_after_the_next_attempt_began_repairs_the_run_that_was_stopped_before_it() -> None:
    """Only the newest run was known to have been stopped: what the one before it had cancelled was lost (found by the test above, once)."""
    job = JOB.model_copy(update={"tolerated_failures": 1})
    failed = [results(1, {index: Outcome.FAILED}) for index in range(2)]
    events: Events = [JobPlanned(job=job, total_tasks=3), *failed, opened(2), PlanFailed(job=job, cause="c")]
    expected, kept = run(events), Tables()
    kept.state = expected.state
    for offset, event in enumerate(events):
        kept.apply(event, offset)
    assert kept.summary() == expected.summary()


@pytest.mark.parametrize("plan_first", [True, False])
def test_a_crash_that_keeps_the_shards_of_a_job_that_stopped_ends_it_again_for_the_same_reason(plan_first: bool) -> None:
    """What the stop had cancelled was counted as if the tasks had ended; or, where the plan came last, not at all, and it never ended."""
    plan = JobPlanned(job=JOB.model_copy(update={"tolerated_failures": 1}), total_tasks=3)
    failed = results(1, {0: Outcome.FAILED, 1: Outcome.FAILED})
    events: Events = [plan, failed] if plan_first else [failed, plan]
    expected, kept = run(events), Tables()
    kept.shards = dict(expected.shards)
    last = [kept.apply(event, offset) for offset, event in enumerate(events)][-1]
    assert kept.state == expected.state
    assert (last.completes, last.cancels) == (True, True)


def test_a_crash_that_keeps_the_shards_of_a_job_that_went_on_does_not_stop_it() -> None:
    """A failure that had been made good since still counted when the plan came, and stopped the job there (found by a longer search)."""
    failed = [results(1, {0: Outcome.FAILED}), results(1, {1: Outcome.FAILED})]
    plan = JobPlanned(job=JOB.model_copy(update={"tolerated_failures": 1}), total_tasks=3)
    events: Events = [*failed, results(1, {0: Outcome.SUCCEEDED}), plan, results(1, {2: Outcome.CANCELLED})]
    expected, kept = run(events), Tables()
    kept.state, kept.shards = run(events[:2]).state, dict(expected.shards)
    for offset, event in enumerate(events):
        kept.apply(event, offset)
    assert kept.state == expected.state
    assert kept.completions == [4]


def test_a_crash_that_keeps_the_shards_of_a_job_that_stopped_counts_the_failures_of_all_of_them() -> None:
    """Those of shards that the last event was not about were not counted, and the job never ended."""
    plan = JobPlanned(job=JOB.model_copy(update={"tolerated_failures": 1}), total_tasks=SHARD_TASKS + 2)
    events: Events = [plan, results(1, {0: Outcome.FAILED}), results(1, {SHARD_TASKS: Outcome.FAILED})]
    expected, kept = run(events), Tables()
    kept.shards = dict(expected.shards)
    for offset, event in enumerate(events):
        kept.apply(event, offset)
    assert kept.state == expected.state
    assert kept.completions == [2]


def test_a_crash_that_loses_what_the_last_event_cancelled_is_healed_by_that_event_alone() -> None:
    events: Events = [JobPlanned(job=JOB, total_tasks=2), JobCancelled(job_id="j", cause="by hand")]
    expected, kept = run(events), Tables()
    kept.state = expected.state
    kept.apply(events[1], 1)
    assert kept.summary() == expected.summary()


def test_a_crash_does_not_bring_back_what_an_older_list_had() -> None:
    """In a run that was planned anew a task is another file."""
    again = JobPlanned(job=JOB.model_copy(update={"attempt": 2}), total_tasks=1)
    failed = results(2, {0: Outcome.FAILED})
    events: Events = [results(1, {0: Outcome.SUCCEEDED}), PlanFailed(job=JOB, cause="c"), opened(2), again, failed]
    expected, kept = run(events), Tables()
    kept.state, kept.shards = expected.state, run(events[:1]).shards
    for offset, event in enumerate(events):
        kept.apply(event, offset)
    assert kept.summary() == expected.summary()


@given(st.data())
@settings(max_examples=3 * EXAMPLES)
def test_a_failed_job_runs_again_without_what_has_succeeded(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 20))
    first = {i: data.draw(st.sampled_from(Outcome)) for i in range(total)}
    tables = run([*(results(1, {i: o}) for i, o in first.items()), JobPlanned(job=JOB, total_tasks=total)])
    done = {i for i, o in first.items() if o is Outcome.SUCCEEDED}
    failed = {i for i, o in first.items() if o is Outcome.FAILED}
    step = tables.apply(opened(2), total + 1)
    state = step.state
    if not failed:
        assert (step.completes, step.reruns, state.attempt) == (True, False, 2)
        return
    assert (step.reruns, state.run, state.succeeded, state.failed, state.cancelled) == (True, 2, len(done), 0, 0)
    assert {i for i in range(total) if tables.shards.get((2, 0), Shard()).succeeded >> i & 1} == done
    second = {i: data.draw(st.sampled_from(Outcome)) for i in range(total) if i not in done}
    # A batch of the first attempt that a dead worker had: its failures are old news, its successes are not.
    late = data.draw(st.dictionaries(st.sampled_from(sorted(second)), st.sampled_from(Outcome), max_size=3))
    events: Events = [results(1, late)]
    events += [results(2, {i: o}) for i, o in second.items()]
    shuffled: Events = data.draw(st.permutations(events))
    for offset, event in enumerate(shuffled, start=total + 2):
        tables.apply(event, offset)
    late_done = {i for i, o in late.items() if o is Outcome.SUCCEEDED}
    by_now = done | {i for i, o in second.items() if o is Outcome.SUCCEEDED}
    assert tables.state is not None
    assert tables.state.status.terminal
    # A success that comes after the end does not count any more.
    assert len(by_now) <= tables.state.succeeded <= len(by_now | late_done)
    assert tables.state.succeeded + tables.state.failed + tables.state.cancelled == total


def test_a_new_token_of_a_job_under_way_gets_its_answer_and_a_request_without_one_does_not() -> None:
    whole = results(1, {0: Outcome.SUCCEEDED})
    tables = run([opened(2), JobPlanned(job=JOB, total_tasks=1), opened(3, token=False), whole])
    assert tables.state is not None
    assert (tables.state.attempt, tables.state.run, tables.completions, tables.reruns) == (2, 1, [3], [])
    assert tables.state.job is not None
    assert tables.state.job.has_task_token


def test_a_new_token_of_a_job_that_succeeded_is_answered_at_once_with_the_times_of_the_job() -> None:
    tables = run([results(1, {0: Outcome.SUCCEEDED}), JobPlanned(job=JOB, total_tasks=1)])
    assert tables.state is not None
    ended = tables.state.completed_at
    tables.apply(opened(2), 2)
    assert (tables.completions, tables.state.attempt, tables.state.completed_at) == ([1, 2], 2, ended)
    assert not tables.apply(opened(2), 3).completes, "an older token, or the same again"


def test_a_job_whose_plan_failed_is_planned_anew_and_old_outcomes_do_not_count() -> None:
    tables = run([results(1, {0: Outcome.SUCCEEDED}), PlanFailed(job=JOB, cause="no manifest"), opened(2)])
    assert tables.reruns == [2]
    tables.apply(results(1, {1: Outcome.SUCCEEDED}), 3)
    tables.apply(JobPlanned(job=JOB.model_copy(update={"attempt": 2}), total_tasks=1), 4)
    assert tables.state is not None
    assert (tables.state.status, tables.state.finished, tables.state.first_offset) == (JobStatus.RUNNING, 0, 2)
    tables.apply(results(2, {0: Outcome.SUCCEEDED}), 5)
    assert tables.state.status is JobStatus.COMPLETED


def test_a_job_that_is_cancelled_counts_what_is_left_and_stays_cancelled() -> None:
    cancel = JobCancelled(job_id="j", cause="by hand")
    total = SHARD_TASKS + 3
    tables = run([JobPlanned(job=JOB, total_tasks=total), results(1, {0: Outcome.SUCCEEDED, 1: Outcome.FAILED}), cancel])
    state = tables.state
    assert state is not None
    assert (state.status, state.error, state.cause) == (JobStatus.CANCELLED, "ExportCancelled", "by hand")
    assert (state.succeeded, state.failed, state.cancelled, tables.completions) == (1, 1, total - 2, [2])
    assert not tables.apply(results(1, {5: Outcome.SUCCEEDED}), 3).changed
    assert not tables.apply(cancel, 4).changed


def test_a_job_is_known_before_its_list_is_read() -> None:
    tables = run([JobAccepted(job=JOB), JobCancelled(job_id="j", cause="by hand")])
    assert tables.state is not None
    assert (tables.state.job, tables.state.status) == (JOB, JobStatus.CANCELLED)


def test_a_token_that_nobody_waits_for_does_not_end_a_job_that_a_newer_one_waits_for() -> None:
    dead = JobCancelled(job_id="j", attempt=1, cause="TaskTimedOut")
    tables = run([JobPlanned(job=JOB, total_tasks=2), opened(2), dead])
    assert tables.state is not None
    assert tables.state.status is JobStatus.RUNNING
    assert tables.apply(dead.model_copy(update={"attempt": 2}), 3).cancels


def test_a_deadline_is_a_failure_that_may_be_tried_again_from_where_it_was() -> None:
    late = JobCancelled(job_id="j", error="ExportDeadlineExceeded", cause="not done in 5 s")
    tables = run([JobPlanned(job=JOB, total_tasks=3), results(1, {1: Outcome.SUCCEEDED}), late])
    assert tables.state is not None
    assert (tables.state.status, tables.state.cancelled) == (JobStatus.FAILED, 2)
    step = tables.apply(opened(2), 3)
    assert (step.reruns, step.state.succeeded, step.state.cancelled) == (True, 1, 0)


@given(st.data())
def test_a_job_stops_when_more_has_failed_than_it_tolerates_and_not_before(data: st.DataObject) -> None:
    total, tolerated = data.draw(st.integers(1, 30)), data.draw(st.integers(0, 5))
    job = JOB.model_copy(update={"tolerated_failures": tolerated})
    outcomes = [data.draw(st.sampled_from([Outcome.SUCCEEDED, Outcome.FAILED])) for _ in range(total)]
    failed = outcomes.count(Outcome.FAILED)
    tables = run([JobPlanned(job=job, total_tasks=total), *(results(1, {i: o}) for i, o in enumerate(outcomes))])
    state = tables.state
    assert state is not None
    assert len(tables.completions) == 1
    if failed <= tolerated:
        assert (state.status, state.failed, state.cancelled) == (JobStatus.COMPLETED, failed, 0)
    elif tolerated == 0:
        assert (state.status, state.failed, state.cancelled) == (JobStatus.COMPLETED_WITH_FAILURES, failed, 0), (
            "nobody asked to stop"
        )
    else:
        assert (state.status, state.failed) == (JobStatus.COMPLETED_WITH_FAILURES, tolerated + 1)
        assert state.finished == total


@given(jobs(), st.data())
@settings(max_examples=3 * EXAMPLES)
def test_any_order_and_any_repeats_give_the_same_job(job: tuple[Events, list[Outcome]], data: st.DataObject) -> None:
    events, outcomes = job
    repeated = data.draw(st.lists(st.sampled_from(events), max_size=10))
    shuffled = data.draw(st.permutations(events + repeated))
    tables = run(shuffled)
    assert tables.summary() == run(events).summary()
    assert tables.state is not None
    assert tables.state.status.terminal
    assert tables.state.succeeded == outcomes.count(Outcome.SUCCEEDED)
    assert tables.state.failed == outcomes.count(Outcome.FAILED)
    assert tables.state.bytes == sum(i + 1 for i, o in enumerate(outcomes) if o is Outcome.SUCCEEDED)
    assert len(tables.completions) == 1


@given(jobs(), st.data())
@settings(max_examples=3 * EXAMPLES)
def test_a_crash_that_keeps_one_table_and_loses_the_other_is_healed_by_the_replay(
    job: tuple[Events, list[Outcome]], data: st.DataObject
) -> None:
    events, _ = job
    check_any_crash(events, data)


@given(st.data())
@settings(max_examples=5 * EXAMPLES)
def test_so_is_one_between_the_attempts_of_a_job(data: st.DataObject) -> None:
    check_any_crash(data.draw(histories()), data)


@given(st.data())
@settings(max_examples=3 * EXAMPLES)
def test_so_is_one_of_a_job_with_several_shards(data: st.DataObject) -> None:
    with patch("export_service.jobs.SHARD_TASKS", 2):
        check_any_crash(data.draw(histories()), data)


def check_any_crash(events: Events, data: st.DataObject) -> None:
    state_at, shards_at = data.draw(st.integers(0, len(events))), data.draw(st.integers(0, len(events)))
    check_crash(events, stages(events), state_at, shards_at, data.draw(st.integers(0, min(state_at, shards_at))))


def stages(events: Events) -> list[Tables]:
    """The tables after none, one, … and all of the events."""
    tables, found = Tables(), [Tables()]
    for offset, event in enumerate(events):
        tables.apply(event, offset)
        found.append(copy(tables))
    return found


def check_crash(events: Events, whole: list[Tables], state_at: int, shards_at: int, replay_from: int) -> None:
    """Writes of one changelog are kept in order: each table comes back as it was after some event that was not acked yet."""
    expected, tables = whole[-1], Tables()
    tables.state, tables.shards = whole[state_at].state, whole[shards_at].shards
    for offset in range(replay_from, len(events)):
        tables.apply(events[offset], offset)
    assert tables.summary() == expected.summary()
    assert tables.state == expected.state, "its offsets and times too"
    # What an attempt before the newest one was told may be lost with it: nobody waits for that any more.
    for sent, wanted in (
        (tables.completions, expected.completions),
        (tables.cancels, expected.cancels),
        (tables.reruns, expected.reruns),
    ):
        again = [offset for offset in wanted if offset >= replay_from]
        assert set(sent) <= set(again)
        assert len(sent) == len(set(sent))
    assert expected.state is not None
    if (last := expected.state.completed_offset) is not None and last >= replay_from:
        assert last in tables.completions
    elif expected.reruns and last is None and expected.reruns[-1] >= replay_from:
        assert expected.reruns[-1] in tables.reruns
    newest = expected.state.runs[-1]
    if newest.stopped and newest.ended is not None and newest.ended >= replay_from:
        assert newest.ended in tables.cancels


def planned(attempt: int, total: int, tolerated: int = 0) -> JobPlanned:
    return JobPlanned(job=JOB.model_copy(update={"attempt": attempt, "tolerated_failures": tolerated}), total_tasks=total)


S, F, C = Outcome.SUCCEEDED, Outcome.FAILED, Outcome.CANCELLED
HISTORIES: dict[str, Events] = {
    "ends with failures, then well, then is asked for again": [
        *(JobAccepted(job=JOB), results(1, {0: F}), planned(1, 5, 1), results(1, {1: S, 4: F}), results(1, {0: S, 2: F, 3: S})),
        *(opened(2), results(2, {2: S}), results(1, {4: F}), results(2, {4: F}), opened(3), results(3, {4: S})),
    ],
    "stops, stops again, is cancelled, and is asked for once more": [
        *(planned(1, 6, 1), results(1, {0: S, 5: S}), results(1, {1: F, 4: F}), opened(2), results(2, {2: F}), results(1, {1: S})),
        *(results(2, {4: F}), opened(3), results(3, {3: S}), JobCancelled(job_id="j", cause="c"), opened(4), results(4, {2: S})),
    ],
    "stops when its plan comes, and ends by its deadline": [
        *(
            results(1, {0: F, 3: F}),
            results(1, {1: C}),
            planned(1, 4, 1),
            opened(2),
            opened(3),
            results(3, {0: S}),
            results(2, {1: F}),
        ),
        JobCancelled(job_id="j", error="ExportDeadlineExceeded", cause="c"),
    ],
    "is planned anew, by another list": [
        *(
            results(1, {0: S, 3: S}),
            PlanFailed(job=JOB, cause="c"),
            opened(2),
            planned(2, 4),
            results(1, {1: S}),
            results(2, {0: F}),
        ),
        *(results(2, {1: F, 2: S, 3: S}), opened(3), results(2, {0: S}), results(3, {0: F, 1: S}), opened(4)),
    ],
    "goes on after a failure was made good": [
        results(1, {0: F}),
        results(1, {1: F}),
        results(1, {0: S}),
        planned(1, 3, 1),
        results(1, {2: C}),
    ],
}


@pytest.mark.parametrize("shard_tasks", [2, SHARD_TASKS])
@pytest.mark.parametrize("events", HISTORIES.values(), ids=HISTORIES)
def test_every_crash_of_a_job_that(events: Events, shard_tasks: int) -> None:
    with patch("export_service.jobs.SHARD_TASKS", shard_tasks):
        whole = stages(events)
        for state_at, shards_at in product(range(len(events) + 1), repeat=2):
            for replay_from in range(min(state_at, shards_at) + 1):
                check_crash(events, whole, state_at, shards_at, replay_from)


@given(jobs(), st.data())
def test_the_verdict_is_frozen_and_a_late_success_does_not_flip_it(job: tuple[Events, list[Outcome]], data: st.DataObject) -> None:
    events, outcomes = job
    tables = run(events)
    before = tables.state
    if not outcomes:
        return
    index = data.draw(st.integers(0, len(outcomes) - 1))
    late = TaskResult(index=index, outcome=Outcome.SUCCEEDED, name="n", url="http://h/", bytes=7)
    step = tables.apply(TaskResults(job_id="j", attempt=1, results=(late,)), len(events))
    assert tables.state == before
    assert not step.changed
    assert not step.completes


def test_success_wins_over_failure_inside_an_attempt_until_it_ends() -> None:
    def outcome(kind: Outcome) -> TaskResults:
        return TaskResults(job_id="j", attempt=1, results=(TaskResult(index=0, outcome=kind, name="n", url="u", bytes=5),))

    for order in ([Outcome.FAILED, Outcome.SUCCEEDED], [Outcome.SUCCEEDED, Outcome.FAILED]):
        tables = run([*map(outcome, order), JobPlanned(job=JOB, total_tasks=1)])
        assert tables.state is not None
        assert (tables.state.status, tables.state.succeeded, tables.state.failed) == (JobStatus.COMPLETED, 1, 0)


def test_counters_never_pass_the_total_when_a_second_plan_of_a_shrunken_manifest_wins() -> None:
    wide = SHARD_TASKS + 5
    results = tuple(TaskResult(index=i, outcome=Outcome.SUCCEEDED, name=f"n{i}", url="u") for i in (0, 1, 2, SHARD_TASKS, wide))
    tables = run([TaskResults(job_id="j", attempt=1, results=results), JobPlanned(job=JOB, total_tasks=3)])
    assert tables.state is not None
    assert (tables.state.succeeded, tables.state.status) == (3, JobStatus.COMPLETED)


@given(st.builds(Shard, *[st.integers(0, 2**SHARD_TASKS - 1)] * 3, *[st.integers(0, 2**63 - 1)] * 2))
def test_a_shard_survives_its_bytes(shard: Shard) -> None:
    assert Shard.from_bytes(shard.to_bytes()) == shard
    assert len(shard.to_bytes()) <= 18 + 3 * (2 + SHARD_TASKS // 8)


def test_zero_tasks_is_a_success() -> None:
    tables = run([JobPlanned(job=JOB, total_tasks=0)])
    assert tables.state is not None
    assert (tables.state.status, tables.state.total, tables.completions) == (JobStatus.COMPLETED, 0, [0])
