"""What a library repeats is said once a minute; what we say is always said."""

import logging

import pytest

from export_service.logs import Repeats


def record(name: str, message: str, *values: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "", 0, message, values, None)


def test_a_library_says_the_same_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    repeats = Repeats()
    lines = [record("aiokafka.conn", "Unable connect to node with id %s: %s", 1, n) for n in range(50)]
    assert [repeats.filter(line) for line in lines].count(True) == 1
    assert repeats.filter(record("aiokafka.conn", "something else"))
    now += 61
    assert repeats.filter(lines[0])
    assert all(repeats.filter(record("export_service", "ours")) for _ in range(3))


def test_a_new_brokers_first_moments_are_not_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    repeats = Repeats()
    line = record("aiokafka.consumer", "Group Coordinator Request failed: %s", "[Error 15] GroupCoordinatorNotAvailableError")
    assert not repeats.filter(line)
    now += 61
    assert repeats.filter(line), "it lasts: that is news"
