"""The SQS message: what a caller may send, checked before anything happens, and the ExportRequested record it becomes.

Two steps, because sealing needs the job's key and the key is kept in the ledger: `parse`, then `Parsed.requested(attempt)`.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StrictInt, StrictStr, ValidationError, field_validator
from pydantic.alias_generators import to_camel

from export_service import names
from export_service.failures import RequestRejected
from export_service.manifests import Entry
from export_service.messages import ExportRequested, FileSpec, JobInfo, ManifestRef
from export_service.ports import Attempt
from export_service.redaction import without_secrets
from export_service.sealing import seal, without_query
from export_service.settings import Settings

MAX_BODY_BYTES = 1_048_576
"""SQS's own limit (SQS developer guide, message quotas). Nothing larger can come from SQS; other queues may differ."""
_Id = Annotated[StrictStr, Field(min_length=1, max_length=256)]


class _Body(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


class ManifestBody(_Body):
    url: StrictStr
    format: Literal["jsonl", "csv"]


class ExportMessage(_Body):
    """DESIGN §3.1. Unknown fields are ignored."""

    job_id: UUID
    export_id: _Id
    user_id: _Id
    metadata: dict[str, Any] = Field(default_factory=dict)
    task_token: Annotated[SecretStr | None, Field(min_length=1, max_length=2048)] = None
    files: tuple[Entry, ...] | None = None
    manifest: ManifestBody | None = None
    prefix: StrictStr | None = None
    destination: StrictStr | None = None
    tolerated_failures: Annotated[StrictInt, Field(ge=0)] = 0
    tolerated_failure_percentage: Annotated[float, Field(ge=0, le=100)] = 0.0
    heartbeat_seconds: Annotated[StrictInt | None, Field(gt=0)] = None
    deadline_seconds: Annotated[StrictInt | None, Field(gt=0)] = None

    @field_validator("metadata")
    @classmethod
    def _format(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value.get("format", "jsonl") not in ("jsonl", "csv"):
            raise ValueError("metadata.format is the report's format: jsonl or csv")
        return value


@dataclass(frozen=True)
class Policy:
    """The settings that decide what a message may ask for."""

    catalog: str | None
    destination: str
    destinations: tuple[str, ...]

    @classmethod
    def of(cls, settings: Settings) -> "Policy":
        return cls(settings.catalog, settings.destination, settings.destinations)


@dataclass(frozen=True)
class Parsed:
    """A message that may be run. `token` is hidden from repr."""

    message: ExportMessage
    digest: str
    """SHA-256 of the body's canonical JSON without its token: the same request asked again has the same digest."""
    destination: str
    manifest_url: tuple[str, Literal["jsonl", "csv"]] | None
    files: tuple[tuple[Entry, str], ...] | None

    @property
    def job_id(self) -> str:
        return str(self.message.job_id)

    @property
    def token(self) -> str | None:
        secret = self.message.task_token
        return secret.get_secret_value() if secret else None

    def requested(self, attempt: Attempt, now: datetime, message_id: str | None) -> ExportRequested:
        """The record, with URL queries sealed under the attempt's key."""
        message, key = self.message, attempt.seal_key

        def closed(url: str) -> tuple[str, str | None]:
            return seal(url, key) if key else (without_query(url), None)

        files = None
        if self.files is not None:
            sealed = [(closed(entry.url), entry, name) for entry, name in self.files]
            files = tuple(
                FileSpec(url=url, query=query, name=name, size=entry.size, sha256=entry.sha256)
                for (url, query), entry, name in sealed
            )
        manifest = None
        if self.manifest_url is not None:
            url, query = closed(self.manifest_url[0])
            manifest = ManifestRef(url=url, query=query, format=self.manifest_url[1])
        job = JobInfo(
            job_id=self.job_id,
            attempt=attempt.number,
            export_id=message.export_id,
            user_id=message.user_id,
            requested_at=now,
            destination=self.destination,
            report_format=message.metadata.get("format", "jsonl"),
            has_task_token=self.token is not None,
            tolerated_failures=message.tolerated_failures,
            tolerated_failure_percentage=message.tolerated_failure_percentage,
            heartbeat_seconds=message.heartbeat_seconds,
            deadline_seconds=message.deadline_seconds,
            metadata=message.metadata,
        )
        return ExportRequested(job=job, files=files, manifest=manifest, prefix=message.prefix, message_id=message_id)


def parse(body: str, policy: Policy) -> Parsed:
    """Check everything that can be checked without asking anybody.

    Raises:
        RequestRejected: one sentence with field, value and way out; with job id and token where they are usable.
    """
    size = len(body.encode())
    raw = _unwrapped(_json(body)) if size <= MAX_BODY_BYTES else {}
    usable = _usable(raw)

    def reject(reason: str) -> RequestRejected:
        return RequestRejected(without_secrets(reason), **usable)

    if size > MAX_BODY_BYTES:
        raise reject(f"the message has {size} bytes, more than {MAX_BODY_BYTES}; name the files in a manifest instead")
    try:
        message = ExportMessage.model_validate(raw)
    except ValidationError as error:
        raise reject(_first(error)) from None
    given = [name for name in ("files", "manifest", "prefix") if getattr(message, name) is not None]
    if len(given) > 1:
        raise reject(f"{' and '.join(given)} are both given; name the files in exactly one way")
    manifest_url = _manifest(message, policy, bool(given), reject)
    if message.prefix is not None:
        _url("prefix", message.prefix, ("s3",), reject)
    destination = _destination(message, policy, reject)
    files = _files(message.files, reject) if message.files is not None else None
    bare = {name: value for name, value in raw.items() if name not in ("taskToken", "task_token")}
    digest = hashlib.sha256(json.dumps(bare, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return Parsed(message, digest, destination, manifest_url, files)


Reject = Callable[[str], RequestRejected]


def _json(body: str) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise RequestRejected(f"the body is not JSON ({error})") from None


def _unwrapped(value: Any) -> dict[str, Any]:
    """An SNS envelope holds the message as a string in `Message`."""
    if isinstance(value, dict) and value.get("Type") == "Notification" and isinstance(value.get("Message"), str):
        value = _json(value["Message"])
    if not isinstance(value, dict):
        raise RequestRejected(f"the body is a JSON {type(value).__name__}, not an object")
    return value


def _usable(raw: dict[str, Any]) -> dict[str, str]:
    """The job id and token that a rejection can still use, whatever else is wrong."""
    found = {}
    token, job_id = raw.get("taskToken"), raw.get("jobId")
    if isinstance(token, str) and 1 <= len(token) <= 2048:
        found["token"] = token
    if isinstance(job_id, str) and job_id:
        found["job_id"] = job_id[:256]
    return found


def _first(error: ValidationError) -> str:
    mistake = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in mistake["loc"]) or "body"
    value = "" if mistake["type"] == "missing" or "oken" in where else f" (it is {str(mistake['input'])[:80]!r})"
    more = f"; and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    return f"{where}: {mistake['msg'].removeprefix('Value error, ')}{value}{more}"


def _url(field: str, url: str, schemes: tuple[str, ...], reject: Reject) -> str:
    try:
        return names.check_url(url, schemes)
    except ValueError as error:
        raise reject(f"{field}: {without_query(url)[:200]!r} {error}") from None


def _manifest(message: ExportMessage, policy: Policy, named: bool, reject: Reject) -> tuple[str, Literal["jsonl", "csv"]] | None:
    if message.manifest is not None:
        return _url("manifest.url", message.manifest.url, (*names.SCHEMES, "file"), reject), message.manifest.format
    if named:
        return None
    if policy.catalog is None:
        raise reject("the message names no files (files, manifest or prefix), and EXPORT_CATALOG is not set; do one of the two")
    url = _fill(policy.catalog, message, reject)
    return url, "csv" if url.endswith(".csv") else "jsonl"


def _destination(message: ExportMessage, policy: Policy, reject: Reject) -> str:
    default = _fill(policy.destination, message, reject)
    if message.destination is None:
        return default
    root = policy.destination.split("{", 1)[0]
    given = message.destination
    if not given.startswith((*policy.destinations, root)) or "/../" in given + "/":
        allowed = ", ".join((*policy.destinations, root))
        raise reject(f"destination: {given[:200]!r} is not below an allowed one ({allowed}); see EXPORT_DESTINATIONS")
    _url("destination", given, ("s3", "file"), reject)
    return given if given.endswith("/") else given + "/"


def _fill(template: str, message: ExportMessage, reject: Reject) -> str:
    """Ids are percent-encoded, so that none can leave its place in the URI."""
    filled = template
    for name, value in (("jobId", str(message.job_id)), ("exportId", message.export_id), ("userId", message.user_id)):
        if "{" + name + "}" in filled:
            if value in (".", ".."):
                raise reject(f"{name}: {value!r} cannot be part of a path")
            filled = filled.replace("{" + name + "}", quote(value, safe=""))
    return filled


def _files(entries: tuple[Entry, ...], reject: Reject) -> tuple[tuple[Entry, str], ...]:
    named: list[tuple[Entry, str]] = []
    seen: dict[str, int] = {}
    for number, entry in enumerate(entries):
        _url(f"files[{number}].url", entry.url, names.SCHEMES, reject)
        try:
            name = names.check_name(entry.name if entry.name is not None else names.derive_name(entry.url))
        except ValueError as error:
            raise reject(f"files[{number}].name {error}") from None
        if name in seen:
            raise reject(f"files[{number}].name {name!r} is the name of files[{seen[name]}] too; give each its own")
        seen[name] = number
        named.append((entry, name))
    return tuple(named)
