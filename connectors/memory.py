"""Every port in memory: for tests, and for reading what each port promises without a cloud in the way."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from export_service.messages import CallbackAnswered, CallbackOutcome, JobSnapshot
from export_service.ports import Attempt, Planned, QueueMessage, among, overtaken


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class MemoryQueue:
    """A queue whose messages stay invisible from receive until release, and come again after it."""

    def __init__(self, name: str = "export-jobs") -> None:
        self.name = name
        self._visible: asyncio.Queue[QueueMessage] = asyncio.Queue()
        self.in_flight: dict[str, QueueMessage] = {}
        self.deleted: list[str] = []
        self._sent = 0

    def send(
        self, body: str, attributes: Mapping[str, str] | None = None, *, group: str | None = None, receive_count: int = 0
    ) -> str:
        """Put a message on the queue that was received `receive_count` times before; its id."""
        self._sent += 1
        id_ = f"m{self._sent}"
        self._visible.put_nowait(QueueMessage(id_, body, f"{id_}-r{receive_count}", receive_count, attributes or {}, group))
        return id_

    def empty(self) -> bool:
        return self._visible.empty() and not self.in_flight

    async def receive(self) -> list[QueueMessage]:
        try:
            found = [await asyncio.wait_for(self._visible.get(), timeout=0.05)]
        except TimeoutError:
            return []
        while len(found) < 10 and not self._visible.empty():
            found.append(self._visible.get_nowait())
        counts = [message.receive_count + 1 for message in found]
        messages = [replace(m, receive_count=n, receipt=f"{m.id}-r{n}") for m, n in zip(found, counts, strict=True)]
        self.in_flight |= {message.id: message for message in messages}
        return messages

    async def delete(self, message: QueueMessage) -> None:
        if self.in_flight.pop(message.id, None):
            self.deleted.append(message.id)

    async def release(self, message: QueueMessage, delay_seconds: int = 0) -> None:  # noqa: ARG002
        if current := self.in_flight.pop(message.id, None):
            self._visible.put_nowait(current)


@dataclass
class MemoryLedger:
    attempts: dict[tuple[str, int], Attempt] = field(default_factory=dict)
    plans: dict[tuple[str, int], Planned] = field(default_factory=dict)

    async def open_attempt(
        self,
        job_id: str,
        token: str | None,
        request_digest: str,
        seal_key: bytes | None,
        now: datetime,  # noqa: ARG002
    ) -> Attempt:
        known = self._of(job_id)
        if (found := await self.find_attempt(job_id, token)) and not overtaken(found, known):
            return found
        if known and known[0].request_digest != request_digest:
            return known[0]
        number = known[-1].number + 1 if known else 1
        key = known[0].seal_key if known else seal_key
        self.attempts[job_id, number] = Attempt(job_id, number, request_digest, token, seal_key=key, first=number)
        return among(self.attempts[job_id, number], known)

    async def find_attempt(self, job_id: str, token: str | None) -> Attempt | None:
        known = self._of(job_id)
        return next((among(attempt, known) for attempt in reversed(known) if attempt.token == token and not attempt.by_hand), None)

    async def add_attempt(self, job_id: str, above: int, now: datetime) -> Attempt | None:  # noqa: ARG002
        if not (known := self._of(job_id)):
            return None
        number, first = max(known[-1].number, above) + 1, known[0]
        added = Attempt(job_id, number, first.request_digest, seal_key=first.seal_key, by_hand=True)
        self.attempts[job_id, number] = added
        return among(added, known)

    def _of(self, job_id: str) -> list[Attempt]:
        return [attempt for (job, _), attempt in sorted(self.attempts.items()) if job == job_id]

    async def mark_published(self, job_id: str, number: int) -> None:
        if known := self.attempts.get((job_id, number)):
            self.attempts[job_id, number] = replace(known, published=True)

    async def attempt(self, job_id: str, number: int) -> Attempt | None:
        return self.attempts.get((job_id, number))

    async def seal_key(self, job_id: str) -> bytes | None:
        first = self.attempts.get((job_id, 1))
        return first.seal_key if first else None

    async def planned(self, job_id: str, number: int) -> Planned:
        return self.plans.get((job_id, number), Planned())

    async def mark_planned(self, job_id: str, number: int, planned: Planned) -> None:
        if (job_id, number) in self.attempts and not (await self.planned(job_id, number)).ended:
            self.plans[job_id, number] = planned

    async def claim(self, job_id: str, number: int, now: datetime) -> Attempt | None:  # noqa: ARG002
        known = self.attempts.get((job_id, number))
        if known is None or known.token is None:
            return None
        self.attempts[job_id, number] = replace(known, claimed=True)
        return known

    async def record_answer(self, answer: CallbackAnswered) -> None:
        place = (answer.job_id, answer.attempt)
        known = self.attempts.get(place)
        if known and (known.answer is None or answer.outcome is CallbackOutcome.SENT):
            self.attempts[place] = replace(known, answer=answer)


@dataclass
class MemorySnapshots:
    items: dict[str, JobSnapshot] = field(default_factory=dict)

    async def put(self, snapshot: JobSnapshot) -> bool:
        known = self.items.get(snapshot.job_id)
        if known and (known.attempt, known.version) >= (snapshot.attempt, snapshot.version):
            return False
        self.items[snapshot.job_id] = snapshot
        return True

    async def get(self, job_id: str) -> JobSnapshot | None:
        return self.items.get(job_id)


@dataclass
class MemoryCallback:
    """Takes every answer; `refuse` may raise instead, given the token."""

    answers: list[tuple[str, ...]] = field(default_factory=list)
    refuse: Callable[[str], None] = field(default=lambda _: None)

    async def success(self, token: str, output: str) -> None:
        self.refuse(token)
        self.answers.append(("success", token, output))

    async def failure(self, token: str, error: str, cause: str) -> None:
        self.refuse(token)
        self.answers.append(("failure", token, error, cause))

    async def heartbeat(self, token: str) -> None:
        self.refuse(token)
        self.answers.append(("heartbeat", token))


class Delivered(NamedTuple):
    """What a broker says of a record that it has."""

    partition: int
    offset: int


@dataclass
class MemoryPublisher:
    """Keeps records by topic and confirms at once; with `confirm=False` a test settles `pending` itself."""

    records: dict[str, list[tuple[bytes | None, bytes | None]]] = field(default_factory=lambda: defaultdict(list))
    headers: list[Mapping[str, bytes] | None] = field(default_factory=list)
    confirm: bool = True
    pending: list["asyncio.Future[Any]"] = field(default_factory=list)
    refuse: Callable[[str], None] = field(default=lambda _: None)
    """May raise instead of taking a record, given its topic."""

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: Mapping[str, bytes] | None = None,
    ) -> "asyncio.Future[Any]":
        self.refuse(topic)
        self.records[topic].append((key, value))
        self.headers.append(headers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.confirm:
            future.set_result(Delivered(partition or 0, len(self.records[topic]) - 1))
        else:
            self.pending.append(future)
        return future

    def values(self, topic: str) -> list[bytes]:
        return [value for _, value in self.records[topic] if value is not None]
