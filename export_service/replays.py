"""`replays`: what replays did. With it one that broke off goes on, and anybody can see later who did what."""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from export_service.messages import Record, Timestamp


class ReplayBegun(Record):
    """`run` is its id, and the key of all its records; `by` is user@host."""

    type: Literal["ReplayBegun"] = "ReplayBegun"
    run: str
    mode: Literal["rebuild", "re-emit"]
    by: str
    selection: dict[str, Any]
    jobs: int
    at: Timestamp


class JobReplayed(Record):
    """`place` is the record that it was done with; None: nothing was sent after all, and `why` says why."""

    type: Literal["JobReplayed"] = "JobReplayed"
    run: str
    job_id: str
    attempt: int
    place: str | None = None
    why: str | None = None
    at: Timestamp


class ReplayEnded(Record):
    type: Literal["ReplayEnded"] = "ReplayEnded"
    run: str
    sent: int
    passed_over: int
    at: Timestamp


Audit = ReplayBegun | JobReplayed | ReplayEnded
audit: TypeAdapter[Audit] = TypeAdapter(Annotated[Audit, Field(discriminator="type")])
"""Reads a record. Raises pydantic.ValidationError."""
