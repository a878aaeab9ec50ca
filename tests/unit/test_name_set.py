"""The set of names: what Python's own would say, also where buckets are full of bytes that look alike."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_service.name_set import NameSet


@given(st.lists(st.text(max_size=3)))
def test_a_name_is_new_once(names: list[str]) -> None:
    here, seen = NameSet(), set[str]()
    for name in names:
        assert (here.add(name) is None) == (name in seen)
        seen.add(name)


def test_the_end_of_one_and_the_beginning_of_the_next_are_not_a_third(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [b"\0\0" + rest for rest in (b"abcdef", b"ghijkl", b"defghi", b"bcdefg", b"defghi")]

    class Planted:
        def __init__(self, name: bytes, digest_size: int) -> None:
            self._name, self._size = name, digest_size

        def digest(self) -> bytes:
            return digests[int(self._name)][: self._size]

    monkeypatch.setattr(hashlib, "blake2b", Planted)
    here: Any = NameSet()
    assert [here.add(str(number)) for number in range(5)] == [*digests[:4], None]
