"""What a worker would write to its log."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest
import structlog

from export_service import logs


@contextmanager
def saying(
    form: Literal["json", "console"], capsys: pytest.CaptureFixture[str], level: str = "debug"
) -> Iterator[Callable[[], str]]:
    """Logs are as `configure` makes them; the text of all lines so far."""
    root = logging.getLogger()
    before, was = root.handlers[:], root.level
    try:
        logs.configure(level, form)
        yield lambda: capsys.readouterr().out
    finally:
        root.handlers[:] = before
        root.setLevel(was)
        structlog.reset_defaults()


@contextmanager
def said(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The lines as JSON objects."""
    with saying("json", capsys) as text:
        yield lambda: [json.loads(line) for line in text().splitlines()]
