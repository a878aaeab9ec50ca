"""Where in a trace we are: the Kafka headers that say so, carried beside the work. Nothing is carried while traces are off."""

from collections.abc import Mapping
from contextvars import ContextVar

_HEADERS: ContextVar[Mapping[str, bytes] | None] = ContextVar("headers", default=None)


def carried() -> Mapping[str, bytes] | None:
    """Headers for what is sent on account of the record that is being handled."""
    return _HEADERS.get()


class Carrying:
    """`with Carrying(headers):` what is sent meanwhile has them."""

    def __init__(self, headers: Mapping[str, bytes] | None) -> None:
        self._headers = headers

    def __enter__(self) -> None:
        self._token = _HEADERS.set(self._headers)

    def __exit__(self, *_: object) -> None:
        _HEADERS.reset(self._token)
