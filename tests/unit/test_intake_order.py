"""Messages of a FIFO queue: one after the other within a group, other groups beside them, and nothing behind one that is not done with."""

import asyncio
import json
from typing import Any

import pytest

from connectors.memory import MemoryLedger
from export_service.failures import Unavailable
from export_service.ports import Attempt
from tests.unit.test_intake_faults import TOKEN, Bench, job, request
from tests.waiting import until


def tokens(bench: Bench, number: int) -> list[str | None]:
    """Of a job's attempts, in their order."""
    return [attempt.token for (job_id, _), attempt in sorted(bench.ledger.attempts.items()) if job_id == job(number)]


def send(bench: Bench, number: int, token: str, **more: Any) -> str:
    return bench.queue.send(request(jobId=job(number), taskToken=token), group=job(number), **more)


class Reluctant(MemoryLedger):
    """Holds the token `first` back until the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.asked: list[str | None] = []

    async def open_attempt(self, job_id: str, token: str | None, *rest: Any) -> Attempt:
        self.asked.append(token)
        if token == "first":
            await self.gate.wait()
        return await super().open_attempt(job_id, token, *rest)


async def test_a_group_is_taken_in_order_and_others_beside_it() -> None:
    bench = Bench()
    bench.ledger = ledger = Reluctant()
    for token in ("first", "second", "third"):
        send(bench, 1, token)
    send(bench, 2, "other")
    running = bench.start()
    await until(lambda: bench.queue.deleted == ["m4"])
    assert ledger.asked == ["first", "other"], "those behind have not begun"
    ledger.gate.set()
    await until(lambda: len(bench.queue.deleted) == 4)
    await bench.finish(running)
    assert tokens(bench, 1) == ["first", "second", "third"]
    assert bench.queue.deleted == ["m4", "m1", "m2", "m3"]


async def test_the_next_of_a_group_begins_after_the_delete_of_the_one_before() -> None:
    bench = Bench()
    bench.queue.refused = 3
    send(bench, 1, "first")
    send(bench, 1, "second")
    running = bench.start()
    await until(lambda: bench.queue.refused < 3)
    assert tokens(bench, 1) == ["first"]
    await until(lambda: len(bench.queue.deleted) == 2)
    await bench.finish(running)
    assert tokens(bench, 1) == ["first", "second"]


async def test_messages_without_a_group_do_not_wait_for_each_other() -> None:
    bench = Bench()
    bench.ledger = ledger = Reluctant()
    for token in ("first", "second"):
        bench.queue.send(request(jobId=job(1), taskToken=token))
    running = bench.start()
    await until(lambda: bench.queue.deleted == ["m2"])
    ledger.gate.set()
    await until(lambda: bench.queue.deleted == ["m2", "m1"])
    await bench.finish(running)


async def test_a_stop_gives_back_at_once_what_waits_behind_a_message_in_work() -> None:
    bench = Bench()
    bench.kafka.confirm = False
    for token in ("first", "second", "third"):
        send(bench, 1, token)
    running = bench.start()
    await until(lambda: bool(bench.kafka.pending))
    bench.stop.set()
    await until(lambda: bench.queue.released == ["m2", "m3"])
    assert not running.done(), "the one in work is not confirmed yet"
    bench.kafka.pending[0].set_result(None)
    await asyncio.wait_for(running, 10)
    assert bench.queue.deleted == ["m1"]
    assert tokens(bench, 1) == ["first"]


async def test_a_stop_in_an_outage_gives_the_whole_group_back() -> None:
    bench = Bench()
    bench.kafka.away = True
    for token in ("first", "second"):
        send(bench, 1, token)
    running = bench.start()
    await until(lambda: len(bench.ledger.attempts) == 1)
    await bench.finish(running)
    assert sorted(bench.queue.released) == ["m1", "m2"]
    assert not bench.queue.deleted
    assert tokens(bench, 1) == ["first"]


async def test_a_drain_that_is_over_gives_back_what_kafka_has_not_confirmed() -> None:
    bench = Bench(max_in_flight=2)
    bench.kafka.confirm = False
    send(bench, 1, "first")
    for number in (2, 3):
        bench.queue.send(request(jobId=job(number)))
    running = bench.start()
    await until(lambda: len(bench.kafka.pending) == 2)
    bench.stop.set()
    await until(lambda: bench.queue.released == ["m3"])
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 10)
    assert sorted(bench.queue.released) == ["m1", "m2", "m3"]


class Broken(MemoryLedger):
    """Fails as a defect would, for job 1."""

    async def open_attempt(self, job_id: str, *rest: Any) -> Attempt:
        if job_id == job(1):
            raise KeyError("requestDigest")
        return await super().open_attempt(job_id, *rest)


async def test_a_defect_gives_the_rest_back_at_once_even_in_an_outage_and_leaves_its_own_message() -> None:
    bench = Bench()
    bench.ledger = Broken()
    bench.kafka.away = True
    send(bench, 2, "waits for Kafka")
    running = bench.start()
    await until(lambda: len(bench.ledger.attempts) == 1)
    send(bench, 1, "poison")
    send(bench, 1, "behind")
    with pytest.raises(KeyError):
        await asyncio.wait_for(running, 10)
    assert sorted(bench.queue.released) == ["m1", "m3"]
    assert list(bench.queue.in_flight) == ["m2"], "its visibility timeout is the pause before the next try"


async def test_a_message_that_fails_on_its_last_receive_is_a_dead_letter_and_its_state_is_told() -> None:
    bench = Bench(max_receives=3)
    bench.ledger = Broken()
    send(bench, 1, TOKEN, receive_count=2)
    send(bench, 1, "behind", receive_count=3)
    send(bench, 2, "fine", receive_count=2)
    running = bench.start()
    await until(lambda: len(bench.queue.deleted) == 3)
    await bench.finish(running)
    letters = {letter.message_id: letter for letter in bench.letters()}
    assert set(letters) == {"m1", "m2"}
    first = letters["m1"]
    assert (first.job_id, first.receive_count, first.told_step_functions) == (job(1), 3, True)
    assert "KeyError in open_attempt, line " in first.reason
    assert "received 3 times, EXPORT_QUEUE_MAX_RECEIVES=3" in first.reason
    assert TOKEN not in str(first)
    assert first.body is not None
    assert json.loads(first.body)["userId"] == "u"
    assert {(answer[1], answer[2]) for answer in bench.callback.answers} == {
        (TOKEN, "ExportRejected"),
        ("behind", "ExportRejected"),
    }
    assert tokens(bench, 2) == ["fine"]


async def test_a_message_that_never_came_to_an_end_is_put_away_untried_but_not_the_one_behind_it() -> None:
    bench = Bench(max_receives=3)
    send(bench, 1, "killer", receive_count=3)
    send(bench, 1, "behind", receive_count=3)
    running = bench.start()
    await until(lambda: len(bench.queue.deleted) == 2)
    await bench.finish(running)
    (letter,) = bench.letters()
    assert (letter.message_id, letter.receive_count, letter.told_step_functions) == ("m1", 4, True)
    assert [answer[1] for answer in bench.callback.answers] == ["killer"]
    assert tokens(bench, 1) == ["behind"]


async def test_what_was_accepted_before_is_no_poison_however_often_it_comes() -> None:
    bench = Bench(max_receives=3)
    send(bench, 1, "once")
    running = bench.start()
    await until(lambda: bench.queue.deleted == ["m1"])
    send(bench, 1, "once", receive_count=40)
    await until(lambda: bench.queue.deleted == ["m1", "m2"])
    await bench.finish(running)
    assert not bench.letters()
    assert not bench.callback.answers
    assert len(bench.kafka.values("requests")) == 1


async def test_the_token_of_an_accepted_job_is_not_answered_for_other_content_that_came_too_often() -> None:
    bench = Bench(max_receives=3)
    send(bench, 1, "once")
    running = bench.start()
    await until(lambda: bench.queue.deleted == ["m1"])
    bench.queue.send(request(jobId=job(1), taskToken="once", exportId="other"), receive_count=40)
    await until(lambda: bench.queue.deleted == ["m1", "m2"])
    await bench.finish(running)
    assert [letter.told_step_functions for letter in bench.letters()] == [None]
    assert not bench.callback.answers


async def test_nobody_is_told_when_the_ledger_cannot_say_whether_the_job_was_accepted() -> None:
    class Unreadable(Broken):
        async def find_attempt(self, *_: Any) -> Attempt | None:
            raise KeyError("requestDigest")

    bench = Bench(max_receives=3)
    bench.ledger = Unreadable()
    send(bench, 1, TOKEN, receive_count=2)
    running = bench.start()
    await until(lambda: bench.queue.deleted == ["m1"])
    await bench.finish(running)
    (letter,) = bench.letters()
    assert (letter.job_id, letter.told_step_functions) == (job(1), None)
    assert TOKEN not in str(letter)
    assert not bench.callback.answers


async def test_an_outage_is_no_failure_on_the_last_receive() -> None:
    class Away(MemoryLedger):
        away = True

        async def open_attempt(self, job_id: str, *rest: Any) -> Attempt:
            if self.away:
                raise Unavailable("DynamoDB", "EXPORT_TABLE_NAME", "refused")
            return await super().open_attempt(job_id, *rest)

    bench = Bench(max_receives=3)
    bench.ledger = ledger = Away()
    send(bench, 1, "first", receive_count=2)
    running = bench.start()
    await until(lambda: bool(bench.queue.in_flight))
    ledger.away = False
    await until(lambda: bench.queue.deleted == ["m1"])
    await bench.finish(running)
    assert not bench.letters()
    assert not bench.queue.released
