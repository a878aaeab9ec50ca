"""Records of any topic as a person sees them: JSON laid out, shards counted, and no secrets."""

import json
from typing import NamedTuple

from export_service.messages import from_millis, iso_millis
from export_service.redaction import body_without_secrets, value_without_secrets, without_secrets
from export_service.shards import Shard
from export_service.verify.evidence import Raw

_LONGEST = 20_000
"""Characters of one record: a request may have a list of a megabyte."""

_PLAIN = str.maketrans("", "", '{}"')


class Shown(NamedTuple):
    """`kind` is the record's type, `brief` its beginning on one line."""

    topic: str
    partition: int
    offset: int
    at: str
    key: str
    kind: str
    brief: str
    text: str
    size: int


def shown(raw: Raw) -> Shown:
    kind, text, brief = _value(raw)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}\n… {len(text) - _LONGEST:,} characters more"
    key = without_secrets((raw.key or b"").decode(errors="replace"))
    at = iso_millis(from_millis(raw.timestamp))
    brief = brief[:120] + "…" * (len(brief) > 120)
    return Shown(raw.topic, raw.partition, raw.offset, at, key, kind, brief, text, len(raw.value or b""))


def _value(raw: Raw) -> tuple[str, str, str]:
    """Its kind, its text, and its text on one line."""
    if not raw.value:
        return "tombstone", "no value: the key was removed", ""
    if raw.topic == "shards-changelog":
        try:
            shard = Shard.from_bytes(raw.value)
        except ValueError as error:
            return "unreadable", str(error), str(error)
        succeeded, failed, cancelled, size = shard.tally()
        said = {"succeeded": succeeded, "failed": failed, "cancelled": cancelled, "bytes": size, "offset": shard.offset}
        return "Shard", json.dumps(said, indent=2), _line(said)
    text = raw.value.decode(errors="replace")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        hidden = body_without_secrets(text)
        return "not JSON", hidden, " ".join(hidden.split())
    value = _without_sealed(value_without_secrets(parsed))
    kind = str(value.get("type", "")) if isinstance(value, dict) else ""
    return kind or raw.topic, json.dumps(value, indent=2, ensure_ascii=False), _line(value)


def _line(value: object) -> str:
    """What the lines of a list do not say anyway."""
    if isinstance(value, dict):
        value = {name: each for name, each in value.items() if name not in ("v", "type", "jobId")}
    return json.dumps(value, ensure_ascii=False).translate(_PLAIN)


def _without_sealed(value: object) -> object:
    """A URL's query is encrypted here; even so nobody needs to copy it."""
    if isinstance(value, dict):
        return {name: "(sealed)" if name == "query" and each else _without_sealed(each) for name, each in value.items()}
    return [_without_sealed(each) for each in value] if isinstance(value, list) else value
