"""What a host is asked for: nothing in its pauses, little after them, and never for ever."""

from typing import Any

import pytest

from export_service.hosts import Hosts, host_of
from export_service.limiter import Limiter
from export_service.messages import Outcome, TaskResult
from export_service.settings import Download

HOST = "https://h"
OK = TaskResult(index=0, outcome=Outcome.SUCCEEDED, name="n", url=f"{HOST}/n")


class Bench(Hosts):
    """Its clock stands still, and jitter is the whole of it."""

    def __init__(self, **settings: Any) -> None:
        self.at = 1000.0
        super().__init__(Download(**settings), now=lambda: self.at, jitter=lambda _, most: most)

    def begin(self) -> list[int]:
        """As many as there is room for; their ages."""
        begun = []
        while self.room(HOST):
            begun.append(self.begun(HOST))
        return begun

    def wait(self) -> float:
        seconds = self.pause(HOST)
        self.at += max(0.0, seconds)
        return seconds


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Example.com/a?b", "https://example.com"),
        ("HTTPS://example.com:443/a", "https://example.com"),
        ("http://example.com:443/a", "http://example.com:443"),
        ("http://example.com:80", "http://example.com"),
        ("http://[::1]:8080/x", "http://[::1]:8080"),
        ("s3://bucket/key", "s3://bucket"),
    ],
)
def test_a_host_is_scheme_name_and_port(url: str, host: str) -> None:
    assert host_of(url) == host


def test_answers_of_one_moment_are_one_pause_and_the_longest_wish_counts() -> None:
    hosts = Bench(concurrency=8, adaptive=False)
    ages = hosts.begin()
    assert len(ages) == 8
    assert [hosts.busy(HOST, age, wish) for age, wish in zip(ages, [None, None, 7, 3, None, None, 9999, 1], strict=True)] == [
        True
    ] * 8
    assert hosts.wait() == 60, "no wish is granted beyond that"
    assert len(hosts.begin()) == 1, "one to see whether it is better"


def test_pauses_grow_until_it_answers_well() -> None:
    hosts = Bench(concurrency=8, adaptive=False)
    for age in hosts.begin():
        hosts.busy(HOST, age, None)
    seen = [hosts.wait()]
    for _ in range(9):
        (age,) = hosts.begin()
        assert not hosts.busy(HOST, age, None)
        seen.append(hosts.wait())
    assert seen == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    (age,) = hosts.begin()
    hosts.answered(HOST, age, OK)
    (age, *_) = hosts.begin()
    assert hosts.busy(HOST, age, None), "a new story"
    assert hosts.wait() == 0.25


def test_a_late_answer_of_before_the_pause_says_nothing_of_after_it() -> None:
    hosts = Bench(concurrency=3, adaptive=False)
    first, second, third = hosts.begin()
    hosts.busy(HOST, first, None)
    hosts.wait()
    hosts.busy(HOST, second, None)
    assert hosts.pause(HOST) <= 0
    hosts.answered(HOST, third, OK)
    (age,) = hosts.begin()
    hosts.busy(HOST, age, None)
    assert hosts.pause(HOST) == 0.5, "the host has not answered well in between"


def test_one_that_never_answers_well_is_given_up_and_taken_back_when_it_does() -> None:
    hosts = Bench(concurrency=2, busy_seconds=10)
    for age in hosts.begin():
        hosts.busy(HOST, age, None)
    while not hosts.given_up(HOST):
        assert hosts.at < 1030, "bounded"
        hosts.wait()
        (age,) = hosts.begin()
        hosts.busy(HOST, age, None)
    assert hosts.at >= 1010
    hosts.wait()
    assert not hosts.given_up(HOST), "one may be tried now"
    (age,) = hosts.begin()
    hosts.busy(HOST, age, None)
    assert hosts.given_up(HOST)
    hosts.wait()
    (age,) = hosts.begin()
    hosts.answered(HOST, age, OK)
    for age in hosts.begin():
        hosts.busy(HOST, age, None)
    assert not hosts.given_up(HOST)


def test_limits_of_a_host_only_lower_the_setting_and_may_change() -> None:
    hosts = Bench(concurrency=8, host_concurrency=4, adaptive=False)
    assert len(hosts.begin()) == 4
    hosts.limit({"h": 6})
    assert hosts.begin() == []
    hosts.limit({"h:444": 1, "other": 1})
    assert hosts.begin() == []
    hosts.limit({"h": 2})
    hosts.stopped(HOST)
    hosts.stopped(HOST)
    assert hosts.begin() == []
    hosts.stopped(HOST)
    assert len(hosts.begin()) == 1
    hosts.limit({})
    assert len(hosts.begin()) == 2
    assert hosts.room("https://other")


def test_hosts_without_end_are_forgotten_but_not_those_that_are_paused_or_at_work() -> None:
    hosts = Bench(concurrency=1)
    hosts.begun("http://works")
    hosts.busy("http://paused", hosts.begun("http://paused"), 30)
    for number in range(10_000):
        name = f"http://{number}"
        hosts.answered(name, hosts.begun(name), OK)
    assert not hosts.room("http://works")
    assert hosts.pause("http://paused") == 30
    assert len(vars(hosts)["_hosts"]) <= 4096


def test_after_a_pause_it_is_asked_for_more_with_each_answer_up_to_half_of_before_and_then_slowly() -> None:
    limiter = Limiter(64, adaptive=False)
    assert limiter.limit == 64
    limiter.busy()
    limits = [limiter.limit]
    for _ in range(31):
        limiter.answered(1, 1, 0)
        limits.append(limiter.limit)
    assert limits == list(range(1, 33))
    answers = 0
    while limiter.limit < 64:
        limiter.answered(1, 1, 0)
        answers += 1
    assert 1400 < answers < 1600, "one more for each round: 32 + 33 + … + 63"
    limiter.busy()
    limiter.busy()
    for _ in range(31):
        limiter.answered(1, 1, 0)
    assert limiter.limit == 32, "a second answer in vain does not forget what was possible before"
