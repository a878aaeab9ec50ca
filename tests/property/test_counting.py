"""What an event brings, by shard, is what a plain loop over its results finds."""

from hypothesis import given
from hypothesis import strategies as st

from export_service.counting import by_shard
from export_service.messages import Outcome, QuickResults, TaskResult, TaskResults, job_events, read_event
from export_service.shards import SHARD_TASKS

indices = st.integers(0, 70) | st.integers(SHARD_TASKS - 3, SHARD_TASKS + 3) | st.integers(3 * SHARD_TASKS - 2, 3 * SHARD_TASKS)
results = st.builds(
    TaskResult,
    index=indices,
    outcome=st.sampled_from(Outcome),
    name=st.text(max_size=5),
    url=st.text(max_size=5),
    bytes=st.integers(0, 2**53),
    sha256=st.none() | st.just("ab"),
    error=st.none() | st.text(max_size=3),
    message=st.none() | st.text(max_size=3),
)


@given(st.lists(results, max_size=40), st.none() | st.integers(0, 4 * SHARD_TASKS), st.integers())
def test_counted(some: list[TaskResult], total: int | None, known: int) -> None:
    counted = by_shard(some, total)
    planned = [result for result in some if total is None or result.index < total]
    assert set(counted) == {result.index // SHARD_TASKS for result in planned}
    for number, found in counted.items():
        mine = [result for result in planned if result.index // SHARD_TASKS == number]
        for outcome, bitmap in zip(Outcome, found[:3], strict=True):
            assert bitmap == sum({1 << result.index % SHARD_TASKS for result in mine if result.outcome is outcome})
        first = {result.index: result.bytes for result in reversed(mine) if result.outcome is Outcome.SUCCEEDED}
        known_here = abs(known)
        assert found.fresh(known_here) == sum(size for index, size in first.items() if not known_here >> index % SHARD_TASKS & 1)


@given(st.lists(results, max_size=5))
def test_the_quick_reader_reads_what_the_thorough_one_reads(some: list[TaskResult]) -> None:
    record = TaskResults(job_id="j", attempt=3, results=tuple(some)).to_bytes()
    quick = read_event(record)
    assert isinstance(quick, QuickResults)
    assert (quick.job_id, quick.attempt) == ("j", 3)
    fields = TaskResult.model_fields.keys() - {"v"}
    assert [{name: getattr(result, name) for name in fields} for result in quick.results] == [
        result.model_dump(by_alias=False, exclude={"v"}) for result in some
    ]
    assert job_events.validate_json(record) == TaskResults(job_id="j", attempt=3, results=tuple(some))
