"""Files over http and https, through aiohttp: bytes exactly as the server has them, redirects followed by hand."""

import email.utils
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

from export_service import __version__
from export_service.failures import PlanError, TransferError
from export_service.sealing import without_query
from export_service.settings import Download as DownloadSettings

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_CHUNK = 256 * 1024


class HttpDownload:
    """The Download port over a response."""

    def __init__(self, response: aiohttp.ClientResponse, url: str) -> None:
        self._response, self._url = response, url

    @property
    def size(self) -> int | None:
        return self._response.content_length

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise failure_of(error, self._url) from None


class HttpFiles:
    """The FileSource port for http and https. Use `open_http`."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[HttpDownload]:
        shown = without_query(url)
        for _ in range(_MAX_REDIRECTS + 1):
            try:
                # encoded=True: a signed URL does not survive being quoted again.
                response = await self._session.get(URL(url, encoded=True), allow_redirects=False)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                raise failure_of(error, shown) from None
            try:
                if response.status in _REDIRECTS and "Location" in response.headers:
                    url = _next_hop(url, response.headers["Location"], shown)
                    continue
                if response.status != 200:
                    raise _status_failure(response, shown)
                yield HttpDownload(response, shown)
                return
            finally:
                # Only a body read to its end leaves a connection that can be used again.
                if response.content.at_eof():
                    response.release()
                else:
                    response.close()
        raise TransferError("TooManyRedirects", f"{shown} redirects more than {_MAX_REDIRECTS} times", retryable=False)

    def list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        raise PlanError(f"prefix {without_query(prefix)!r}: only s3:// has listings; name the files in a manifest instead")


@asynccontextmanager
async def open_http(settings: DownloadSettings) -> AsyncIterator[HttpFiles]:
    """A session with room for `settings.concurrency` connections."""
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=settings.connect_seconds, sock_read=settings.stall_seconds, ceil_threshold=1e9
    )
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=settings.concurrency, ttl_dns_cache=30),
        headers={"User-Agent": f"export-service/{__version__}", "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=timeout,
        read_bufsize=_CHUNK,
        trust_env=False,
    ) as session:
        yield HttpFiles(session)


def _next_hop(url: str, location: str, shown: str) -> str:
    target = urljoin(url, location)
    before, after = urlsplit(url).scheme, urlsplit(target).scheme
    if after not in ("http", "https") or (before == "https" and after == "http"):
        raise TransferError("RedirectRefused", f"{shown} redirects from {before} to {after}", retryable=False)
    return target


def _status_failure(response: aiohttp.ClientResponse, shown: str) -> TransferError:
    status = response.status
    text = f"{shown} answered {status} {response.reason or ''}".rstrip()
    if status in (404, 410):
        return TransferError("HttpNotFound", text, retryable=False)
    if status in (401, 403):
        return TransferError("HttpForbidden", text, retryable=False)
    if status in (408, 425, 429):
        return TransferError("HttpThrottled", text, retryable=True, retry_after=_retry_after(response))
    if status >= 500:
        return TransferError("HttpServerError", text, retryable=True, retry_after=_retry_after(response))
    return TransferError("HttpClientError" if status >= 400 else "HttpUnexpectedStatus", text, retryable=False)


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds, from either form of the header (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def failure_of(error: Exception, shown: str) -> TransferError:
    """What went wrong, in one sentence; aiohttp's own messages may quote the whole URL and are not used."""
    match error:
        case aiohttp.InvalidURL():
            return TransferError("InvalidUrl", f"{shown} is not a URL that can be fetched", retryable=False)
        case aiohttp.ClientConnectorDNSError():
            return TransferError("HostNotFound", f"the host of {shown} is not known", retryable=True)
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return TransferError("TlsError", f"no TLS connection for {shown}: {type(error).__name__}", retryable=False)
        case TimeoutError():
            return TransferError("Timeout", f"{shown} did not send anything in time", retryable=True)
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError():
            return TransferError("IncompleteRead", f"{shown} broke off", retryable=True)
        case aiohttp.ClientConnectorError() | OSError():
            return TransferError("ConnectionFailed", f"no connection for {shown}: {_reason(error)}", retryable=True)
        case ValueError():
            return TransferError("InvalidUrl", f"{shown} is not a URL that can be fetched", retryable=False)
        case _:
            return TransferError("HttpProtocolError", f"{shown}: {type(error).__name__}", retryable=True)


def _reason(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return getattr(cause, "strerror", None) or type(cause).__name__
