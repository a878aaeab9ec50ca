"""Values of a table that were decoded, or encoded, lately: a job's next result need not decode its state again."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
_MOST = 2_000


class Decoded(Generic[T]):
    """The table has the last word: a value is used only for the very bytes that it was made from. Values must not be changed."""

    def __init__(self, decode: Callable[[bytes], T]) -> None:
        self._decode = decode
        self._known: dict[bytes, tuple[bytes, T]] = {}

    def value(self, key: bytes, raw: bytes) -> T:
        known = self._known.get(key)
        if known is not None and known[0] == raw:
            return known[1]
        return self.note(key, raw, self._decode(raw))

    def note(self, key: bytes, raw: bytes, value: T) -> T:
        if len(self._known) >= _MOST and key not in self._known:
            self._known.pop(next(iter(self._known)))
        self._known[key] = raw, value
        return value
