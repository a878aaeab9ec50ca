"""The tally takes many records at a time, and folds some of them together: all that it leaves and says is as if it took them one by one."""

import asyncio
from contextlib import ExitStack
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.tally import Tally
from connectors.memory import MemoryPublisher, SystemClock
from export_service import snapshots
from export_service.jobs import fold
from export_service.merging import fold_together
from export_service.messages import AttemptOpened, JobCancelled, JobEvent, JobPlanned, JobSnapshot, Outcome, TaskResults
from export_service.metrics import Metrics
from export_service.settings import load
from export_service.tally_counts import TallyCounts
from streams.ack_window import AckWindow, Place
from streams.dead_letters import DeadLetters
from streams.steps import Incoming, Taken
from streams.together import Together
from streams.topics import topics
from tables.decoded import Values
from tables.jobs import Jobs
from tables.shards import Shards
from tests.property.test_fold import EXAMPLES, JOB, START, Events, histories, opened, results

HERE = Place("results", 0)
NAMES = topics(load())


class Bench:
    """A tally over two tables of its own."""

    def __init__(self, jobs: Values, shards: Values, every: float) -> None:
        self.jobs, self.shards = Values(jobs), Values(shards)
        self.publisher, self.errors = MemoryPublisher(), list[BaseException]()
        self.window = AckWindow(10_000, self.errors.append)
        letters = DeadLetters(self.publisher, NAMES.dead_letters.name, SystemClock())

        async def flush() -> list["asyncio.Future[object]"]:
            return []

        self.together = Together(flush, self.window, lambda: True)
        tables = Jobs(self.jobs), Shards(self.shards)
        counts, often = TallyCounts(Metrics()), timedelta(seconds=every)
        self.tally = Tally(*tables, self.together, self.publisher, letters, NAMES, often, counts)

    def take(self, events: Events, first: int, at_a_time: list[int], then: int = 1) -> None:
        """`first`: offset of the first that comes. Offsets are those in `events`, a tenth of a second apart."""
        asyncio.run(self._take(events, first, at_a_time, then))

    async def _take(self, events: Events, first: int, at_a_time: list[int], then: int) -> None:
        self.window.begin(HERE, first)
        sizes = iter(at_a_time)
        while first < len(events):
            last = min(first + next(sizes, then), len(events))
            taken = []
            for offset in range(first, last):
                entry = await self.window.admit(HERE, offset)
                assert entry is not None
                event = events[offset]
                at = START + timedelta(milliseconds=100 * offset)
                taken.append(Taken(Incoming(HERE, offset, at, b"", event.to_bytes()), entry))
            await self.tally.handle(taken)
            first = last

    def left(self) -> tuple[object, ...]:
        """Tables, what each job sent in order, and how many records wait for how many confirmations."""
        sent: dict[tuple[str, bytes | None], list[bytes | None]] = {}
        for topic, records in self.publisher.records.items():
            for key, value in records:
                sent.setdefault((topic, key), []).append(value)
        return dict(self.jobs), dict(self.shards), sent, len(self.together._entries), len(self.together._outputs)


def of_job(event: JobEvent, job_id: str) -> JobEvent:
    if isinstance(event, TaskResults):
        return msgspec.structs.replace(event, job_id=job_id)
    if isinstance(event, JobCancelled):
        return event.model_copy(update={"job_id": job_id})
    if isinstance(event, AttemptOpened):
        request = event.request.model_copy(update={"job": event.request.job.model_copy(update={"job_id": job_id})})
        return event.model_copy(update={"request": request})
    return event.model_copy(update={"job": event.job.model_copy(update={"job_id": job_id})})


@st.composite
def one_by_one(draw: st.DrawFn) -> Events:
    """A job whose outcomes come by ones, nearly all of them for the first time, nearly all of them good, and perhaps not all of them."""
    come = draw(st.integers(2, 30))
    mostly = st.sampled_from([Outcome.SUCCEEDED] * 6 + [Outcome.FAILED])
    events: Events = [results(1, {i: draw(mostly)}) for i in draw(st.one_of(st.just(range(come)), st.permutations(range(come))))]
    tasks = st.integers(0, come)
    odd = st.builds(results, st.integers(1, 2), st.dictionaries(tasks, st.sampled_from(Outcome), max_size=2))
    for event in draw(st.one_of(st.just([]), st.lists(odd, max_size=2))):
        events.insert(draw(st.integers(0, len(events))), event)
    job = JOB.model_copy(update={"tolerated_failures": draw(st.sampled_from([0, 0, 3]))})
    plan = JobPlanned(job=job, total_tasks=come + draw(st.sampled_from([0, 1, 10])))
    events.insert(draw(st.one_of(st.just(0), st.integers(0, len(events)))), plan)
    return events


@st.composite
def mixed(draw: st.DrawFn) -> Events:
    """One to three jobs, their events in order, by turns."""
    each = [
        [of_job(event, f"job{number}") for event in draw(st.one_of(one_by_one(), one_by_one(), one_by_one(), histories()))]
        for number in range(draw(st.integers(1, 3)))
    ]
    turns = draw(st.permutations([number for number, events in enumerate(each) for _ in events]))
    iterators = list(map(iter, each))
    return [next(iterators[number]) for number in turns]


@settings(max_examples=2 * EXAMPLES)
@given(events=mixed(), shard_tasks=st.sampled_from([4, 8192]), every=st.sampled_from([0, 1, 60]), data=st.data())
def test_many_at_a_time_leave_what_one_by_one_leaves_also_after_a_crash(
    events: Events, shard_tasks: int, every: float, data: st.DataObject
) -> None:
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 3, 10]), max_size=5), "at a time")
    until = st.one_of(st.just(0), st.integers(0, len(events)))
    jobs_at, shards_at = (data.draw(until, name) for name in ("jobs at", "shards at"))
    with ExitStack() as small:
        for module in ("jobs", "shards", "counting"):
            small.enter_context(patch(f"export_service.{module}.SHARD_TASKS", shard_tasks))
        stages = [Bench(Values(), Values(), every) for _ in range(2)]
        for stage, end in zip(stages, (jobs_at, shards_at), strict=True):
            stage.take(events[:end], 0, [])
        left = []
        for at_a_time, then in (([], 1), (sizes, 1000)):
            bench = Bench(stages[0].jobs, stages[1].shards, every)
            bench.take(events, min(jobs_at, shards_at), at_a_time, then)
            assert not bench.errors
            left.append(bench.left())
        assert left[0] == left[1]


def test_results_that_come_together_are_folded_once_a_job() -> None:
    events: Events = [of_job(JobPlanned(job=JOB, total_tasks=101), f"job{n}") for n in range(2)]
    events += [of_job(results(1, {i: Outcome.SUCCEEDED}), f"job{n}") for i in range(100) for n in range(2)]
    bench = Bench(Values(), Values(), 60)
    with (
        patch("export_service.jobs.fold", wraps=fold) as alone,
        patch("export_service.merging.fold", wraps=fold),
        patch("agents.counter.fold_together", wraps=fold_together) as together,
    ):
        bench.take(events, 0, [1, 1, 100, 100])
    assert (alone.call_count, together.call_count) == (2, 4)
    state = Jobs(bench.jobs).get("job1")
    assert state is not None
    assert (state.succeeded, state.offset) == (100, len(events) - 1)


def test_a_repeat_beside_what_a_crash_kept_of_another_shard_changes_nothing() -> None:
    """The shard that was kept counts one more than its record in this fetch says, the repeat one less."""
    events: Events = [PLANNED.model_copy(update={"total_tasks": 29})]
    events += [results(1, {}), *[results(1, {i: GOOD}) for i in [*range(28), 0]]]
    with ExitStack() as small:
        for module in ("jobs", "shards", "counting"):
            small.enter_context(patch(f"export_service.{module}.SHARD_TASKS", 4))
        kept = Bench(Values(), Values(), 1)
        kept.take(events[:26], 0, [])
        left = []
        for then in (1, 1000):
            bench = Bench(Values(), kept.shards, 1)
            bench.take(events, 0, [], then)
            left.append(bench.left())
    assert left[0] == left[1]


@settings(max_examples=EXAMPLES)
@given(events=mixed(), at_a_time=st.sampled_from([1, 3, 1000]))
def test_jobs_that_stand_still_are_told_of_once_as_they_are(events: Events, at_a_time: int) -> None:
    bench = Bench(Values(), Values(), 60)
    bench.take(events, 0, [], at_a_time)
    jobs, told = Jobs(bench.jobs), bench.publisher.records[NAMES.snapshots.name]
    before = {key.decode(): JobSnapshot.model_validate_json(value or b"").version for key, value in told if key}
    states = {job_id: state for job_id in before if (state := jobs.get(job_id)) is not None}
    told.clear()
    for _ in range(2):
        assert not told, "an event may come in a moment, and tell"
        asyncio.run(bench.tally.flush())
    moved = {job_id: snapshots.of(job_id, state) for job_id, state in states.items() if state.offset >= before[job_id]}
    assert {(key or b"").decode(): JobSnapshot.model_validate_json(value or b"") for key, value in told} == moved
    assert len(told) == len(moved)
    asyncio.run(bench.tally.flush())
    assert len(told) == len(moved)


@pytest.mark.parametrize("flushed", [0, 1])
def test_who_lost_his_partitions_tells_of_no_job_of_them(flushed: int) -> None:
    bench = Bench(Values(), Values(), 60)
    told = bench.publisher.records[NAMES.snapshots.name]
    bench.take([PLANNED, results(1, {0: GOOD})], 0, [])
    for _ in range(flushed):
        asyncio.run(bench.tally.flush())
    bench.window.keep_only([])
    events: Events = [PLANNED, results(1, {0: GOOD}), *(of_job(event, "other") for event in (PLANNED, results(1, {1: GOOD})))]
    bench.take(events, 2, [])
    told.clear()
    for _ in range(3):
        asyncio.run(bench.tally.flush())
    assert [key for key, _ in told] == [b"other"]


async def test_a_job_that_ends_while_others_are_told_of_is_not_told_of_as_it_was() -> None:
    ending = iter([results(1, {1: GOOD, 2: GOOD})])

    class Busy(MemoryPublisher):
        async def send(self, topic: str, key: bytes | None, value: bytes | None, **more: Any) -> "asyncio.Future[Any]":
            if topic == NAMES.snapshots.name and (event := next(ending, None)) is not None:
                events.append(of_job(event, "b"))
                await bench._take(events, len(events) - 1, [], 1)
            return await super().send(topic, key, value, **more)

    bench = Bench(Values(), Values(), 60)
    events: Events = [of_job(event, job) for event in (PLANNED, results(1, {0: GOOD})) for job in ("a", "b")]
    await bench._take(events, 0, [], 1)
    bench.tally._publisher = publisher = Busy()
    for _ in range(3):
        await bench.tally.flush()
    told = [JobSnapshot.model_validate_json(value) for value in publisher.values(NAMES.snapshots.name)]
    assert sorted((each.job_id, each.completed_tasks) for each in told) == [("a", 1), ("b", 3)]


GOOD, BAD = Outcome.SUCCEEDED, Outcome.FAILED
PLANNED = JobPlanned(job=JOB, total_tasks=3)


@pytest.mark.parametrize(
    "events",
    [
        # An attempt that was given up says something late: a failure that is being tried again.
        [PLANNED, results(1, dict.fromkeys(range(3), BAD)), opened(2), results(2, {0: GOOD}), results(1, {1: BAD})],
        # Nothing that is new, at the end.
        [PLANNED, results(1, {0: GOOD}), results(1, {})],
        [PLANNED, results(1, {0: GOOD}), results(1, {0: GOOD})],
        [PLANNED, results(1, {0: GOOD}), results(1, {3: GOOD})],
        [PLANNED, results(1, {0: GOOD}), results(1, {0: BAD, 1: GOOD})],
    ],
)
def test_what_is_not_new_is_not_counted_with_what_is(events: Events) -> None:
    left = []
    for then in (1, 1000):
        bench = Bench(Values(), Values(), 60)
        bench.take(events, 0, [1, 1, 1] if len(events) == 5 else [1], then)
        left.append(bench.left())
    assert left[0] == left[1]
