"""Logs: one JSON object a line with `level`, `msg`, `time`, `jobId`, …; a readable form on a terminal.

The last processor before the form drops what must not be written, from our lines, libraries' and tracebacks alike, so that a mistake at a
call site, or an exception that quotes what it was given, does not leak a bearer secret. Tracebacks never show local variables.
"""

import logging
import sys
import time
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog
from structlog.typing import Processor

from export_service.redaction import redact, value_without_secrets

_TOKENS = ("token", "taskToken", "task_token")
_QUIET = ("aiokafka", "botocore", "aiobotocore", "aioboto3", "faust", "mode", "asyncio", "aiohttp")
"""Loggers of libraries: warnings and worse only. Faust and aiokafka would print keys and values at debug level."""


_QUIET_SECONDS = 60.0


class Repeats(logging.Filter):
    """Drops what a library has said in the last minute: aiokafka writes some fifty lines a second while its broker is away.

    Also what every first start on a new broker says for a moment, while Kafka makes its own topic of consumer offsets.
    """

    def __init__(self) -> None:
        super().__init__()
        self._started = time.monotonic()
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(_QUIET):
            return True
        now = time.monotonic()
        if now - self._started < _QUIET_SECONDS and "GroupCoordinatorNotAvailable" in record.getMessage():
            return False
        kind = (record.name, str(record.msg))
        if now - self._said.get(kind, -_QUIET_SECONDS) < _QUIET_SECONDS:
            return False
        # Only what still counts is kept: a library may put numbers into its messages, and this process runs for months.
        self._said = {said: at for said, at in self._said.items() if now - at < _QUIET_SECONDS} | {kind: now}
        return True


def hide_secrets(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Shorten tokens; cut URL queries, passwords and what is called a token from all text, wherever a caller put them."""
    for name, value in event.items():
        if name in _TOKENS and isinstance(value, str):
            event[name] = value if "****" in value else redact(value)
        else:
            plain = value is None or isinstance(value, str | int | float | dict | list)
            event[name] = value_without_secrets(value if plain else repr(value))
    return event


def configure(level: str, form: Literal["auto", "json", "console"], **bound: str) -> None:
    """Set up structlog and the standard library's logging for this process. `bound` goes into every line."""
    console = form == "console" or (form == "auto" and sys.stdout.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    last: list[Processor]
    if console:
        # Its own way to show an exception would be rich's, with all local variables.
        last = [structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    else:
        last = [structlog.processors.EventRenamer("msg"), structlog.processors.JSONRenderer()]
    last = [structlog.processors.format_exc_info, hide_secrets, *last]
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    handler.addFilter(Repeats())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**bound)
