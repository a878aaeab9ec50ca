"""Manifests: any chunking, exact line numbers, both formats."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_service.failures import PlanError
from export_service.manifests import Entry, read

JSONL = '{"url": "http://h/ä", "name": "n"}\n\n  {"url": "http://h/b", "size": 5, "extra": 1}\r\n{"url": "http://h/c"}'
CSV = 'name,url,other,size\n"n, with comma",http://h/a,x,5\n\n,http://h/b,,\n'


def entries(raw: bytes, form: Literal["jsonl", "csv"], cuts: list[int] | None = None) -> list[tuple[int, Entry]]:
    async def chunks() -> AsyncIterator[bytes]:
        borders = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts or [])})
        for start, end in pairwise(borders):
            yield raw[start:end]

    async def collect() -> list[tuple[int, Entry]]:
        return [found async for some in read(chunks(), form) for found in some]

    return asyncio.run(collect())


@given(st.lists(st.integers(0, 10_000), max_size=30), st.booleans())
def test_chunk_borders_do_not_matter(cuts: list[int], bom: bool) -> None:
    mark = b"\xef\xbb\xbf" if bom else b""
    lines = entries(mark + JSONL.encode(), "jsonl", cuts)
    assert [number for number, _ in lines] == [1, 3, 4]
    assert lines[0][1] == Entry(url="http://h/ä", name="n")
    rows = entries(mark + CSV.encode(), "csv", cuts)
    assert rows == [(2, Entry(url="http://h/a", name="n, with comma", size=5)), (4, Entry(url="http://h/b"))]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_empty_is_no_files(form: Literal["jsonl", "csv"]) -> None:
    assert entries(b"", form) == []
    assert entries(b"\n\n", form) == []


@pytest.mark.parametrize(
    ("raw", "form", "reason"),
    [
        (b'{"url": "u"}\n{', "jsonl", "line 2: not JSON"),
        (b'{"url": "u"}\n[1]', "jsonl", "line 2: entry"),
        (b'{"url": 5}', "jsonl", "line 1: url: Input should be a valid string"),
        (b'{"url": "u", "size": -1}', "jsonl", "line 1: size"),
        (b'{"url": "\xff"}', "jsonl", "line 1: not UTF-8"),
        (b"a,b\n1,2\n", "csv", "line 1: the header row has no column 'url'"),
        (b"url,name\nx\n", "csv", "line 2: 1 columns, the header row has 2"),
        (b'url\n"x\n', "csv", "line 2: not CSV"),
        (b"x" * (1 << 21), "jsonl", "line 1: longer than"),
    ],
)
def test_a_mistake_names_its_line(raw: bytes, form: Literal["jsonl", "csv"], reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        entries(raw, form)
