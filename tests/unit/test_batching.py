"""How batches grow."""

from hypothesis import given
from hypothesis import strategies as st

from export_service.batching import MAX_BATCH_TASKS, batch_limit
from export_service.shards import SHARD_TASKS


@given(st.integers(0, 10_000_000))
def test_a_batch_never_crosses_a_shard_border(planned: int) -> None:
    limit = batch_limit(planned)
    assert 1 <= limit <= MAX_BATCH_TASKS
    assert planned // SHARD_TASKS == (planned + limit - 1) // SHARD_TASKS


def test_small_jobs_go_one_by_one_and_large_ones_in_few_records() -> None:
    planned = records = 0
    while planned < 1_000_000:
        planned += batch_limit(planned)
        records += 1
    assert [batch_limit(n) for n in (0, 1, 16, 31)] == [1, 1, 1, 1]
    assert records < 4_100
