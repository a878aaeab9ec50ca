"""The number of transfers at a time that pays, on a host made of arithmetic: quick, and the same each time."""

import heapq
import random
from collections.abc import Callable, Iterator

import pytest

from export_service.limiter import Limiter

SECONDS = 0.08
Seconds = Callable[[int, float], float]
"""What a transfer takes that is one of so many, at a time."""


def flat(knee: int, falling: float = 0.0) -> Seconds:
    """As quick for `knee` as for one; beyond that they queue, and `falling` is what that costs besides."""
    return lambda number, _: SECONDS * max(1.0, number / knee) ** (1 + falling)


def run(
    limiter: Limiter, takes: Seconds, until: float, *, work: Callable[[random.Random], float] = lambda _: 1.0
) -> Iterator[tuple[float, int]]:
    """(time, limit) at each answer; there is always more to do."""
    source, now, number = random.Random(7), 0.0, 0
    ends: list[float] = []
    while now < until:
        while number < limiter.limit:
            number += 1
            heapq.heappush(ends, now + takes(number, now) * source.lognormvariate(0, 0.1))
        now = heapq.heappop(ends)
        limiter.answered(work(source), number, now)
        number -= 1
        yield now, limiter.limit


def settled(takes: Seconds, most: int = 256, seconds: float = 60) -> tuple[float, float]:
    """Files a second of its second half, and the number then."""
    half = [limit for now, limit in run(Limiter(most), takes, seconds) if now > seconds / 2]
    return len(half) / (seconds / 2), sum(half) / len(half)


@pytest.mark.parametrize("falling", [0.0, 0.3])
@pytest.mark.parametrize("knee", [8, 20, 50, 100])
def test_it_settles_near_the_knee_and_is_nearly_as_quick_as_the_best_number(knee: int, falling: float) -> None:
    rate, number = settled(flat(knee, falling))
    assert rate > 0.92 * knee / SECONDS
    assert 0.7 * knee < number < (1.5 if falling else 3.1) * knee


def test_a_host_that_is_always_quicker_for_more_gets_all() -> None:
    assert settled(lambda *_: SECONDS, most=200)[1] > 195


def test_a_weak_host_is_asked_for_little() -> None:
    rate, number = settled(flat(2))
    assert rate > 0.92 * 2 / SECONDS
    assert number < 16


def test_where_nobody_waits_only_the_rate_counts() -> None:
    limits = [limit for _, limit in run(Limiter(64), lambda number, _: 0.001 * max(1.0, number / 8), 10)]
    assert min(limits) >= 24


def test_it_follows_a_host_that_becomes_another_one() -> None:
    seen = list(run(Limiter(256), lambda number, now: flat(10 if 60 < now < 180 else 60, 0.5)(number, now), 300))
    limits = {at: next(limit for now, limit in seen if now >= at) for at in (59, 179, 299)}
    assert 40 < limits[59] < 90
    assert limits[179] < 25
    assert limits[299] > 35


def test_without_enough_to_do_nothing_is_concluded() -> None:
    limiter = Limiter(256)
    before = limiter.limit
    for number in range(10_000):
        limiter.answered(1, 3, number / 100)
    assert limiter.limit == before


def test_sizes_that_differ_widely_do_not_talk_it_down() -> None:
    """A host that takes all: however the work of windows differs, many at a time are better than few."""
    limiter = Limiter(64)
    limits = [
        limit for now, limit in run(limiter, lambda *_: SECONDS, 160, work=lambda source: source.lognormvariate(0, 2)) if now > 80
    ]
    assert sum(limits) / len(limits) > 32


def test_fixed_is_fixed() -> None:
    assert {limit for _, limit in run(Limiter(40, adaptive=False), flat(5, 1), 5)} == {40}


def test_what_is_allowed_may_change() -> None:
    limiter = Limiter(256)
    list(run(limiter, flat(50), 20))
    limiter.allow(7)
    assert limiter.limit == 7
    assert {limit for _, limit in run(limiter, flat(50), 5)} <= set(range(1, 8))
