"""What the pipeline needs of the outside world. Each port has a real adapter in `connectors/` and one in `connectors/memory.py`.

All methods are coroutines that may wait on the network and are safe to cancel at any await.
A dependency that cannot be reached raises `failures.Unavailable`, unless a method says otherwise.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from export_service.messages import CallbackAnswered, JobSnapshot


class Clock(Protocol):
    def now(self) -> datetime: ...


@dataclass(frozen=True)
class QueueMessage:
    """One SQS message in flight. `receipt` is the handle of this receive only."""

    id: str
    body: str
    receipt: str
    receive_count: int = 1
    attributes: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None
    """Messages of one group are handled in the order in which they were received, each after the one before is deleted."""


class RequestQueue(Protocol):
    """The queue that asks for exports."""

    @property
    def name(self) -> str: ...

    async def receive(self) -> list[QueueMessage]:
        """Long poll: up to 10 messages, or an empty list after the poll time."""

    async def delete(self, message: QueueMessage) -> None:
        """Returns when the queue has confirmed; several callers share one batch request."""

    async def release(self, message: QueueMessage, delay_seconds: int = 0) -> None:
        """Make the message visible again, at once or after a delay."""


@dataclass(frozen=True)
class Attempt:
    """One attempt of a job in the ledger. `token` is a bearer secret: it is hidden from repr and must not be logged."""

    job_id: str
    number: int
    request_digest: str
    token: str | None = field(default=None, repr=False)
    published: bool = False
    answer: CallbackAnswered | None = None
    seal_key: bytes | None = field(default=None, repr=False)
    """Opens the sealed URL queries of this job."""
    first: int = 1
    """Number of the job's first attempt: the one whose plan all others work on."""
    begun: bool = False
    """The job was published for some attempt."""
    by_hand: bool = False
    """An operator asked for it: no message is its redelivery."""
    claimed: bool = False
    """Somebody set out to answer it before: the answer may have been accepted without our hearing of it."""


@dataclass(frozen=True)
class Planned:
    """How far the plan of an attempt is: tasks before `through` are handed out, of the list with this digest. `ended`: all of them are."""

    through: int = 0
    digest: str | None = None
    """None until the list was read whole."""
    ended: bool = False
    so_far: str | None = None
    """Digest of the tasks before `through`: a list that has it may be handed out from there, before its end is read."""


def among(attempt: Attempt, known: Sequence[Attempt]) -> Attempt:
    """The attempt with what its job's other ones, in order, say."""
    first = known[0].number if known else attempt.number
    return replace(attempt, first=first, begun=any(other.published for other in known))


def overtaken(attempt: Attempt, known: Sequence[Attempt]) -> bool:
    """An operator's attempt came between its being taken and its being published.

    The tally passes over an older attempt, so that nobody would answer its token: it needs a new number.
    """
    unpublished = not (attempt.published or attempt.claimed or attempt.answer)
    return unpublished and attempt.token is not None and any(other.by_hand and other.number > attempt.number for other in known)


class Ledger(Protocol):
    """Who asked for what with which token. The only place where a task token is kept."""

    async def open_attempt(
        self, job_id: str, token: str | None, request_digest: str, seal_key: bytes | None, now: datetime
    ) -> Attempt:
        """Find the newest attempt of this (job, token), or add the next one; two racing callers get the same one.

        One that was overtaken by an operator's before it was published gets a new number.

        A known job whose digest differs returns the existing first attempt unchanged: compare `request_digest`.
        """

    async def find_attempt(self, job_id: str, token: str | None) -> Attempt | None:
        """The attempt that `open_attempt` would find; adds none."""

    async def add_attempt(self, job_id: str, above: int, now: datetime) -> Attempt | None:
        """The next attempt of a job, with a number above `above`: an operator asks for it, nobody waits. None if the job is not known."""

    async def mark_published(self, job_id: str, number: int) -> None:
        """The request is on Kafka: a redelivered message has nothing left to do."""

    async def attempt(self, job_id: str, number: int) -> Attempt | None: ...

    async def seal_key(self, job_id: str) -> bytes | None:
        """The key of the job's first attempt that has one."""

    async def planned(self, job_id: str, number: int) -> Planned:
        """What was last marked, or nothing."""

    async def mark_planned(self, job_id: str, number: int, planned: Planned) -> None: ...

    async def claim(self, job_id: str, number: int, now: datetime) -> Attempt | None:
        """The attempt, noting in the same step that its answer is about to be sent. None if it is not known or has no token."""

    async def record_answer(self, answer: CallbackAnswered) -> None:
        """Keep what Step Functions said, with the attempt: the first answer, or the one that was accepted."""


class SnapshotStore(Protocol):
    async def put(self, snapshot: JobSnapshot) -> bool:
        """Write unless the stored (attempt, version) is as new or newer; True if written."""

    async def get(self, job_id: str) -> JobSnapshot | None: ...


class TaskCallback(Protocol):
    """Answers a waiting Step Functions state. Raises the `CallbackError` family, never Unavailable."""

    async def success(self, token: str, output: str) -> None: ...

    async def failure(self, token: str, error: str, cause: str) -> None: ...

    async def heartbeat(self, token: str) -> None:
        """The job moves: starts the state's HeartbeatSeconds anew. TimeoutSeconds goes on."""


class Download(Protocol):
    """An open source file."""

    @property
    def size(self) -> int | None:
        """Announced length in bytes, if the source announced one."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The content, exactly as the source has it (no content decoding). Raises TransferError."""


class LargeDownload(Download, Protocol):
    """One whose parts can be asked for again, of the very same version."""

    @property
    def validator(self) -> str | None:
        """Names that version. None: its parts cannot be asked for."""

    def blocks(self) -> AsyncIterator[list[bytes]]:
        """As `chunks`, more at a time."""

    def span(self, first: int, stop: int, validator: str) -> AbstractAsyncContextManager[AsyncIterator[list[bytes]]]:
        """Its bytes from `first` to before `stop`. Raises RangeRefused, if they would not be those."""

    def close(self) -> None:
        """No more of `blocks`; spans can still be had."""


class FileSource(Protocol):
    """Reads files of one or more URL schemes."""

    def open(self, url: str) -> AbstractAsyncContextManager[Download]:
        """Raises TransferError with the class of the failure; `url` is whole, its query included."""

    def list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        """(url, size) of every object below a prefix, in key order. Raises PlanError where there is no listing."""


class Digest(Protocol):
    """Of hashlib."""

    def digest(self) -> bytes: ...


class Sink(Protocol):
    """A file being written. Invisible under its final name until the surrounding context ends without an exception."""

    async def write(self, chunk: bytes) -> None: ...


class Destination(Protocol):
    """One job's destination folder or prefix."""

    def uri(self, name: str) -> str: ...

    def copies(self, url: str) -> bool:
        """Whether this is a CopyingDestination that may copy the file at `url`."""

    def create(self, name: str, size: int | None = None, digest: Digest | None = None) -> AbstractAsyncContextManager[Sink]:
        """Write `name` (a checked relative path), replacing what is there, atomically. Raises TransferError.

        `size` is a hint. `digest`: the SHA-256 of all that was written, by the time the context ends, if the caller has it anyway.
        """


@dataclass(frozen=True)
class Copied:
    """`sha256`: in hexadecimal, if the store keeps one of the whole."""

    size: int
    sha256: str | None


Check = Callable[[int, str | None], None]
"""Told of a size and a SHA-256, if it is known; raises TransferError if a file with those is not wanted."""


class CopyingDestination(Destination, Protocol):
    """One whose store may copy a file that it has already, so that no byte comes through here."""

    async def copy(self, name: str, url: str, *, hashed: bool, check: Check, moved: Callable[[], None]) -> Copied | None:
        """As `create`, with the content of one version of `url`. None: it has to be read and written; nothing has been done.

        Args:
            hashed: there must be a SHA-256 for `check`.
            check: called before anything is copied.
            moved: called from time to time while it gets on.
        """


class Destinations(Protocol):
    def at(self, uri: str) -> Destination:
        """The destination at a `file://` or `s3://` URI. Raises TransferError(retryable=False) for any other."""


class Publisher(Protocol):
    """Sends to Kafka."""

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: Mapping[str, bytes] | None = None,
    ) -> "asyncio.Future[Any]":
        """Queue a record; may wait for buffer space. The returned future is done when the broker has confirmed:
        only that is delivery. It fails with Unavailable."""
