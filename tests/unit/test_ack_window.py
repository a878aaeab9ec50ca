"""Rule 2 and P1 to P4: a commit never passes a record that is under way."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.ack_window import AckWindow, Entry, Place, SkippedRecord

HERE = Place("results", 0)


def window(limit: int = 100) -> tuple[AckWindow, list[BaseException]]:
    errors: list[BaseException] = []
    return AckWindow(limit, errors.append), errors


async def admit(acks: AckWindow, offset: int, place: Place = HERE) -> Entry:
    if not acks.knows(place):
        acks.begin(place, offset)
    entry = await acks.admit(place, offset)
    assert entry is not None
    return entry


@given(st.permutations(range(12)), st.integers(0, 1000))
def test_the_position_is_the_first_offset_that_is_not_done(order: list[int], base: int) -> None:
    async def scenario() -> None:
        acks, _ = window()
        assert acks.position(HERE) is None
        entries = [await admit(acks, base + i) for i in range(12)]
        done: set[int] = set()
        assert acks.position(HERE) == base
        for index in order:
            entries[index].done()
            done.add(index)
            assert acks.position(HERE) == base + next(i for i in range(13) if i not in done)

    asyncio.run(scenario())


async def test_admit_waits_at_the_limit_and_goes_on_when_a_record_is_done() -> None:
    acks, _ = window(limit=2)
    first, _second = await admit(acks, 0), await admit(acks, 1)
    third = asyncio.ensure_future(acks.admit(HERE, 2))
    done, _ = await asyncio.wait([third], timeout=0.05)
    assert not done
    first.done()
    assert (await asyncio.wait_for(third, 5)) is not None
    assert len(acks) == 2


async def test_a_record_is_done_when_all_its_confirmations_are() -> None:
    acks, _ = window()
    entry = await admit(acks, 7)
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    entry.after([first, second])
    first.set_result(None)
    await asyncio.sleep(0)
    assert acks.position(HERE) == 7
    second.set_result(None)
    assert await acks.empty(5)
    assert acks.position(HERE) == 8


async def test_a_failed_confirmation_is_fatal_and_nothing_is_committed_any_more() -> None:
    acks, errors = window()
    first, second = await admit(acks, 0), await admit(acks, 1)
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    first.after([failed])
    failed.set_exception(RuntimeError("no broker"))
    await asyncio.sleep(0)
    second.done()
    assert [str(error) for error in errors] == ["no broker"]
    assert acks.position(HERE) is None


async def test_a_cancelled_confirmation_is_fatal_too_and_only_the_first_error_is_told() -> None:
    acks, errors = window()
    outputs: list[asyncio.Future[None]] = [asyncio.get_running_loop().create_future() for _ in range(2)]
    (await admit(acks, 0)).after(outputs)
    for output in outputs:
        output.cancel()
    await asyncio.sleep(0)
    assert [(type(error), str(error)) for error in errors] == [(asyncio.CancelledError, "output cancelled")]
    assert acks.position(HERE) is None


async def test_a_record_is_finished_once() -> None:
    acks, _ = window()
    entry = await admit(acks, 7)
    entry.done()
    with pytest.raises(AssertionError, match=r"partition=0\)@7 was finished twice"):
        entry.done()


async def test_a_skipped_offset_is_an_error_also_at_the_start_until_it_is_known_that_nothing_is_there() -> None:
    acks, _ = window()
    acks.begin(HERE, 3)
    with pytest.raises(SkippedRecord, match=r"^results\[0\]: offset 5 came, 3 was next$") as skipped:
        await acks.admit(HERE, 5)
    assert skipped.value.expected == 3
    assert acks.position(HERE) == 3
    acks.accept_hole(HERE, 5)
    await admit(acks, 5)
    assert acks.position(HERE) == 5
    assert await acks.admit(HERE, 4) is None


async def test_after_a_rebalance_a_partition_that_stays_keeps_its_records_and_one_that_goes_is_forgotten() -> None:
    acks, _ = window()
    other = Place("results", 1)
    assert acks.places() == []
    kept, gone = await admit(acks, 5), await admit(acks, 5, other)
    also_kept = await admit(acks, 6)
    assert acks.places() == [HERE, other]
    acks.keep_only([HERE])
    assert (kept.lost, gone.lost, acks.places(), len(acks)) == (False, True, [HERE], 2)
    assert [await acks.admit(HERE, offset) for offset in (5, 6)] == [None, None], (
        "Kafka repeats them, and they are under way already"
    )
    gone.done()
    kept.done()
    assert (acks.position(HERE), acks.position(other), len(acks)) == (6, None, 1)
    also_kept.done()
    assert (acks.position(HERE), len(acks)) == (7, 0)
    assert await acks.admit(other, 5) is None, "not ours"
    assert await admit(acks, 5, other), "a partition that comes back starts afresh"


async def test_empty_gives_up_at_its_deadline() -> None:
    acks, _ = window()
    await admit(acks, 0)
    assert not await acks.empty(0.01)


async def test_what_was_admitted_is_not_admitted_again() -> None:
    """`admitted` is the first offset that was not: where a role says it has read to."""
    acks, _ = window()
    assert acks.admitted(HERE) == 0
    acks.begin(HERE, 5)
    assert acks.admitted(HERE) == 5
    assert await acks.admit(HERE, 5) is not None
    assert acks.admitted(HERE) == 6
    assert await acks.admit(HERE, 5) is None
    assert acks.admitted(Place("results", 1)) == 0
