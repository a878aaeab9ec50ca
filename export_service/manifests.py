"""Lists of files: JSON Lines, or CSV with a header row. Read as a stream, so a manifest may be larger than memory.

An entry has `url` and optionally `name` (path below the destination; default: the last segment of the URL's path), `size` in bytes
and `sha256` in hexadecimal. Other fields and columns are ignored. Blank lines are skipped. An empty manifest names no files.
"""

import csv
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from export_service.failures import PlanError
from export_service.redaction import without_secrets

MAX_LINE_BYTES = 1 << 20
_COLUMNS = ("url", "name", "size", "sha256")


class Entry(BaseModel):
    """One file as a caller names it; `name` and `url` are not checked yet."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    url: str
    name: str | None = None
    size: Annotated[int | None, Field(ge=0)] = None
    sha256: Annotated[str | None, Field(pattern=r"^[0-9a-fA-F]{64}$")] = None

    @field_validator("name", "size", "sha256", mode="before")
    @classmethod
    def _empty_is_absent(cls, value: object) -> object:
        return None if value == "" else value


async def read(chunks: AsyncIterator[bytes], form: Literal["jsonl", "csv"]) -> AsyncIterator[Iterator[tuple[int, Entry]]]:
    """(line number from 1, entry) of each file, chunk by chunk: a list may have millions, and each await costs as much as its line.

    Raises:
        PlanError: `line 7: size: Input should be a valid integer`. When the iterator of its chunk gets there.
    """
    entries = _of_lines if form == "jsonl" else _Csv().entries
    async for lines in _lines(chunks):
        yield entries(lines)


def _of_lines(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, Entry]]:
    for number, line in lines:
        yield number, _of_json(number, line)


class _Csv:
    def __init__(self) -> None:
        self._header: list[str] | None = None

    def entries(self, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, Entry]]:
        for number, line in lines:
            cells = _cells(number, line)
            if self._header is None:
                self._header = header = [cell.strip().lower() for cell in cells]
                if "url" not in header:
                    raise PlanError(
                        f"line {number}: the header row has no column 'url' (it has {without_secrets(', '.join(header))[:200]})"
                    )
                continue
            if len(cells) != len(self._header):
                raise PlanError(f"line {number}: {len(cells)} columns, the header row has {len(self._header)}")
            row = dict(zip(self._header, cells, strict=True))
            yield number, _of_row(number, {column: row.get(column, "") for column in _COLUMNS})


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[Iterator[tuple[int, str]]]:
    rest, number = b"", 0
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield _texts(whole, number)
        number += len(whole)
        if len(rest) > MAX_LINE_BYTES:
            raise PlanError(f"line {number + 1}: longer than {MAX_LINE_BYTES} bytes; is this a manifest, one file a line?")
    yield _texts([rest], number)


def _texts(lines: list[bytes], before: int) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(lines, before + 1):
        if line := _decode(number, raw):
            yield number, line


def _decode(number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError:
        raise PlanError(f"line {number}: not UTF-8") from None


def _cells(number: int, line: str) -> list[str]:
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise PlanError(f"line {number}: not CSV ({error}); a quoted field must end on its own line") from None


def _of_json(number: int, line: str) -> Entry:
    try:
        return Entry.model_validate_json(line)
    except ValidationError as error:
        raise _mistake(number, error) from None


def _of_row(number: int, row: Mapping[str, str]) -> Entry:
    try:
        return Entry.model_validate(row)
    except ValidationError as error:
        raise _mistake(number, error) from None


def _mistake(number: int, error: ValidationError) -> PlanError:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return PlanError(f"line {number}: not JSON ({first['ctx']['error'].replace('line 1 column', 'column')})")
    where = ".".join(str(part) for part in first["loc"]) or "entry"
    return PlanError(f"line {number}: {where}: {first['msg']}")
