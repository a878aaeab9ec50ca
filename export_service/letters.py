"""Dead letters as a person sees them: which there are, what was done to them, and what would be sent to where if one is sent again.

The record itself is sent where its topic still has it. A letter has no secrets, so what is made of a letter alone may lack them, and is
refused then.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from export_service.failures import ExportError, RequestRejected
from export_service.messages import DeadLetter, ExportRequested, JobCompleted, JobSnapshot, OperatorAction, iso_millis
from export_service.readers import Unreadable, read_batch, reason_of
from export_service.rebuilt import job_of, read
from export_service.redaction import HIDDEN, body_without_secrets, names_token, without_secrets
from export_service.requests import Policy, parse

State = Literal["open", "redriving", "redriven", "discarded"]
QUEUE = "sqs"
PLACE = re.compile(rf"{QUEUE}:.*|[^:]+:\d+:\d+")
"""What a letter says of where it is from."""
_DONE: Mapping[str, State] = {"redrive": "redriven", "discard": "discarded"}
_JOB: Mapping[str, Callable[[bytes], str]] = {
    "requests": lambda value: ExportRequested.model_validate_json(value).job.job_id,
    "tasks": lambda value: read_batch(value).job_id,
    "results": lambda value: job_of(read(value)),
    "snapshots": lambda value: JobSnapshot.model_validate_json(value).job_id,
    "completions": lambda value: JobCompleted.model_validate_json(value).snapshot.job_id,
}
"""Topic -> reads one of its records as its step does, for its job. Raises ValidationError, Unreadable."""


class Place(NamedTuple):
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True)
class Kept:
    """One dead letter on its topic. `at` is the record's own time, `actions` what was done to it, in order."""

    partition: int
    offset: int
    at: datetime
    key: bytes | None
    letter: DeadLetter
    prefix: str
    """Of topics."""
    actions: Sequence[OperatorAction] = ()

    @property
    def id(self) -> str:
        return f"{self.partition}:{self.offset}"

    @property
    def place(self) -> Place | None:
        """Where the record came from; None: from a queue."""
        topic, _, rest = self.letter.source.partition(":")
        if topic == QUEUE:
            return None
        partition, _, offset = rest.partition(":")
        return Place(topic, int(partition), int(offset))

    @property
    def topic(self) -> str:
        """Its short name; `sqs` for a queue."""
        return QUEUE if self.place is None else self.place.topic.removeprefix(self.prefix)

    @property
    def job_id(self) -> str | None:
        # The key of a task is `job:index`.
        return self.letter.job_id or (None if self.place is None else (self.letter.key or "").partition(":")[0] or None)

    @property
    def body(self) -> bytes:
        return base64.b64decode(self.letter.body_base64) if self.letter.body_base64 else (self.letter.body or "").encode()

    @property
    def state(self) -> State:
        ended = {action.id for action in self.actions if action.stage != "begun"}
        state: State = "open"
        for action in self.actions:
            # What was begun and not confirmed counts until somebody has dealt with the letter again.
            if action.stage == "done":
                state = _DONE[action.action]
            elif action.id not in ended:
                state = "redriving"
        return state

    def is_of(self, action: OperatorAction) -> bool:
        return action.action in _DONE and action.subject == self.id and action.of == self.at


@dataclass(frozen=True)
class Filter:
    """All that is given must hold. `reason`: a part of the reason, in any case; `state` None: any."""

    ids: tuple[str, ...] = ()
    topic: str | None = None
    job: str | None = None
    reason: str | None = None
    since: datetime | None = None
    state: State | None = None

    def takes(self, kept: Kept) -> bool:
        return (
            (not self.ids or kept.id in self.ids)
            and self.topic in (None, kept.topic)
            and self.job in (None, kept.job_id)
            and (self.reason is None or self.reason.casefold() in kept.letter.reason.casefold())
            and (self.since is None or kept.at >= self.since)
            and self.state in (None, kept.state)
        )


@dataclass(frozen=True)
class Original:
    """The record as its topic still has it."""

    key: bytes | None
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)

    def is_of(self, kept: Kept) -> bool:
        """Whether this is what became the letter: its topic may have been made again."""
        try:
            return body_without_secrets(self.value.decode()) == kept.letter.body
        except UnicodeDecodeError:
            return without_secrets(self.value.decode("latin-1")).encode("latin-1") == kept.body


@dataclass(frozen=True)
class Sending:
    """What is sent if a letter is sent again. `topic` None: to the queue. `notes` are for the plan."""

    kept: Kept
    topic: str | None
    key: bytes | None
    value: bytes = field(repr=False)
    headers: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()


Edit = Callable[[bytes], bytes]
"""Raises ExportError."""


def sending(kept: Kept, original: Original | None, edit: Edit | None, policy: Policy) -> Sending:
    """Raises ExportError, a sentence: its step would only make a dead letter of it again, or it lacks its secrets."""
    notes: list[str] = []
    value = original.value if original else kept.body
    if kept.place is None:
        value, without = _without_token(value)
        notes += ["without its task token, which no topic keeps: nobody is told"] if without else []
    elif original is None:
        notes.append("from the letter, without headers: its topic does not have the record any more")
    if edit is not None:
        value = edit(value)
        notes.append("edited")
    # A requests record may have it where its sender had put a token.
    if value.count(HIDDEN.encode()) > (original.value.count(HIDDEN.encode()) if original else 0):
        lost = "its secrets were left out of the letter" if edit is None else f"it still has {HIDDEN} where a secret was"
        raise ExportError(f"dead letter {kept.id}: {lost}; give them with --set PATH=VALUE, or discard it")
    if kept.place is None:
        return Sending(kept, None, _queued(kept, value, policy), value, notes=tuple(notes))
    if kept.topic not in _JOB:
        raise ExportError(f"dead letter {kept.id}: {kept.place.topic} is no topic of ours; check EXPORT_TOPICS_PREFIX")
    try:
        job_id = _JOB[kept.topic](value).encode()
    except (ValidationError, Unreadable) as error:
        raise ExportError(
            f"dead letter {kept.id}: {kept.topic} still cannot take it ({reason_of(error)}); use --edit or --set, or discard it"
        ) from None
    key = original.key if original else kept.key
    if (key or b"").partition(b":")[0] != job_id:
        # Records of a job are found, counted and kept in order by its id.
        key = job_id
        notes.append("key is its job's")
    return Sending(kept, kept.place.topic, key, value, original.headers if original else {}, tuple(notes))


def _without_token(value: bytes) -> tuple[bytes, bool]:
    try:
        body = json.loads(value)
    except ValueError:
        return value, False
    if not isinstance(body, dict) or not any(names_token(name) and token == HIDDEN for name, token in body.items()):
        return value, False
    left = {name: each for name, each in body.items() if not (names_token(name) and each == HIDDEN)}
    return json.dumps(left, ensure_ascii=False).encode(errors="backslashreplace"), True


def _queued(kept: Kept, value: bytes, policy: Policy) -> bytes:
    try:
        return parse(value.decode(), policy).job_id.encode()
    except UnicodeDecodeError:
        raise ExportError(f"dead letter {kept.id}: is not UTF-8, which a queue cannot carry; use --edit, or discard it") from None
    except RequestRejected as rejected:
        raise ExportError(f"dead letter {kept.id}: would be rejected again: {rejected.reason}; use --edit or --set") from None


def setting(changes: Sequence[str]) -> Edit:
    """Of `path=value` each: `job.userId=u2`, `files.0.size=12`. A value is JSON, or else text. Raises ExportError."""
    parsed = [(path.split("."), _value(value), change) for change in changes for path, eq, value in [change.partition("=")] if eq]
    if len(parsed) < len(changes):
        raise ExportError("--set: give PATH=VALUE, such as job.userId=user-2")

    def edit(value: bytes) -> bytes:
        try:
            body = json.loads(value)
        except ValueError:
            raise ExportError("--set: the record is not JSON; use --edit") from None
        for path, new, _ in parsed:
            _put(body, path, new)
        return json.dumps(body, ensure_ascii=False).encode(errors="backslashreplace")

    return edit


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _put(body: Any, path: list[str], value: Any) -> None:
    inner = body
    for depth, step in enumerate(path):
        place: Any = step
        if isinstance(inner, list) and step.isdigit() and int(step) < len(inner):
            place = int(step)
        elif not isinstance(inner, dict):
            shown = ".".join(path[:depth]) or "the record"
            raise ExportError(f"--set {'.'.join(path)}: {shown} has no place {step!r}; see `dead-letters show`")
        if depth == len(path) - 1:
            inner[place] = value
        else:
            inner = inner.setdefault(place, {}) if isinstance(inner, dict) else inner[place]


def refusal(kept: Kept, *, again: bool) -> str | None:
    """Why it may not be sent now."""
    if kept.state == "open" or again:
        return None
    last = kept.actions[-1]
    when = f"{iso_millis(last.at)} by {last.who}"
    if kept.state == "redriving":
        return f"dead letter {kept.id}: a redrive was begun at {when} and is not confirmed; --again sends it all the same"
    return f"dead letter {kept.id}: was {kept.state} at {when}; --again sends it all the same"


def faster(kept: Kept, mine: OperatorAction, now: Iterable[OperatorAction]) -> OperatorAction | None:
    """Somebody else's action that came before `mine` and after what was planned with."""
    since = [action for action in now if kept.is_of(action)][len(kept.actions) :]
    return since[0] if since and since[0].id != mine.id else None


def as_object(kept: Kept, *, body: bool) -> dict[str, Any]:
    """For --json, and for `show`. Without secrets."""
    letter = kept.letter
    fields: dict[str, Any] = {
        "id": kept.id,
        "at": iso_millis(kept.at),
        "state": kept.state,
        "source": letter.source,
        "jobId": kept.job_id,
        "reason": without_secrets(letter.reason),
        "messageId": letter.message_id,
        "receiveCount": letter.receive_count,
        "toldStepFunctions": letter.told_step_functions,
        "key": letter.key if body else None,
        "body": body_without_secrets(letter.body) if body and letter.body is not None else None,
        "bodyBase64": letter.body_base64 if body else None,
        "actions": [
            {
                "action": each.action,
                "stage": each.stage,
                "who": each.who,
                "at": iso_millis(each.at),
                "why": each.why,
                **each.details,
            }
            for each in kept.actions
        ]
        or None,
    }
    return {
        name: without_secrets(value) if isinstance(value, str) else value for name, value in fields.items() if value is not None
    }
