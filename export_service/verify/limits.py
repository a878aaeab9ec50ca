"""I8 and I9: what must be nowhere, and what must not grow."""

import base64
import hashlib
import json
from collections.abc import Iterator
from urllib.parse import quote

from export_service.verify.evidence import Evidence
from export_service.verify.finding import Finding
from export_service.verify.history import History


def no_secret(history: History) -> Finding:
    """I8. The sentences name a secret by the first 12 hex digits of its SHA-256, as the service's fingerprints do."""
    finding, evidence = Finding(), history.evidence
    secrets = _secrets(evidence)
    if not secrets:
        return finding.skip("no secret is known: none given, and no token in the ledger")
    for name, content in _places(evidence):
        for fingerprint, forms in secrets.items():
            if any(form in content for form in forms):
                finding.violated(f"secret {fingerprint} is in {_record_of(evidence, name, forms) or name}")
    if not evidence.logs:
        finding.gap("no logs given")
    return finding


def _secrets(evidence: Evidence) -> dict[str, set[bytes]]:
    """Fingerprint -> the forms in which the secret might have been written down."""
    texts = {*evidence.secrets, *(str(item["taskToken"]) for item in evidence.ledger.values() if "taskToken" in item)}
    found = {
        _fingerprint(text.encode()): {text.encode(), quote(text, safe="").encode(), json.dumps(text)[1:-1].encode()}
        for text in texts
        if text
    }
    for item in evidence.ledger.values():
        if key := bytes(item.get("sealKey", b"")):
            found[_fingerprint(key)] = {key, base64.b64encode(key), base64.urlsafe_b64encode(key), key.hex().encode()}
    return found


def _fingerprint(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()[:12]


def _places(evidence: Evidence) -> Iterator[tuple[str, bytes]]:
    """Everything that people can read. A topic is one place here, as one search of a long text is quicker than many of short ones."""
    for topic, records in evidence.records.items():
        yield topic, b"\n".join(part for raw in records for part in (raw.key or b"", raw.value or b"", raw.headers))
    for name, log in evidence.logs.items():
        yield f"log {name}", log
    for job_id, item in evidence.snapshots.items():
        yield f"DynamoDB JOB#{job_id}/SNAPSHOT", _text(item)
    for (job_id, attempt), item in evidence.ledger.items():
        public = {name: value for name, value in item.items() if name not in ("taskToken", "sealKey")}
        yield f"DynamoDB JOB#{job_id}/ATTEMPT#{attempt:04d}", _text(public)
    for place, destination in evidence.destinations.items():
        yield f"a file name at {place}", "\n".join((*destination.files, *destination.uploads)).encode()
        for name, report in destination.reports.items():
            yield f"{name} at {place}", report


def _text(item: object) -> bytes:
    return json.dumps(item, default=str, ensure_ascii=False).encode()


def _record_of(evidence: Evidence, topic: str, forms: set[bytes]) -> str | None:
    for raw in evidence.of(topic):
        content = b"\n".join((raw.key or b"", raw.value or b"", raw.headers))
        if any(form in content for form in forms):
            return raw.place
    return None


def bounded(history: History) -> Finding:
    """I9."""
    finding, evidence = Finding(), history.evidence
    if not evidence.samples:
        return finding.skip("no samples of the workers given")
    for sample in evidence.samples:
        if sample.rss > evidence.limits.rss:
            finding.violated(
                f"{sample.worker} had {sample.rss / 1e6:,.0f} MB resident; the limit is {evidence.limits.rss / 1e6:,.0f} MB"
            )
        if sample.open_files > evidence.limits.open_files:
            finding.violated(f"{sample.worker} had {sample.open_files} open files; the limit is {evidence.limits.open_files}")
    return finding
