"""Missing tasks in words, against a count by hand."""

from datetime import UTC, datetime
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from export_service.jobs import JobState, fold
from export_service.messages import AttemptOpened, ExportRequested, JobEvent, JobInfo, JobPlanned, Outcome, TaskResult, TaskResults
from export_service.missing import Missing, missing
from export_service.shards import SHARD_TASKS, Shard, ShardKey

AT = datetime(2026, 1, 1, tzinfo=UTC)


def info(attempt: int = 1) -> JobInfo:
    return JobInfo(job_id="j", attempt=attempt, export_id="e", user_id="u", requested_at=AT, destination="file:///x/")


def results(attempt: int, outcome: Outcome, *indices: int) -> TaskResults:
    each = tuple(TaskResult(index=index, outcome=outcome, name=str(index), url="http://h/") for index in indices)
    return TaskResults(job_id="j", attempt=attempt, results=each)


class Job:
    """Folded event by event."""

    def __init__(self, *events: JobEvent) -> None:
        self.shards: dict[ShardKey, Shard] = {}
        state: JobState | None = None
        for offset, event in enumerate(events):
            step = fold(state, event, offset, AT, self.shard)
            state = step.state
            self.shards |= step.shards
        assert state is not None
        self.state = state

    def shard(self, run: int, number: int) -> Shard:
        return self.shards.get((run, number), Shard())

    def missing(self) -> Missing | None:
        return missing(self.state, self.shard)


def test_ranges_go_over_the_borders_of_shards_and_every_outcome_is_one() -> None:
    done = [n for n in range(8210) if n not in (*range(5), 17, *range(8190, 8201))]
    job = Job(
        JobPlanned(job=info(), total_tasks=8210),
        results(1, Outcome.SUCCEEDED, *done[::2]),
        results(1, Outcome.FAILED, *done[1::2]),
    )
    assert job.missing() == Missing(17, "0-4, 17, 8190-8200")


def test_nothing_is_said_before_the_list_is_read() -> None:
    assert Job(results(1, Outcome.SUCCEEDED, 3)).missing() is None


def test_a_later_run_misses_what_failed_in_the_one_before() -> None:
    opened = AttemptOpened(request=ExportRequested(job=info(2), files=()))
    first = (JobPlanned(job=info(), total_tasks=6), results(1, Outcome.SUCCEEDED, 0, 1, 4), results(1, Outcome.FAILED, 2, 3, 5))
    assert Job(*first).missing() == Missing(0, "")
    assert Job(*first, opened).missing() == Missing(3, "2-3, 5")
    assert Job(*first, opened, results(2, Outcome.SUCCEEDED, 3)).missing() == Missing(2, "2, 5")


@given(st.sets(st.integers(0, 3 * SHARD_TASKS - 1), max_size=60), st.integers(1, 3 * SHARD_TASKS))
def test_as_counted_by_hand(left: set[int], total: int) -> None:
    left = {index for index in left if index < total}
    state = JobState(total=total, first_offset=0, updated_at=AT)

    def shard(_: int, number: int) -> Shard:
        gone = sum(1 << index - number * SHARD_TASKS for index in left if index // SHARD_TASKS == number)
        return Shard(succeeded=((1 << SHARD_TASKS) - 1) & ~gone)

    ordered = sorted(left)
    groups = [[index for _, index in group] for _, group in groupby(enumerate(ordered), lambda pair: pair[1] - pair[0])]
    words = [str(group[0]) if len(group) == 1 else f"{group[0]}-{group[-1]}" for group in groups]
    wanted = ", ".join(words[:10] + (["…"] if len(words) > 10 else []))
    assert missing(state, shard) == Missing(len(left), wanted)
