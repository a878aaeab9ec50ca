"""What a library repeats is said once a minute, what we say is always said, and neither says a secret."""

import logging
from typing import Literal

import pytest
import structlog

from export_service import logs
from export_service.logs import Repeats

SECRET = "canary-0123456789abcdef"
TOKEN = f"AAAAKgAAAAIAAAAAAAAAA{SECRET}AAAA"


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


def go_wrong() -> None:
    local = {"taskToken": TOKEN}
    try:
        raise KeyError(TOKEN)
    except KeyError as error:
        raise RuntimeError(f"GET https://me:{SECRET}@h/a?sig={SECRET} for task_token={TOKEN}, {len(local)}") from error


@pytest.mark.parametrize("form", ["json", "console"])
def test_neither_our_lines_nor_a_librarys_nor_a_traceback_say_a_secret(
    form: Literal["json", "console"], capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.configure("debug", form)
        try:
            go_wrong()
        except RuntimeError as error:
            structlog.get_logger().error("failed", exc_info=error, taskToken=TOKEN, error=error, url=f"https://h/?sig={SECRET}")
            logging.getLogger("library").debug("sent %s to https://h/?sig=%s", TOKEN, SECRET, exc_info=error)
        structlog.get_logger().info("nested", fields={"taskToken": TOKEN, "urls": [f"https://h/?sig={SECRET}"]}, number=7)
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        structlog.reset_defaults()
    said = capsys.readouterr().out
    assert "canary" not in said
    assert said.count("in go_wrong") >= 2, "where it went wrong is said"
    assert "AAAAKgAA...********...AAAA" in said
    assert "number=7" in said.replace('"number": 7', "number=7")
