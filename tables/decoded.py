"""A view of a table that remembers what it decoded, or encoded, lately: a job's next result need not decode its state again."""

from collections.abc import Callable, MutableMapping
from typing import Generic, TypeVar

T = TypeVar("T")
_MOST = 2_000


class Decoded(Generic[T]):
    """The table has the last word: a value is used only for the very bytes that it was made from. Values must not be changed."""

    def __init__(self, table: MutableMapping[bytes, bytes], encode: Callable[[T], bytes], decode: Callable[[bytes], T]) -> None:
        self._table, self._encode, self._decode = table, encode, decode
        self._known: dict[bytes, tuple[bytes, T]] = {}

    def get(self, key: bytes) -> T | None:
        raw = self._table.get(key)
        if not raw:
            return None
        known = self._known.get(key)
        if known is not None and known[0] == raw:
            return known[1]
        value = self._decode(raw)
        self._note(key, raw, value)
        return value

    def put(self, key: bytes, value: T) -> None:
        self._table[key] = raw = self._encode(value)
        self._note(key, raw, value)

    def _note(self, key: bytes, raw: bytes, value: T) -> None:
        if len(self._known) >= _MOST and key not in self._known:
            self._known.pop(next(iter(self._known)))
        self._known[key] = raw, value
