"""What a library repeats is said once a minute, what we say is always said, and neither says a secret."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Literal

import pytest
import structlog

from export_service.carried import Carrying
from export_service.logs import Repeats
from streams.ack_window import AckWindow, Entry, Place
from streams.steps import Concurrent, Incoming
from tests.saying import said, saying

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
    with saying(form, capsys) as text:
        try:
            go_wrong()
        except RuntimeError as error:
            structlog.get_logger().error("failed", exc_info=error, taskToken=TOKEN, error=error, url=f"https://h/?sig={SECRET}")
            logging.getLogger("library").debug("sent %s to https://h/?sig=%s", TOKEN, SECRET, exc_info=error)
        structlog.get_logger().info("nested", fields={"taskToken": TOKEN, "urls": [f"https://h/?sig={SECRET}"]}, number=7)
        said = text()
    assert "canary" not in said
    assert said.count("in go_wrong") >= 2, "where it went wrong is said"
    assert "AAAAKgAA...********...AAAA" in said
    assert "number=7" in said.replace('"number": 7', "number=7")


async def test_whatever_is_written_for_a_record_says_its_job_and_trace_and_no_other_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Records are handled beside each other; a library knows nothing of jobs."""
    place, window = Place("completions", 0), AckWindow(10, lambda error: pytest.fail(repr(error)))
    window.begin(place, 0)
    all_there = asyncio.Barrier(3)

    async def handle(record: Incoming, entry: Entry) -> None:
        with Carrying({"traceparent": f"00-{record.offset:032x}-{1:016x}-01".encode()} if record.offset else None):
            await all_there.wait()
            structlog.get_logger().info("ours", place=str(record))
            logging.getLogger("library").warning("theirs")
        entry.done()

    with said(capsys) as lines:
        step = Concurrent(window, handle, 3)
        for offset in range(3):
            entry = await window.admit(place, offset)
            assert entry is not None
            await step(Incoming(place, offset, datetime.now(UTC), f"job-{offset}".encode(), b""), entry)
        assert await window.empty(10)
        structlog.get_logger().info("after")
        written = lines()
    found = sorted((line["msg"], line.get("jobId"), line.get("traceId")) for line in written if line["msg"] != "after")
    traces = [None, f"{1:032x}", f"{2:032x}"]
    assert found == [(text, f"job-{number}", traces[number]) for text in ("ours", "theirs") for number in range(3)]
    assert written[-1].keys() == {"msg", "level", "time"}
