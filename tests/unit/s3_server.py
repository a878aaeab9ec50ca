"""An S3 that is as strict as AWS's about signatures, checksums, conditions and parts, and that a test can make fail in between."""

import base64
import hashlib
import re
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

from aiohttp import web
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

KEY, SECRET, REGION = "AKIDEXAMPLE", "s3cret/of+tests", "eu-central-1"
KIB = 1024
Fault = Callable[[web.Request, bytes], web.StreamResponse | None]


@dataclass
class Stored:
    body: bytes
    etag: str
    headers: dict[str, str] = field(default_factory=dict)
    sha256: str | None = None


@dataclass
class Begun:
    key: str
    headers: Mapping[str, str]
    parts: dict[int, tuple[bytes, str, str | None]] = field(default_factory=dict)
    """Body, ETag and CRC32 of each."""


class Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class S3Server:
    """Attributes:
    knows_checksums: False: a store that ignores them. None: one that refuses requests that have any.
    damaged: how many bodies of parts do not arrive as they were sent.
    faults: asked in turn before each request is done; the first that answers is gone afterwards.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, Begun] = {}
        self.region, self.secret, self.token = REGION, SECRET, ""
        self.knows_checksums: bool | None = True
        self.copies, self.damaged = True, 0
        self.faults: list[Fault] = []
        self.asked: list[str] = []
        self.aborted = 0

    def put(self, key: str, body: bytes, *, sha256: bool = False, **headers: str) -> None:
        """`key` with the bucket before it."""
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode() if sha256 else None
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.objects[key] = Stored(body, f'"{hashlib.md5(body).hexdigest()}"', named, digest)

    def fail_once(self, pattern: str, answer: Callable[[], web.Response | None]) -> None:
        """The next request whose method and path the pattern is found in; `answer` may change something instead of answering."""

        def fault(request: web.Request, _: bytes) -> web.Response | None:
            if not re.search(pattern, f"{request.method} {request.path_qs}"):
                return None
            self.faults.remove(fault)
            return answer()

        self.faults.append(fault)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Its endpoint."""
        app = web.Application(client_max_size=64 * KIB * KIB)
        app.router.add_route("*", "/{name:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        key = unquote(request.raw_path.partition("?")[0][1:])
        self.asked.append(f"{request.method} {request.path_qs}")
        try:
            self._signed(request, body)
            for fault in list(self.faults):
                if answer := fault(request, body):
                    return answer
            return self._done(request, key, body)
        except Refused as refused:
            return error(refused.status, refused.code, self.region)

    def _signed(self, request: web.Request, body: bytes) -> None:
        authorization = request.headers["Authorization"]
        found = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=(\S+?)/.*, SignedHeaders=(\S+), Signature=(\w+)", authorization)
        assert found
        if self.token != request.headers.get("x-amz-security-token", ""):
            raise Refused(400, "ExpiredToken")
        if f"/{self.region}/s3/" not in authorization:
            raise Refused(301, "PermanentRedirect")
        url = f"http://{request.headers['Host']}{request.raw_path}"
        names = found[2].split(";")
        again = AWSRequest(request.method, url, {name: request.headers[name] for name in names if name != "host"}, body)
        again.context["timestamp"] = request.headers["x-amz-date"]
        again.context["payload_signing_enabled"] = True
        signer = S3SigV4Auth(Credentials(KEY, self.secret), "s3", self.region)
        canonical = signer.canonical_request(again)
        if signer.signature(signer.string_to_sign(again, canonical), again) != found[3]:
            raise Refused(403, "SignatureDoesNotMatch")
        payload = request.headers["x-amz-content-sha256"]
        if payload not in ("UNSIGNED-PAYLOAD", hashlib.sha256(body).hexdigest()):
            raise Refused(400, "XAmzContentSHA256Mismatch")

    def _done(self, request: web.Request, key: str, body: bytes) -> web.StreamResponse:
        match request.method, "".join(request.query):
            case (("GET" | "HEAD"), _):
                return self._get(request, key)
            case "POST", "uploads":
                self.uploads[name := f"upload-{len(self.asked)}"] = Begun(key, dict(request.headers))
                return xml(f"<R xmlns='s3'><UploadId>{name}</UploadId></R>")
            case "POST", "uploadId":
                return self._complete(key, request.query["uploadId"], body.decode())
            case "DELETE", _:
                self.aborted += 1
                self._upload(request, key)
                del self.uploads[request.query["uploadId"]]
                return web.Response(status=204)
            case "PUT", _ if "x-amz-copy-source" in request.headers:
                return self._copy(request, key)
            case "PUT", _:
                return self._put(request, key, body)
        raise Refused(405, "MethodNotAllowed")

    def _get(self, request: web.Request, key: str) -> web.StreamResponse:
        stored = self._stored(key)
        if request.headers.get("if-match", stored.etag) != stored.etag:
            raise Refused(412, "PreconditionFailed")
        headers = {**stored.headers, "ETag": stored.etag, "Accept-Ranges": "bytes"}
        if stored.sha256 and request.headers.get("x-amz-checksum-mode") == "ENABLED":
            headers |= {"x-amz-checksum-sha256": stored.sha256, "x-amz-checksum-type": "FULL_OBJECT"}
        body, status = stored.body, 200
        if span := request.headers.get("Range"):
            first, last = map(int, span.removeprefix("bytes=").split("-"))
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            body, status = body[first : last + 1], 206
        return web.Response(status=status, headers=headers, body=body)

    def _put(self, request: web.Request, key: str, body: bytes) -> web.StreamResponse:
        if self.damaged and "partNumber" in request.query:
            self.damaged, body = self.damaged - 1, body[:-1] + bytes([body[-1] ^ 1])
        checked = self._checked(request, body)
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        if "partNumber" in request.query:
            crc = checked.get("x-amz-checksum-crc32")
            self._upload(request, key).parts[int(request.query["partNumber"])] = body, etag, crc
        else:
            self.objects[key] = Stored(body, etag, {}, checked.get("x-amz-checksum-sha256"))
        return web.Response(headers={"ETag": etag, **checked})

    def _checked(self, request: web.Request, body: bytes) -> dict[str, str]:
        if "Content-MD5" in request.headers and request.headers["Content-MD5"] != _base64(hashlib.md5(body).digest()):
            raise Refused(400, "BadDigest")
        given = {name.lower(): value for name, value in request.headers.items() if name.lower().startswith("x-amz-checksum-")}
        if not given or self.knows_checksums is False:
            return {}
        if self.knows_checksums is None:
            raise Refused(501, "NotImplemented")
        right = {
            "x-amz-checksum-crc32": _base64(zlib.crc32(body).to_bytes(4)),
            "x-amz-checksum-sha256": _base64(hashlib.sha256(body).digest()),
        }
        if any(right[name] != value for name, value in given.items()):
            raise Refused(400, "BadDigest")
        return given

    def _copy(self, request: web.Request, key: str) -> web.StreamResponse:
        if not self.copies:
            raise Refused(501, "NotImplemented")
        stored = self._stored(unquote(request.headers["x-amz-copy-source"]))
        if request.headers["x-amz-copy-source-if-match"] != stored.etag:
            raise Refused(412, "PreconditionFailed")
        if "partNumber" in request.query:
            first, last = map(int, request.headers["x-amz-copy-source-range"].removeprefix("bytes=").split("-"))
            body, crc = stored.body[first : last + 1], None
            assert len(body) == last + 1 - first, "a range outside of the object"
            etag, upload = f'"{hashlib.md5(body).hexdigest()}"', self._upload(request, key)
            if "x-amz-checksum-algorithm" in upload.headers:
                crc = _base64(zlib.crc32(body).to_bytes(4))
            upload.parts[int(request.query["partNumber"])] = body, etag, crc
            checksum = f"<ChecksumCRC32>{crc}</ChecksumCRC32>" if crc else ""
        else:
            sha256 = _base64(hashlib.sha256(stored.body).digest()) if self.knows_checksums else None
            self.objects[key] = Stored(stored.body, etag := stored.etag, stored.headers, sha256)
            checksum = f"<ChecksumSHA256>{sha256}</ChecksumSHA256>" if sha256 else ""
        return xml(f"<R xmlns='s3'><ETag>{etag.replace(chr(34), '&quot;')}</ETag>{checksum}</R>")

    def _complete(self, key: str, name: str, body: str) -> web.StreamResponse:
        begun = self.uploads.get(name)
        if begun is None or begun.key != key:
            raise Refused(404, "NoSuchUpload")
        named = [dict(re.findall(r"<(\w+)>([^<]*)<", part)) for part in re.findall(r"<Part>(.*?)</Part>", body)]
        whole, md5s, crcs = b"", b"", b""
        for place, part in enumerate(named):
            content, etag, crc = begun.parts.get(int(part["PartNumber"]), (b"", "", None))
            if etag != part["ETag"]:
                raise Refused(400, "InvalidPart")
            if crc and "x-amz-checksum-algorithm" in begun.headers and part.get("ChecksumCRC32") != crc:
                raise Refused(400, "InvalidRequest")
            if len(content) < 5 * KIB * KIB and place < len(named) - 1:
                raise Refused(400, "EntityTooSmall")
            whole, md5s, crcs = whole + content, md5s + bytes.fromhex(etag.strip('"')), crcs + base64.b64decode(crc or "")
        etag = f'"{hashlib.md5(md5s).hexdigest()}-{len(named)}"'
        kept = {name: value for name, value in begun.headers.items() if name.lower() in ("content-type", "x-amz-meta-a")}
        self.objects[key] = Stored(whole, etag, kept)
        del self.uploads[name]
        crc = f"<ChecksumCRC32>{_base64(zlib.crc32(crcs).to_bytes(4))}-{len(named)}</ChecksumCRC32>" if crcs else ""
        return xml(f"<R xmlns='s3'><ETag>{etag.replace(chr(34), '&quot;')}</ETag>{crc}</R>")

    def _stored(self, key: str) -> Stored:
        if key not in self.objects:
            raise Refused(404, "NoSuchKey")
        return self.objects[key]

    def _upload(self, request: web.Request, key: str) -> Begun:
        begun = self.uploads.get(request.query["uploadId"])
        if begun is None or begun.key != key:
            raise Refused(404, "NoSuchUpload")
        return begun


def xml(text: str) -> web.Response:
    return web.Response(body=text.encode(), content_type="application/xml")


def error(status: int, code: str, region: str = REGION) -> web.Response:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message></Error>"
    return web.Response(status=status, body=body.encode(), headers={"x-amz-bucket-region": region})


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
