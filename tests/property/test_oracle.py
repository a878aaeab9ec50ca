"""Two folds written apart, the pipeline's and the oracle's, agree on any history, also one that contradicts itself."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export_service import snapshots
from export_service.messages import ExportRequested, JobEvent, JobPlanned, Outcome, PlanFailed, Record, TaskResult, TaskResults
from export_service.shards import SHARD_TASKS
from export_service.verify.evidence import Bounds, Evidence, Raw
from export_service.verify.history import History
from export_service.verify.tables import tables_are_the_fold
from tests.property.test_fold import EXAMPLES, HISTORIES, JOB, START, histories, opened, planned, results, run

INDICES = st.sampled_from([0, 1, 2, 3, SHARD_TASKS - 1, SHARD_TASKS, SHARD_TASKS + 1])


def _result(index: int, outcome: Outcome, size: int) -> TaskResult:
    return TaskResult(index=index, outcome=outcome, name="n", url="u", bytes=size)


def _results(results: list[TaskResult]) -> JobEvent:
    return TaskResults(job_id="j", attempt=1, results=tuple(results))


def _planned(total: int, tolerated: int) -> JobEvent:
    return JobPlanned(job=JOB.model_copy(update={"tolerated_failures": tolerated}), total_tasks=total)


EVENTS: st.SearchStrategy[JobEvent] = st.one_of(
    st.lists(st.builds(_result, INDICES, st.sampled_from(Outcome), st.integers(0, 9)), min_size=1, max_size=4).map(_results),
    st.builds(_planned, st.sampled_from([0, 1, 2, 3, SHARD_TASKS]), st.integers(0, 2)),
    st.just(PlanFailed(job=JOB, cause="no manifest")),
)


def record(topic: str, offset: int, key: str, value: Record | TaskResults | bytes) -> Raw:
    at = round(START.timestamp() * 1000) + 1000 * (offset + 1)
    return Raw(topic, 0, offset, at, key.encode(), value if isinstance(value, bytes) else value.to_bytes())


def _percentage(most: float, *outcomes: Outcome) -> list[JobEvent]:
    job = JOB.model_copy(update={"tolerated_failure_percentage": most})
    ended = [results(1, {index: outcome}) for index, outcome in enumerate(outcomes)]
    return [JobPlanned(job=job, total_tasks=4), *ended]


S, F = Outcome.SUCCEEDED, Outcome.FAILED
OTHERS: list[list[JobEvent]] = [
    _percentage(25, F, S, S, S),
    _percentage(25, F, S, F),
    _percentage(0.5, F),
    [planned(2, 2), opened(2), results(2, {0: S, 1: F, 2: S}), opened(3), results(3, {1: S})],
    [opened(2), planned(2, 1), results(1, {0: S})],
    [
        planned(1, 2),
        results(1, {0: S, 1: F}),
        opened(2),
        PlanFailed(job=JOB.model_copy(update={"attempt": 2}), cause="c"),
        opened(3),
    ],
]


@given(st.one_of(st.lists(EVENTS, min_size=1, max_size=12), histories()))
@settings(max_examples=5 * EXAMPLES)
def test_tables_of_the_pipeline_are_the_fold_of_the_oracle(events: list[JobEvent]) -> None:
    check(events)


@pytest.mark.parametrize("events", [*HISTORIES.values(), *OTHERS])
def test_so_they_are_after_each_event_of_some_whole_histories(events: list[JobEvent]) -> None:
    for number in range(len(events)):
        check(events[: number + 1])


def check(events: list[JobEvent]) -> None:
    tables = run(events)
    assert tables.state is not None
    shards = [
        record("shards-changelog", n, f"j/{number}" if run == 1 else f"j/{run}.{number}", shard.to_bytes())
        for n, ((run, number), shard) in enumerate(tables.shards.items())
    ]
    evidence = Evidence(
        settled=True,
        partitions={("results", 0): Bounds(0, len(events), len(events))},
        records={
            "requests": (record("requests", 0, "j", ExportRequested(job=JOB)),),
            "results": tuple(record("results", offset, "j", event) for offset, event in enumerate(events)),
            "jobs-changelog": (record("jobs-changelog", 0, "j", tables.state),),
            "shards-changelog": tuple(shards),
        },
        snapshots={"j": snapshots.of("j", tables.state).model_dump(mode="json", by_alias=True, exclude_none=True)},
    )
    finding = tables_are_the_fold(History(evidence))
    assert (finding.violations, finding.gaps) == ([], [])
