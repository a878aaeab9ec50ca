"""Records travel through Faust in bundles, and are handled one by one or many at a time, as long as they are ours to handle."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from aiokafka.protocol.group import HeartbeatRequest
from faust.types import TP

from streams.ack_window import AckWindow, Entry, Place
from streams.bundles import BUNDLE, Bundle, BundleScheduler
from streams.membership import Hearing
from streams.rereads import Rereads
from streams.steps import Incoming, Taken, Volume, one_by_one, step_agent
from tests.waiting import until

HERE = TP("results", 0)


@dataclass
class Fetched:
    """aiokafka's ConsumerRecord."""

    offset: int
    timestamp: int = 1_700_000_000_000
    key: bytes | None = b"k"
    value: bytes | None = b"v"
    headers: tuple[tuple[str, bytes], ...] = ()


class Tables:
    changelog_topics = frozenset({"changelog"})


def records(count: int) -> list[Any]:
    return [Fetched(offset) for offset in range(count)]


def test_partitions_take_turns_and_changelogs_come_one_by_one() -> None:
    fetched = {HERE: records(BUNDLE + 5), TP("changelog", 0): records(2), TP("results", 1): records(3), TP("results", 2): []}
    found = list(BundleScheduler(Tables()).iterate(fetched))
    assert [(tp, record.offset) for tp, record in found[:2]] == [(TP("changelog", 0), 0), (TP("changelog", 0), 1)]
    bundles = [(tp.partition, [record.offset for record in bundle]) for tp, bundle in found[2:]]
    assert bundles == [(0, list(range(BUNDLE))), (1, [0, 1, 2]), (0, list(range(BUNDLE, BUNDLE + 5)))]


class Stream:
    """What an agent iterates: Faust's stream, as far as a step uses it."""

    def __init__(self, *bundles: Bundle) -> None:
        self._bundles = bundles

    def noack(self) -> "Stream":
        return self

    async def events(self) -> AsyncIterator[Any]:
        for bundle in self._bundles:
            yield cast(Any, type("Event", (), {"message": bundle}))


async def test_what_is_left_of_a_bundle_is_not_handled_in_the_next_generation() -> None:
    """It comes again, to its owner: ours would be handled on what may be another's partition by now."""
    window = AckWindow(100, lambda _: None)
    window.begin(Place(*HERE), 0)
    handled: list[int] = []
    generation = 1

    async def handle(record: Incoming, entry: Entry) -> None:
        nonlocal generation
        handled.append(record.offset)
        entry.done()
        if record.offset == 2:
            generation = 2

    rereads = Rereads(None, window, holes=False, beside=False)
    agent = step_agent(window, rereads, one_by_one(handle), lambda fetched_in: fetched_in == generation, Volume())
    await agent(Stream(Bundle.of(HERE, records(5), 1), Bundle.of(HERE, records(4)[3:], 2)))
    assert handled == [0, 1, 2, 3]
    assert window.position(Place(*HERE)) == 4


async def test_others_have_their_turn_while_a_bundle_is_handled() -> None:
    window = AckWindow(1000, lambda _: None)
    window.begin(Place(*HERE), 0)
    turns: list[int] = []

    async def handle(_: Incoming, entry: Entry) -> None:
        entry.done()

    async def other() -> None:
        while True:
            turns.append(window.admitted(Place(*HERE)))
            await asyncio.sleep(0)

    running = asyncio.create_task(other())
    await step_agent(window, Rereads(None, window, holes=False, beside=False), one_by_one(handle), lambda _: True, Volume())(
        Stream(Bundle.of(HERE, records(200), 1))
    )
    running.cancel()
    assert len([turn for turn in turns if 0 < turn < 200]) >= 3


async def test_a_step_that_takes_many_gets_them_in_order_and_no_more_than_the_window_holds_or_is_quickly_read() -> None:
    window = AckWindow(5, lambda _: None)
    window.begin(Place(*HERE), 0)
    given: list[list[int]] = []

    async def handle(taken: Sequence[Taken]) -> None:
        given.append([record.offset for record, _ in taken])
        for _, entry in taken:
            entry.done()

    some = records(12)
    some[3].value = b"x" * 600_000
    agent = step_agent(window, Rereads(None, window, holes=False, beside=False), handle, lambda _: True, Volume(), 10)
    await agent(Stream(Bundle.of(HERE, some, 1)))
    assert given == [[0, 1, 2, 3], [4, 5, 6, 7, 8], [9, 10, 11]]


async def test_what_was_taken_of_a_partition_that_went_away_while_a_later_record_waited_is_not_handled() -> None:
    window = AckWindow(100, lambda _: None)
    window.begin(Place(*HERE), 0)
    given: list[int] = []

    async def handle(taken: Sequence[Taken]) -> None:
        given.extend(record.offset for record, _ in taken)

    class Waiting(Rereads):
        async def skipped(self, *_: object) -> bool:
            window.keep_only([])
            return False

    some = records(5)
    del some[3]
    agent = step_agent(
        window, Waiting(None, window, holes=False, beside=False), handle, lambda _: window.knows(Place(*HERE)), Volume(), 10
    )
    await agent(Stream(Bundle.of(HERE, some, 1)))
    assert given == []


class Coordinator:
    def __init__(self) -> None:
        self._session_timeout_ms = 400
        self.error_code = 0

    async def _send_req(self, _: Any) -> "Coordinator":
        return self


async def test_a_member_that_was_not_heard_for_most_of_a_session_may_have_lost_its_partitions() -> None:
    coordinator = Coordinator()
    hearing = Hearing(coordinator)
    assert not hearing.fresh(), "before the first answer"
    await coordinator._send_req(HeartbeatRequest("g", 1, "m"))
    assert hearing.fresh()
    await until(lambda: not hearing.fresh())
    coordinator.error_code = 25  # UNKNOWN_MEMBER_ID
    await coordinator._send_req(HeartbeatRequest("g", 1, "m"))
    assert not hearing.fresh()
    coordinator.error_code = 27  # REBALANCE_IN_PROGRESS: still a member
    await coordinator._send_req(HeartbeatRequest("g", 1, "m"))
    assert hearing.fresh()
    await until(lambda: not hearing.fresh())
    coordinator.error_code = 0
    await coordinator._send_req("something else")
    assert not hearing.fresh(), "only what renews a session counts"
