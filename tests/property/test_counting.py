"""What an event brings, by shard, is what a plain loop over its results finds."""

import json

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict
from pydantic.alias_generators import to_camel

from export_service.counting import by_shard
from export_service.messages import Outcome, TaskResult, TaskResults
from export_service.readers import read_event
from export_service.shards import SHARD_TASKS

_LEAST = TaskResult(index=0, outcome=Outcome.FAILED, name="", url="")
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
def test_results_are_written_as_the_contract_says(some: list[TaskResult]) -> None:
    record = TaskResults(job_id="j", attempt=3, results=tuple(some))
    written = json.loads(record.to_bytes())
    for result, fields in zip(some, written.pop("results"), strict=True):
        values = {name: fields.get(to_camel(name), getattr(_LEAST, name)) for name in TaskResult.__struct_fields__}
        assert values == asdict(result)
        assert None not in fields.values()
    assert written == {"type": "TaskResults", "v": 1, "jobId": "j", "attempt": 3}
    assert read_event(record.to_bytes()) == record
