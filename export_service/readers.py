"""Reads records of the topics where most is tasks and results, quickly. What is wrong with one is told by its fields, not their values."""

import re
from typing import Annotated

import msgspec
from pydantic import Field, TypeAdapter, ValidationError

from export_service.messages import JobEvent, RareEvent, TaskBatch, TaskResults


class Unreadable(ValueError):
    """What the value of a record is not, and where."""


class _Kind(msgspec.Struct):
    type: str = ""


_BAD = (msgspec.MsgspecError, UnicodeError)
_rare: TypeAdapter[RareEvent] = TypeAdapter(Annotated[RareEvent, Field(discriminator="type")])
_kind = msgspec.json.Decoder(_Kind)
_batch = msgspec.json.Decoder(TaskBatch)
_results = msgspec.json.Decoder(TaskResults)


def read_event(value: bytes) -> JobEvent:
    """One `results` record. Raises Unreadable, pydantic.ValidationError."""
    try:
        return _results.decode(value)  # nearly all are
    except _BAD as error:
        if _is(value, "TaskResults"):
            raise _unreadable(error) from None
    return _rare.validate_json(value)


def read_batch(value: bytes) -> TaskBatch:
    """One `tasks` record. Raises Unreadable."""
    try:
        return _batch.decode(value)
    except _BAD as error:
        raise _unreadable(error) from None


def reason_of(error: ValidationError | Unreadable) -> str:
    """Which fields and why. Not pydantic's own text, which quotes values."""
    if isinstance(error, Unreadable):
        return str(error)
    mistakes = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{'.'.join(map(str, mistake['loc'])) or 'record'}: {mistake['msg']}" for mistake in mistakes)


def _is(value: bytes, kind: str) -> bool:
    try:
        return _kind.decode(value).type == kind
    except _BAD:
        return False


def _unreadable(error: Exception) -> Unreadable:
    return Unreadable("not UTF-8" if isinstance(error, UnicodeError) else re.sub(r""" ('.*'|".*")""", "", str(error)))
