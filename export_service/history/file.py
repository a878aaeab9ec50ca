"""A job's records in a file: one JSON object a line, the first says what it is. Without secrets, and without the broker it was on.

Sealed queries are dropped: whoever gets the file has no key for them, and folding needs none. What looks like a secret elsewhere is hidden.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from export_service import __version__
from export_service.failures import ExportError
from export_service.history.records import JobRecords
from export_service.messages import iso_millis
from export_service.redaction import value_without_secrets
from export_service.verify.evidence import COMPACTED, TOPICS, Raw

FORMAT = 1


class Recorded(NamedTuple):
    """`service`: the version that recorded it. `cut`: why its beginning is not there."""

    service: str
    job_id: str
    records: Mapping[str, tuple[Raw, ...]]
    cut: str | None


def lines(job: JobRecords, now: datetime) -> Iterator[str]:
    header = {"history": FORMAT, "service": __version__, "jobId": job.job_id, "exportedAt": iso_millis(now)}
    yield _json(header | ({"cut": job.cut} if job.cut else {}))
    for topic in TOPICS:
        for raw in _newest(job.of(topic)) if topic in COMPACTED else job.of(topic):
            place = {"topic": topic, "partition": raw.partition, "offset": raw.offset, "timestamp": raw.timestamp}
            yield _json(place | {"key": (raw.key or b"").decode(errors="replace")} | _value(raw.value))


def _newest(records: Iterable[Raw]) -> Iterable[Raw]:
    """Of each key: what is before it may or may not have been compacted away."""
    return {raw.key: raw for raw in records}.values()


def _value(value: bytes | None) -> dict[str, Any]:
    if value is None:
        return {}
    try:
        return {"value": value_without_secrets(_without_queries(json.loads(value)))}
    except ValueError:
        # A shard. Or poison, whose text may hold anything.
        return {"base64": base64.b64encode(value).decode()} if value[:1] == b"\x01" else {}


def _without_queries(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_queries(inner) for name, inner in value.items() if not (name == "query" and isinstance(inner, str))}
    return [_without_queries(inner) for inner in value] if isinstance(value, list) else value


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def read(path: Path) -> Recorded:
    """Raises ExportError: it is no such file, or of a version from the future."""
    try:
        with path.open(encoding="utf-8") as file:
            header = _object(path, 1, next(file, ""))
            version = header.get("history")
            if not isinstance(version, int):
                raise ExportError(
                    f"{path} is no history: its first line has no field `history`; write one with export-service export"
                )
            if version > FORMAT:
                raise ExportError(f"{path} has format {version}, and this version reads {FORMAT}: use a newer export-service")
            records: dict[str, list[Raw]] = {}
            for number, line in enumerate(file, start=2):
                raw = _raw(path, number, _object(path, number, line))
                records.setdefault(raw.topic, []).append(raw)
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ExportError(f"{path} is no history: it is not UTF-8") from None
    ordered = {topic: tuple(sorted(found, key=lambda raw: (raw.partition, raw.offset))) for topic, found in records.items()}
    return Recorded(str(header.get("service")), str(header.get("jobId")), ordered, header.get("cut"))


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ExportError(f"{path}, line {number}, is no JSON object: the file is cut off or damaged")
    return found


def _raw(path: Path, number: int, line: Mapping[str, Any]) -> Raw:
    try:
        value = json.dumps(line["value"]).encode() if "value" in line else None
        if "base64" in line:
            value = base64.b64decode(line["base64"], validate=True)
        place = (str(line["topic"]), int(line["partition"]), int(line["offset"]), int(line["timestamp"]))
        return Raw(*place, str(line["key"]).encode(), value)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise ExportError(f"{path}, line {number}, is no record: {type(error).__name__} {error}") from None
