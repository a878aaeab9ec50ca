"""Two folds written apart, the pipeline's and the oracle's, agree on any history, also one that contradicts itself."""

from hypothesis import given, settings
from hypothesis import strategies as st

from export_service import snapshots
from export_service.messages import ExportRequested, JobEvent, JobPlanned, Outcome, PlanFailed, Record, TaskResult, TaskResults
from export_service.shards import SHARD_TASKS
from export_service.verify.evidence import Bounds, Evidence, Raw
from export_service.verify.history import History
from export_service.verify.tables import tables_are_the_fold
from tests.property.test_fold import EXAMPLES, JOB, START, histories, run

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


def record(topic: str, offset: int, key: str, value: Record | bytes) -> Raw:
    at = round(START.timestamp() * 1000) + 1000 * (offset + 1)
    return Raw(topic, 0, offset, at, key.encode(), value if isinstance(value, bytes) else value.to_bytes())


@given(st.one_of(st.lists(EVENTS, min_size=1, max_size=12), histories()))
@settings(max_examples=5 * EXAMPLES)
def test_tables_of_the_pipeline_are_the_fold_of_the_oracle(events: list[JobEvent]) -> None:
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
