"""Our signatures are botocore's, for whatever is asked for."""

from datetime import UTC, datetime
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from connectors.s3_signing import UNSIGNED, Signer, quoted_path, quoted_query

NOW = datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)
WORD = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(lambda name: f"x-amz-{name.strip('-') or 'a'}")
VALUE = st.text("".join(map(chr, range(33, 127))), min_size=1, max_size=20)


@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]),
    key=TEXT,
    query=st.dictionaries(st.sampled_from(["uploads", "uploadId", "partNumber", "prefix"]), TEXT | st.just("")),
    headers=st.dictionaries(WORD, VALUE, max_size=4),
    token=st.none() | VALUE,
)
def test_a_signature_is_the_one_that_botocore_makes(
    method: str, key: str, query: dict[str, str], headers: dict[str, str], token: str | None
) -> None:
    credentials = Credentials("AKID", "secret", token)
    path, fields = f"/bucket/{quoted_path(key)}", quoted_query(query)
    ours = Signer(credentials.get_frozen_credentials(), "eu-north-1").headers(
        method, "s3.example:9000", path, fields, headers, UNSIGNED, NOW
    )
    sent = dict(line.split(": ", 1) for line in ours)
    request = AWSRequest(method, f"https://s3.example:9000{path}?{fields}", headers={**headers, "x-amz-content-sha256": UNSIGNED})
    if token:
        request.headers["X-Amz-Security-Token"] = token
    signer = S3SigV4Auth(credentials, "s3", "eu-north-1")
    request.context |= {"timestamp": sent["x-amz-date"], "payload_signing_enabled": False}
    request.headers["X-Amz-Date"] = sent["x-amz-date"]
    canonical = signer.canonical_request(request)
    assert sent["Authorization"].rpartition("=")[2] == signer.signature(signer.string_to_sign(request, canonical), request)
    assert f"SignedHeaders={signer.signed_headers(signer.headers_to_sign(request))}," in sent["Authorization"]
    assert "secret" not in "".join(ours)


@given(key=TEXT)
def test_a_key_is_quoted_as_s3_wants_it(key: str) -> None:
    assert quoted_path(key) == quote(key, safe="/~")
