"""Typed tables remember what they decoded, and never answer with what the table no longer has."""

from dataclasses import dataclass
from datetime import UTC, datetime

from export_service.jobs import JobState
from export_service.shards import SHARD_TASKS, Shard
from tables import decoded
from tables.jobs import Jobs
from tables.shards import Shards


def state(offset: int) -> JobState:
    return JobState(first_offset=0, offset=offset, updated_at=datetime(2026, 1, 1, tzinfo=UTC))


def test_a_value_is_decoded_once_and_again_when_the_table_changed() -> None:
    table = decoded.Values()
    jobs = Jobs(table)
    jobs.put("a", state(1))
    assert jobs.get("a") == state(1)
    table[b"a"] = state(2).to_bytes()  # as a recovery does
    assert jobs.get("a") == state(2)
    assert jobs.get("a") is jobs.get("a")
    del table[b"a"]
    assert jobs.get("a") is None


def test_shards_of_jobs_and_runs_are_kept_apart() -> None:
    table = decoded.Values()
    shards = Shards(table)
    for run, number in ((1, 0), (1, 1), (2, 0)):
        shards.put("a", run, number, Shard(succeeded=1 << (run + number)))
    assert [shards.get("a", run, number).succeeded for run, number in ((1, 0), (1, 1), (2, 0), (2, 1))] == [2, 4, 4, 0]
    table.clear()
    assert shards.get("a", 1, 0) == Shard()


def test_a_value_that_waits_to_be_written_is_the_newest() -> None:
    @dataclass
    class Waiting:
        value: JobState

    table = decoded.Values()
    jobs = Jobs(table)
    jobs.put("a", state(1))
    table.unsent = {b"a": Waiting(state(2))}
    assert jobs.get("a") == state(2)
    table.unsent = {}
    assert jobs.get("a") == state(1)


def test_the_memory_is_bounded() -> None:
    table = decoded.Values()
    shards = Shards(table)
    for number in range(decoded._MOST + 5):
        shards.put("a", 1, number, Shard(size=number))
    assert len(shards._shards._known) == decoded._MOST
    assert shards.get("a", 1, 0).size == 0


def test_a_shard_within_a_plan() -> None:
    whole = Shard((1 << SHARD_TASKS) - 1, size=3, offset=4)
    assert whole.within(SHARD_TASKS) == whole == whole.within(10**9)
    assert whole.within(3) == Shard(0b111, size=3, offset=4)
    assert whole.within(0).succeeded == whole.within(-5).succeeded == 0
