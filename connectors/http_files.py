"""Files over http and https: bytes exactly as the server has them, redirects followed by hand."""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from urllib.parse import urlsplit

import pycurl

from connectors.curl import Curl, CurlError, Request, Response
from export_service.bandwidth import Bandwidth
from export_service.failures import PlanError, RangeRefused, TransferError
from export_service.names import check_url
from export_service.prefixes import is_below
from export_service.sealing import without_query
from export_service.settings import Download as DownloadSettings

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_LATER = (408, 425, 429)
_BAD_URL = (pycurl.E_URL_MALFORMAT, pycurl.E_UNSUPPORTED_PROTOCOL)
_BROKEN_OFF = (
    pycurl.E_PARTIAL_FILE,
    pycurl.E_RECV_ERROR,
    pycurl.E_SEND_ERROR,
    pycurl.E_GOT_NOTHING,
    pycurl.E_HTTP2,
    92,  # CURLE_HTTP2_STREAM, which pycurl has no name for
)
_TLS = (
    pycurl.E_SSL_CONNECT_ERROR,
    pycurl.E_PEER_FAILED_VERIFICATION,
    pycurl.E_SSL_CACERT_BADFILE,
    pycurl.E_SSL_CIPHER,
    pycurl.E_SSL_ISSUER_ERROR,
)


class HttpDownload:
    """The LargeDownload port over a response."""

    def __init__(self, curl: Curl, response: Response, url: str, close: Callable[[], None]) -> None:
        self._curl, self._response, self._url, self._shown = curl, response, url, without_query(url)
        self.size = response.content_length
        self.close = close

    @property
    def validator(self) -> str | None:
        etag = self._response.header("etag") or ""
        whole = len(etag) > 2 and etag.startswith('"') and etag.endswith('"')
        return etag if whole and self._response.header("accept-ranges") == "bytes" else None

    async def chunks(self) -> AsyncIterator[bytes]:
        async for blocks in read_blocks(self._response, self._shown):
            yield b"".join(blocks)

    def blocks(self) -> AsyncIterator[list[bytes]]:
        self._response.is_large()
        return read_blocks(self._response, self._shown)

    @asynccontextmanager
    async def span(self, first: int, stop: int, validator: str) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        headers = (f"Range: bytes={first}-{stop - 1}", f"If-Range: {validator}")
        response = self._curl.start(self._url, 0, Request(headers=headers))
        response.is_large()
        try:
            try:
                await response.filled()
            except CurlError as error:
                raise failure_of(error, self._shown) from None
            self._check(response, f"bytes {first}-{stop - 1}/{self.size}", validator)
            yield read_blocks(response, self._shown)
        finally:
            response.release()

    def _check(self, response: Response, span: str, validator: str) -> None:
        """Nothing but these very bytes of this very version may be put beside the others."""
        status = response.status
        if status in _LATER or status >= 500:
            raise _status_failure(response, status, self._shown)
        if status != 206:
            raise RangeRefused(f"{self._shown} answered {status} to a request for {span}")
        got = response.header("content-range"), response.header("etag")
        if got != (span, validator):
            raise RangeRefused(f"{self._shown} sent {got[0]} of {got[1]} to a request for {span} of {validator}")


async def read_blocks(response: Response, shown: str) -> AsyncIterator[list[bytes]]:
    """The body as it comes. Raises TransferError."""
    try:
        while blocks := await response.read():
            yield blocks
    except CurlError as error:
        raise failure_of(error, shown) from None


class HttpFiles:
    """The FileSource port for http and https. Use `open_http`."""

    def __init__(self, curl: Curl, allowed_urls: Sequence[str] = ()) -> None:
        self._curl, self._allowed_urls = curl, allowed_urls

    def open(self, url: str) -> "Opening":
        return Opening(self._curl, url, self._allowed_urls)

    quick = open

    def list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        raise PlanError(f"prefix {without_query(prefix)!r}: only s3:// has listings; name the files in a manifest instead")


class Opening:
    """`async with` a GET. A class, because a generator costs more than the rest of it, and this is done for every file."""

    def __init__(self, curl: Curl, url: str, allowed_urls: Sequence[str]) -> None:
        self._curl, self._url, self._allowed_urls = curl, url, allowed_urls
        self._response: Response | None = None

    def begin(self, seconds: float, ready: Callable[[Response], None]) -> None:
        response = self._response = self._curl.start(self._url, seconds)
        response.on_filled = lambda: ready(response)

    def close(self) -> None:
        if self._response is not None:
            self._response.release()
            self._response = None

    async def __aenter__(self) -> HttpDownload:
        try:
            return await self._follow()
        except BaseException:
            self.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def _follow(self) -> HttpDownload:
        url = self._url
        shown = without_query(url)
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._response = self._response or self._curl.start(url)
            try:
                await response.filled()
            except CurlError as error:
                raise failure_of(error, shown) from None
            status = response.status
            if status == 200:
                return HttpDownload(self._curl, response, url, self.close)
            if status not in _REDIRECTS or not (target := response.location):
                raise _status_failure(response, status, shown)
            url = _next_hop(url, target, shown, self._allowed_urls)
            shown = without_query(url)
            self.close()
        raise TransferError("TooManyRedirects", f"{shown} comes after more than {_MAX_REDIRECTS} redirects", retryable=False)


@asynccontextmanager
async def open_http(settings: DownloadSettings, bandwidth: Bandwidth | None = None) -> AsyncIterator[HttpFiles]:
    """Transfers that keep `settings.concurrency` connections."""
    async with Curl(settings, bandwidth) as curl:
        yield HttpFiles(curl, settings.allowed_urls)


def _next_hop(url: str, target: str, shown: str, allowed_urls: Sequence[str]) -> str:
    """The target, which must be what a request might have named. Its address is judged when it is connected to."""
    before, after = urlsplit(url).scheme, urlsplit(target).scheme
    if before == "https" and after == "http":
        raise TransferError("RedirectRefused", f"{shown} redirects from https to http", retryable=False)
    try:
        check_url(target, ("http", "https"))
    except ValueError as error:
        raise TransferError("RedirectRefused", f"{shown} redirects to a URL that {error}", retryable=False) from None
    if allowed_urls and not is_below(target, allowed_urls):
        text = f"{shown} redirects to {without_query(target)}, which is not below one of EXPORT_DOWNLOAD_ALLOWED_URLS"
        raise TransferError("RedirectRefused", text, retryable=False)
    return target


def _status_failure(response: Response, status: int, shown: str) -> TransferError:
    text = f"{shown} answered {status} {_phrase(status)}".rstrip()
    if status in (404, 410):
        return TransferError("HttpNotFound", text, retryable=False)
    if status in (401, 403):
        return TransferError("HttpForbidden", text, retryable=False)
    if status in _LATER:
        return TransferError("HttpThrottled", text, retryable=True, retry_after=response.retry_after, busy=status == 429)
    if status >= 500:
        return TransferError("HttpServerError", text, retryable=True, retry_after=response.retry_after, busy=status == 503)
    return TransferError("HttpClientError" if status >= 400 else "HttpUnexpectedStatus", text, retryable=False)


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""


def failure_of(error: CurlError, shown: str) -> TransferError:
    """What went wrong, in one sentence."""
    if error.refused is not None:
        text = f"{shown} leads to {error.refused}, no public address and not in EXPORT_DOWNLOAD_ALLOWED_NETWORKS"
        return TransferError("AddressRefused", text, retryable=False)
    reason = os.strerror(error.errno) if error.errno else f"libcurl error {error.code}"
    match error.code:
        case code if code in _BAD_URL:
            return TransferError("InvalidUrl", f"{shown} is not a URL that can be fetched", retryable=False)
        case pycurl.E_COULDNT_RESOLVE_HOST:
            return TransferError("HostNotFound", f"the host of {shown} is not known", retryable=True)
        case pycurl.E_COULDNT_CONNECT:
            return TransferError("ConnectionFailed", f"no connection for {shown}: {reason}", retryable=True)
        case pycurl.E_OPERATION_TIMEDOUT:
            return TransferError("Timeout", f"{shown} was silent for too long, or not done in time", retryable=True)
        case code if code in _TLS:
            return TransferError("TlsError", f"no TLS connection for {shown}: {reason}", retryable=False)
        case code if code in _BROKEN_OFF:
            return TransferError("IncompleteRead", f"{shown} broke off", retryable=True)
        case _:
            return TransferError("HttpProtocolError", f"{shown}: {reason}", retryable=True)
