"""A view of a table that remembers what it decoded, or was given, lately: a job's next result need not decode its state again."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")
_MOST = 2_000


class HasValue(Protocol):
    @property
    def value(self) -> Any: ...


class Table(Protocol):
    """ConfirmedTable, or Values."""

    @property
    def unsent(self) -> Mapping[bytes, HasValue]: ...

    def get(self, key: bytes, /) -> bytes | None: ...

    def put(self, key: bytes, value: Any, encode: Callable[[bytes, Any], bytes]) -> None: ...


class Values(dict[bytes, bytes]):
    """A table of this process alone."""

    unsent: Mapping[bytes, HasValue] = {}

    def put(self, key: bytes, value: Any, encode: Callable[[bytes, Any], bytes]) -> None:
        self[key] = encode(key, value)


class Decoded(Generic[T]):
    """The table has the last word: a value is used only for the very bytes that it was made from. Values must not be changed."""

    def __init__(self, table: Table, encode: Callable[[T], bytes], decode: Callable[[bytes], T]) -> None:
        self._table, self._encode, self._decode = table, encode, decode
        self._known: dict[bytes, tuple[bytes, T]] = {}

    def get(self, key: bytes) -> T | None:
        if (unsent := self._table.unsent.get(key)) is not None:
            value: T = unsent.value
            return value
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
        self._table.put(key, value, self._encoded)

    def _encoded(self, key: bytes, value: T) -> bytes:
        raw = self._encode(value)
        self._note(key, raw, value)
        return raw

    def _note(self, key: bytes, raw: bytes, value: T) -> None:
        if len(self._known) >= _MOST and key not in self._known:
            self._known.pop(next(iter(self._known)))
        self._known[key] = raw, value
