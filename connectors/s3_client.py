"""S3's calls for objects and their parts, through libcurl: a tenth of the processor time of a client in Python (docs/decisions/0018).

botocore still says where a bucket is and with which credentials, so that its settings, profiles, roles and endpoints hold here too.
"""

import asyncio
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from botocore.exceptions import ClientError, CredentialRetrievalError

from connectors.aws import AWS_ERRORS, THROTTLED, Clients, code_of, is_transient
from connectors.curl import Curl, CurlError, Request, Response
from connectors.http_files import failure_of as curl_failure
from connectors.s3_signing import EMPTY, UNSIGNED, Signer, quoted_path, quoted_query
from export_service.failures import TransferError
from export_service.sealing import without_query

_CREDENTIALS_SECONDS = 30.0
"""Credentials that botocore refreshes are asked for again after this long; it begins to refresh them 15 minutes before they expire."""
BUSY = ("SlowDown", "ServiceUnavailable", "RequestLimitExceeded", "TooManyRequests", "503", "429")
"""Failure classes with which S3 asks for fewer requests."""
_CLASSES = {"NoSuchKey": "ObjectNotFound", "404": "ObjectNotFound", "NoSuchBucket": "BucketNotFound", "403": "AccessDenied"}
_AGAIN = ("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "ExpiredToken", "NoSuchUpload", *THROTTLED)
"""What did not arrive as it was sent, or not in time, with status 400; and an upload that is gone: the next try begins anew."""


class Object(NamedTuple):
    bucket: str
    key: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def copy_source(self) -> str:
        return quoted_path(f"{self.bucket}/{self.key}")

    @classmethod
    def at(cls, url: str) -> "Object":
        """Of s3://bucket/key. A key is taken as it is written, with a '#' too; a '?' and a '%' are %3F and %25."""
        bucket, _, rest = url.removeprefix("s3://").partition("/")
        key = rest.partition("?")[0].lstrip("/")
        return cls(bucket, unquote(key) if "%" in key else key)


class Answer(NamedTuple):
    """One that is here. `fields`: header names in lower case; of an XML body the texts of its elements, by name."""

    headers: Mapping[str, str]
    fields: Mapping[str, str]


class _Place(NamedTuple):
    base: str
    host: str
    path: str
    signer: Signer


class S3Client:
    """Calls raise TransferError, named as botocore's. `boto`: its client of the same endpoint.

    Attributes:
        plain: buckets whose store does not take the checksums of a request, or does not say that it has looked at them.
    """

    def __init__(self, curl: Curl, clients: Clients, boto: Any) -> None:
        self._curl, self._clients, self.boto = curl, clients, boto
        self._places: dict[str, _Place] = {}
        self._asked_at = -_CREDENTIALS_SECONDS
        self._credentials: Any = None
        self._asking = asyncio.Lock()
        self.plain: set[str] = set()

    def at_hand(self, bucket: str) -> bool:
        """Whether `start` can be called now."""
        return bucket in self._places and time.monotonic() < self._asked_at + _CREDENTIALS_SECONDS

    async def reach(self, bucket: str) -> None:
        """From now on, and for some seconds, `start` can be called."""
        if self.at_hand(bucket):
            return
        async with self._asking:
            with _asking(bucket):
                if time.monotonic() >= self._asked_at + _CREDENTIALS_SECONDS:
                    credentials = await self._clients.credentials()
                    if credentials != self._credentials:
                        self._credentials = credentials
                        for known, place in self._places.items():
                            self._places[known] = place._replace(signer=Signer(credentials, place.signer.region))
                    self._asked_at = time.monotonic()
                if bucket not in self._places:
                    self._places[bucket] = await self._place(self.boto, bucket)

    async def moved(self, bucket: str, response: Response) -> bool:
        """Whether the answer says that the bucket is in another region; the next call goes there."""
        if response.status not in (301, 307, 400):
            return False
        region = response.header("x-amz-bucket-region") or texts(response.body or b"").get("Region")
        if region is None or region == self._places[bucket].signer.region:
            return False
        with _asking(bucket):
            async with self._clients.open("s3", region=region) as client:
                self._places[bucket] = await self._place(client, bucket)
        return True

    async def _place(self, client: Any, bucket: str) -> _Place:
        url = urlsplit(await client.generate_presigned_url(ClientMethod="get_object", Params={"Bucket": bucket, "Key": "k"}))
        region = parse_qs(url.query)["X-Amz-Credential"][0].split("/")[2]
        default = {"http": ":80", "https": ":443"}[url.scheme]
        host, path = url.netloc.removesuffix(default), url.path.removesuffix("/k")
        return _Place(f"{url.scheme}://{url.netloc}{path}", host, path, Signer(self._credentials, region))

    def start(
        self,
        method: str,
        what: Object,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str | int] | None = None,
        body: bytes | None = None,
        *,
        payload: str = EMPTY,
        seconds: float = 0,
        patient: bool = False,
    ) -> Response:
        """What the caller has to `release`. `payload`: as Signer has it."""
        place, key, fields = self._places[what.bucket], quoted_path(what.key), quoted_query(query) if query else ""
        signed = place.signer.headers(method, place.host, f"{place.path}/{key}", fields, headers or {}, payload)
        if body is not None:
            # libcurl would say that it is a form, and wait for leave to send a large one.
            signed += ["Expect:"] if headers and "content-type" in headers else ["Content-Type:", "Expect:"]
        url = f"{place.base}/{key}?{fields}" if fields else f"{place.base}/{key}"
        return self._curl.start(url, seconds, Request(method, [line.encode() for line in signed], body, patient))

    def get_object(self, what: Object, headers: Mapping[str, str] | None = None, seconds: float = 0) -> Response:
        """As `start`."""
        return self.start("GET", what, headers, seconds=seconds)

    async def head_object(self, what: Object) -> Answer:
        """With the checksums that S3 keeps."""
        return await self._ask("HEAD", what, {"x-amz-checksum-mode": "ENABLED"})

    async def put_object(self, what: Object, body: bytes, headers: Mapping[str, str], payload: str) -> Answer:
        return await self._ask("PUT", what, headers, body=body, payload=payload)

    async def copy_object(self, what: Object, headers: Mapping[str, str]) -> Answer:
        return _made(await self._ask("PUT", what, headers, body=b"", patient=True), "ETag", what)

    async def create_multipart_upload(self, what: Object, headers: Mapping[str, str]) -> str:
        answer = await self._ask("POST", what, headers, {"uploads": ""}, b"")
        return _made(answer, "UploadId", what).fields["UploadId"]

    async def upload_part(self, what: Object, upload: str, number: int, body: bytes, headers: Mapping[str, str]) -> Answer:
        answer = await self._ask("PUT", what, headers, {"partNumber": number, "uploadId": upload}, body, payload=UNSIGNED)
        return _made(answer, "etag", what)

    async def upload_part_copy(self, what: Object, upload: str, number: int, headers: Mapping[str, str]) -> Answer:
        answer = await self._ask("PUT", what, headers, {"partNumber": number, "uploadId": upload}, b"", patient=True)
        return _made(answer, "ETag", what)

    async def complete_multipart_upload(self, what: Object, upload: str, parts: Sequence[Mapping[str, str]]) -> Answer:
        """`parts`: in order, elements of each by name."""
        listed = "".join(f"<Part>{''.join(f'<{name}>{text}</{name}>' for name, text in part.items())}</Part>" for part in parts)
        body = f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{listed}</CompleteMultipartUpload>'
        answer = await self._ask("POST", what, {}, {"uploadId": upload}, body.encode(), payload=UNSIGNED, patient=True)
        return _made(answer, "ETag", what)

    async def abort_multipart_upload(self, what: Object, upload: str) -> None:
        try:
            await self._ask("DELETE", what, {}, {"uploadId": upload})
        except TransferError as error:
            if error.error != "NoSuchUpload":
                raise

    async def _ask(
        self,
        method: str,
        what: Object,
        headers: Mapping[str, str],
        query: Mapping[str, str | int] | None = None,
        body: bytes | None = None,
        *,
        payload: str = EMPTY,
        patient: bool = False,
    ) -> Answer:
        await self.reach(what.bucket)
        for again in (False, True):
            response = self.start(method, what, headers, query, body, payload=payload, patient=patient)
            try:
                await filled(response, what.url)
                if response.status >= 300 and not again and await self.moved(what.bucket, response):
                    continue
                return self._answer(response, what.url)
            finally:
                response.release()
        raise AssertionError("the second answer is taken")

    def _answer(self, response: Response, shown: str) -> Answer:
        fields = texts(response.body or b"")
        # A copy, and the end of an upload, may fail after their 200.
        if response.status >= 300 or "Code" in fields:
            raise self.failure(response, shown)
        return Answer(response.headers, fields)

    def failure(self, response: Response, shown: str) -> TransferError:
        """What an answer that is none says. Its body has to be here."""
        status = response.status
        code = texts(response.body or b"").get("Code", str(status))
        if code == "ExpiredToken":
            self._asked_at = -_CREDENTIALS_SECONDS
        retryable = status >= 500 or status in (200, 429) or code.startswith(_AGAIN)
        failed = TransferError(class_of(code), f"S3 answered {code} for {without_query(shown)}", retryable=retryable)
        failed.status, failed.retry_after = status, response.retry_after
        return failed


def _made(answer: Answer, field: str, what: Object) -> Answer:
    """A 200 that does not say what was made is no success: S3 sends it before it knows."""
    if field not in answer.fields and field not in answer.headers:
        raise TransferError("IncompleteAnswer", f"S3 answered 200 without {field} for {what.url}", retryable=True)
    return answer


@contextmanager
def _asking(bucket: str) -> Iterator[None]:
    """Whoever gives credentials (STS, a metadata server) may fail like any other service."""
    try:
        yield
    except AWS_ERRORS as error:
        transient = is_transient(error) or isinstance(error, CredentialRetrievalError)
        text = f"s3://{bucket}/ cannot be asked: {code_of(error) if isinstance(error, ClientError) else type(error).__name__}"
        raise TransferError("AwsUnavailable" if transient else "AwsNotConfigured", text, retryable=transient) from None


def class_of(code: str) -> str:
    """The failure class of an error of S3."""
    return _CLASSES.get(code, code)


async def filled(response: Response, shown: str) -> None:
    """Wait for an answer. Raises TransferError."""
    try:
        await response.filled()
    except CurlError as error:
        raise curl_failure(error, without_query(shown)) from None


def texts(body: bytes) -> dict[str, str]:
    """Of an XML document's elements, by name without namespace; nothing of what is none."""
    if not body.lstrip().startswith(b"<"):
        return {}
    try:
        return {element.tag.rpartition("}")[2]: element.text or "" for element in ET.fromstring(body).iter()}
    except ET.ParseError:
        return {}
