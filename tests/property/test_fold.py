"""The fold gives the same job whatever order, repeats and crashes its events went through."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from export_service.jobs import SHARD_TASKS, JobState, Shard, Step, fold
from export_service.messages import JobEvent, JobInfo, JobPlanned, JobStatus, Outcome, TaskResult, TaskResults

START = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)
JOB = JobInfo(job_id="j", export_id="e", user_id="u", requested_at=START, destination="file:///out/")
Events = list[JobEvent]


class Tables:
    """Two tables, as the tally has them, and what it sent."""

    def __init__(self) -> None:
        self.state: JobState | None = None
        self.shards: dict[int, Shard] = {}
        self.completions: list[int] = []

    def apply(self, event: JobEvent, offset: int) -> Step:
        at = START + timedelta(seconds=offset + 1)
        step = fold(self.state, event, offset, at, lambda number: self.shards.get(number, Shard()))
        if step.changed:
            # Through bytes and back, as in the changelog.
            self.state = JobState.model_validate_json(step.state.to_bytes())
        self.shards |= {number: Shard.from_bytes(shard.to_bytes()) for number, shard in step.shards.items()}
        if step.completes:
            self.completions.append(offset)
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
            {n: replace(s, offset=0) for n, s in self.shards.items()},
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


@given(jobs(), st.data())
@settings(max_examples=300)
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
@settings(max_examples=300)
def test_a_crash_that_keeps_one_table_and_loses_the_other_is_healed_by_the_replay(
    job: tuple[Events, list[Outcome]], data: st.DataObject
) -> None:
    events, _ = job
    expected = run(events)
    before = Tables()
    crash = data.draw(st.integers(0, len(events)))
    replay_from = data.draw(st.integers(0, crash))
    # Writes of one changelog are kept in order: each table comes back as it was after some event that was not acked yet.
    state_at, shards_at = data.draw(st.integers(replay_from, crash)), data.draw(st.integers(replay_from, crash))
    tables = Tables()
    for offset in range(crash + 1):
        if offset == state_at:
            tables.state = before.state
        if offset == shards_at:
            tables.shards = dict(before.shards)
        if offset < crash:
            before.apply(events[offset], offset)
    for offset in range(replay_from, len(events)):
        tables.apply(events[offset], offset)
    assert tables.summary() == expected.summary()
    assert tables.state == expected.state, "its offsets and times too"
    assert tables.completions == [offset for offset in expected.completions if offset >= replay_from]


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
