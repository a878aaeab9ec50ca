"""The SQS message: what a caller may send, checked before anything happens, and the ExportRequested record it becomes.

Two steps, because sealing needs the job's key and the key is kept in the ledger: `parse`, then `Parsed.requested(attempt)`.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StrictInt, StrictStr, ValidationError, field_validator
from pydantic.alias_generators import to_camel

from export_service import names
from export_service.failures import RequestRejected
from export_service.manifests import Entry
from export_service.messages import ExportRequested, FileSpec, JobInfo, ManifestRef
from export_service.ports import Attempt
from export_service.prefixes import is_below
from export_service.redaction import HIDDEN, names_token, value_without_secrets, without_secrets
from export_service.sealing import seal, without_query
from export_service.settings import Settings

MAX_BODY_BYTES = 1_048_576
"""SQS's own limit (SQS developer guide, message quotas). Nothing larger can come from SQS; other queues may differ."""
MAX_METADATA_BYTES = 16_384
"""As JSON. Metadata is in every record of its job and in its state, so it is kept small."""
MAX_TOKEN_CHARS = 2048
MAX_DEPTH = 32
"""Levels of JSON. Everything that reads a record later is recursive, each with a limit of its own."""
_YEAR = 31_536_000
"""Seconds: the longest that an execution of Step Functions may take."""

_Id = Annotated[StrictStr, Field(min_length=1, max_length=256)]
_Place = Annotated[StrictStr, Field(min_length=1, max_length=2048)]
_Seconds = Annotated[StrictInt, Field(gt=0, le=_YEAR)]


class _Body(BaseModel):
    # By alias only: a `task_token` taken as `taskToken` would be a token that nothing else knows as one.
    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)


class FileBody(Entry):
    """As in a manifest, but JSON has numbers: a size in quotes is a mistake here."""

    url: StrictStr = Field(repr=False)
    size: Annotated[StrictInt | None, Field(ge=0, le=2**63 - 1)] = None


class ManifestBody(_Body):
    url: StrictStr = Field(repr=False)
    format: Literal["jsonl", "csv"]


class ExportMessage(_Body):
    """What a caller sends. Unknown fields are ignored; a field that is null counts as absent.

    `job_id` is the UUID, whichever way it was written: two spellings are one job, and records have the lower-case one with hyphens.
    """

    job_id: UUID
    export_id: _Id
    user_id: _Id
    metadata: dict[str, Any] = Field(default_factory=dict, repr=False)
    task_token: Annotated[SecretStr | None, Field(min_length=1, max_length=MAX_TOKEN_CHARS)] = None
    files: tuple[FileBody, ...] | None = Field(default=None, repr=False)
    manifest: ManifestBody | None = None
    prefix: _Place | None = None
    destination: _Place | None = None
    tolerated_failures: Annotated[StrictInt, Field(ge=0, le=2**31 - 1)] = 0
    tolerated_failure_percentage: Annotated[float, Field(strict=True, ge=0, le=100)] = 0.0
    heartbeat_seconds: _Seconds | None = None
    deadline_seconds: _Seconds | None = None

    @field_validator("metadata")
    @classmethod
    def _metadata(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value.get("format") not in (None, "jsonl", "csv"):
            raise ValueError("metadata.format is the report's format: jsonl or csv")
        size = len(json.dumps(value))
        if size > MAX_METADATA_BYTES:
            raise ValueError(f"has {size} bytes of JSON, at most {MAX_METADATA_BYTES} travel with a job; keep the rest elsewhere")
        return value


@dataclass(frozen=True)
class Policy:
    """The settings that decide what a message may ask for."""

    catalog: str | None
    destination: str
    destinations: tuple[str, ...]
    sources: tuple[str, ...] = ()
    """Prefixes that a message's own URLs may have; none: any. The catalog is the operator's, and goes without."""

    @classmethod
    def of(cls, settings: Settings) -> "Policy":
        return cls(settings.catalog, settings.destination, settings.destinations, settings.download.allowed_urls)

    def allows(self, destination: str) -> bool:
        """Whether a message may name this folder (ending in '/'): one below an allowed prefix, or below the default's own root."""
        # Whole segments: `s3://exports` does not allow `s3://exports-of-others/`.
        return any(destination.startswith(prefix if prefix.endswith("/") else prefix + "/") for prefix in self.roots())

    def roots(self) -> tuple[str, ...]:
        fixed, variable, _ = self.destination.partition("{")
        root = fixed.rpartition("/")[0] + "/" if variable else fixed
        # The root of `s3://{userId}/` is every bucket there is.
        return self.destinations if root.endswith("://") else (*self.destinations, root)


@dataclass(frozen=True)
class Parsed:
    """A message that may be run. Its repr has neither the token nor a URL's query."""

    message: ExportMessage
    digest: str
    """SHA-256 of the body's canonical JSON without its token: the same request asked again has the same digest."""
    destination: str
    manifest_url: tuple[str, Literal["jsonl", "csv"]] | None = field(repr=False)
    files: tuple[tuple[FileBody, str], ...] | None = field(repr=False)

    @property
    def job_id(self) -> str:
        return str(self.message.job_id)

    @property
    def token(self) -> str | None:
        secret = self.message.task_token
        return secret.get_secret_value() if secret else None

    def requested(self, attempt: Attempt, now: datetime, message_id: str | None) -> ExportRequested:
        """The record, with URL queries sealed under the attempt's key; a query is left out if the attempt has none."""
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
            report_format=message.metadata.get("format") or "jsonl",
            has_task_token=self.token is not None,
            tolerated_failures=message.tolerated_failures,
            tolerated_failure_percentage=message.tolerated_failure_percentage,
            heartbeat_seconds=message.heartbeat_seconds,
            deadline_seconds=message.deadline_seconds,
            # Callers copy their token into it, and metadata goes to every topic.
            metadata=value_without_secrets(message.metadata, self.token),
        )
        return ExportRequested(job=job, files=files, manifest=manifest, prefix=message.prefix, message_id=message_id)


def parse(body: str, policy: Policy) -> Parsed:
    """Check everything that can be checked without asking anybody.

    Raises:
        RequestRejected: one sentence with field, value and way out; with job id and token where they are usable.
    """
    raw = _unwrapped(_json(body))
    usable = _usable(raw)

    def reject(reason: str) -> RequestRejected:
        return RequestRejected(_discreet(reason, usable.get("token")), **usable)

    size = len(body.encode(errors="surrogatepass"))
    if size > MAX_BODY_BYTES:
        raise reject(f"the message has {size} bytes, more than {MAX_BODY_BYTES}; name the files in a manifest instead")
    if _deeper(raw, MAX_DEPTH):
        raise reject(f"the body is nested deeper than {MAX_DEPTH} levels, and a request needs four; flatten its metadata")
    canonical = {name: value for name, value in raw.items() if not names_token(name)}
    try:
        json.dumps(raw, ensure_ascii=False).encode()
        message = ExportMessage.model_validate({name: value for name, value in raw.items() if value is not None})
    except UnicodeEncodeError:
        raise reject(r"the body has half of a surrogate pair (\ud800 to \udfff), which is no character; send whole ones") from None
    except ValidationError as error:
        raise reject(_first(error)) from None
    given = [name for name in ("files", "manifest", "prefix") if getattr(message, name) is not None]
    if len(given) > 1:
        raise reject(f"{' and '.join(given)} are both given; name the files in exactly one way")
    manifest_url = _manifest(message, policy, bool(given), reject)
    if message.prefix is not None:
        _place("prefix", message.prefix, ("s3",), reject)
        _source("prefix", message.prefix, policy, reject)
    destination = _destination(message, policy, reject)
    files = _files(message.files, policy, reject) if message.files is not None else None
    canonical["jobId"] = str(message.job_id)
    digest = hashlib.sha256(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return Parsed(message, digest, destination, manifest_url, files)


Reject = Callable[[str], RequestRejected]


def _json(text: str) -> Any:
    def constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(text, parse_constant=constant)
    except RecursionError:
        raise RequestRejected(f"the body is nested deeper than {MAX_DEPTH} levels, and a request needs four; flatten it") from None
    except ValueError as error:
        raise RequestRejected(f"the body is not JSON ({error}); send one JSON object") from None


def _unwrapped(value: Any) -> dict[str, Any]:
    """An SNS envelope holds the message as a string in `Message`."""
    if isinstance(value, dict) and value.get("Type") == "Notification" and isinstance(value.get("Message"), str):
        value = _json(value["Message"])
    if not isinstance(value, dict):
        raise RequestRejected(f"the body is {_kind(value)}, not a JSON object with jobId, exportId and userId")
    return value


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        inner = (child for each in level for child in (each.values() if isinstance(each, dict) else each))
        level = [child for child in inner if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _usable(raw: dict[str, Any]) -> dict[str, str]:
    """The job id and token that a rejection can still use, whatever else is wrong."""
    found = {}
    token, job_id = raw.get("taskToken"), raw.get("jobId")
    if isinstance(token, str) and 1 <= len(token) <= MAX_TOKEN_CHARS and token.isprintable():
        found["token"] = token
    # Printable means without half surrogates too, which no record can carry.
    if isinstance(job_id, str) and job_id and job_id.isprintable():
        found["job_id"] = _discreet(job_id[:256], found.get("token"))
    return found


def _discreet(text: str, token: str | None) -> str:
    """`text` without secrets. It may quote a value that was cut, so a token is known by its beginning."""
    text = without_secrets(text, token)
    return re.sub(re.escape(token[:12]) + r"[^\s'\"]*", HIDDEN, text) if token and len(token) >= 12 else text


def _first(error: ValidationError) -> str:
    mistake = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in mistake["loc"]) or "body"
    more = f"; and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    if mistake["type"] == "missing":
        return f"{where}: is missing; every message must have it{more}"
    if where == "taskToken":
        return f"taskToken: must be a string of 1 to {MAX_TOKEN_CHARS} characters; send $$.Task.Token as it is{more}"
    what = "Input should be a UUID" if where == "jobId" else mistake["msg"].removeprefix("Value error, ")
    what = what.replace("valid tuple", "list").replace("valid dictionary", "object")
    given = mistake["input"]
    simple = isinstance(given, str | int | float)
    shown = _shown(value_without_secrets(given, None, where.rpartition(".")[2])) if simple else _kind(given)
    return f"{where}: {what} (it is {shown}){more}"


def _shown(value: str | int | float) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"


def _url(where: str, url: str, schemes: tuple[str, ...], reject: Reject) -> str:
    try:
        return names.check_url(url, schemes)
    except ValueError as error:
        try:
            shown = without_query(url)
        except ValueError:
            shown = url.split("?", 1)[0]
        raise reject(f"{where}: {_shown(without_secrets(shown))} {error}") from None


def _source(where: str, url: str, policy: Policy, reject: Reject) -> None:
    if policy.sources and not is_below(url, policy.sources):
        shown, allowed = _shown(without_query(url)), ", ".join(policy.sources)
        raise reject(f"{where}: {shown} is not below an allowed one ({allowed}); see EXPORT_DOWNLOAD_ALLOWED_URLS")


def _place(where: str, uri: str, schemes: tuple[str, ...], reject: Reject) -> None:
    """A folder or prefix: a URL whose path stays where it is."""
    _url(where, uri, schemes, reject)
    parts = urlsplit(uri)
    if "?" in uri or "#" in uri:
        raise reject(f"{where}: {_shown(uri.split('?')[0])} has a '?' or '#'; give a plain path, with %3F or %23 for these")
    # `file:./exports/` is below the folder that the worker was started in.
    if {".", ".."} & set(unquote(parts.path).removeprefix("./").split("/")):
        raise reject(f"{where}: {_shown(uri)} has a '.' or '..' part; give the path itself")


def _manifest(message: ExportMessage, policy: Policy, named: bool, reject: Reject) -> tuple[str, Literal["jsonl", "csv"]] | None:
    if message.manifest is not None:
        url = _url("manifest.url", message.manifest.url, (*names.SCHEMES, "file"), reject)
        if urlsplit(url).scheme != "file":  # EXPORT_PLAN_FILE_ROOT says which of these may be read
            _source("manifest.url", url, policy, reject)
        return url, message.manifest.format
    if named:
        return None
    if policy.catalog is None:
        raise reject("the message names no files (files, manifest or prefix), and EXPORT_CATALOG is not set; do one of the two")
    url = _fill(policy.catalog, message, reject)
    return url, "csv" if url.endswith(".csv") else "jsonl"


def _destination(message: ExportMessage, policy: Policy, reject: Reject) -> str:
    if message.destination is None:
        return _fill(policy.destination, message, reject)
    given = message.destination if message.destination.endswith("/") else message.destination + "/"
    _place("destination", given, ("s3", "file"), reject)
    if not policy.allows(given):
        allowed = ", ".join(policy.roots())
        raise reject(f"destination: {_shown(given)} is not below an allowed one ({allowed}); see EXPORT_DESTINATIONS")
    return given


def _fill(template: str, message: ExportMessage, reject: Reject) -> str:
    """The URI with the ids in it, percent-encoded. None can leave its place: a store decodes %2F again, so '/' is refused."""
    filled = template
    for name, value in (("jobId", str(message.job_id)), ("exportId", message.export_id), ("userId", message.user_id)):
        if "{" + name + "}" in filled:
            if value in (".", "..") or "/" in value or "\\" in value or not value.isprintable():
                raise reject(f"{name}: {_shown(value)} becomes a part of a path here; use one without '/', '\\', '.' alone or '..'")
            filled = filled.replace("{" + name + "}", quote(value, safe=""))
    return filled


def _files(entries: tuple[FileBody, ...], policy: Policy, reject: Reject) -> tuple[tuple[FileBody, str], ...]:
    named: list[tuple[FileBody, str]] = []
    seen: dict[str, int] = {}
    for number, entry in enumerate(entries):
        _url(f"files[{number}].url", entry.url, names.SCHEMES, reject)
        _source(f"files[{number}].url", entry.url, policy, reject)
        try:
            name = names.check_name(entry.name if entry.name is not None else names.derive_name(entry.url))
        except ValueError as error:
            raise reject(f"files[{number}].name {error}") from None
        if name in seen:
            raise reject(f"files[{number}].name {name!r} is the name of files[{seen[name]}] too; give each its own")
        seen[name] = number
        named.append((entry, name))
    return tuple(named)
