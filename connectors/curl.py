"""libcurl's transfers in an asyncio loop: `async with Curl(...) as curl`, then `curl.start(url)`.

libcurl, because small files come three times as fast as through a client in Python (measured: docs/decisions/0007).
Its sockets are watched as one (`watched`): one wake-up of the loop serves every socket that is ready.
"""

import asyncio
import re
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

import pycurl

from connectors.curl_handle import HEADERS, new_handle, own_choice
from connectors.watched import watched
from export_service.addresses import may_connect
from export_service.bandwidth import Bandwidth
from export_service.settings import Download

_FULL = 256 * 1024
"""Bytes that wait for their reader before a transfer is paused."""
_STREAMS = 16
"""Transfers that share one HTTP/2 connection: fewer handshakes, and still several connections where one is slow."""
_FULL_LARGE = 4 * 1024 * 1024
"""The same of a file that is quick, and written by a thread meanwhile: a pause costs a copy of what came."""
_LARGE_TOGETHER = 32 * 1024 * 1024
"""What such files share, if there are more of them."""
_PRINTABLE = re.compile(r"[!-~]*")
_SAFE = "".join(map(chr, range(0x21, 0x7F)))


class Request(NamedTuple):
    """What is asked for, if it is not just a GET: over HTTP/1.1, as several streams of one HTTP/2 connection share what one gets.

    `patient`: whoever answers may need more than `stall_seconds` before he says anything.
    """

    method: str = "GET"
    headers: Sequence[str | bytes] = ()
    body: bytes | None = None
    patient: bool = False


class CurlError(Exception):
    """`code` is one of `pycurl.E_*`, `errno` the system's reason or 0. libcurl's own text may quote the URL, so it is not kept.

    `refused` is the address that may not be connected to, if there was no other.
    """

    def __init__(self, code: int, errno: int, refused: str | None = None) -> None:
        super().__init__(f"libcurl error {code}")
        self.code, self.errno, self.refused = code, errno, refused


class Response:
    """One request under way, or ended. After `release` it is used for another one."""

    def __init__(self, curl: "Curl", settings: Download) -> None:
        self._curl, self._allowed = curl, settings.allowed_networks
        self.handle, self._shares = new_handle(settings), False
        if curl.anywhere:
            self.handle.unsetopt(pycurl.PROXY)
            for option, value in own_choice().items():
                self.handle.setopt(option, value)
        self._stall = max(1, round(settings.stall_seconds))
        self._headers: list[bytes] = []
        self._request: Request | None = None
        self.handle.setopt(pycurl.WRITEFUNCTION, self._received)
        # The list's own method, and read when somebody asks: this is for every line of every file's answer.
        self.handle.setopt(pycurl.HEADERFUNCTION, self._headers.append)
        self.handle.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)

    def begin(self, url: str, seconds: float, request: Request | None) -> None:
        if not _PRINTABLE.fullmatch(url):
            # A signed URL does not survive being quoted again: only what may not be in a URL at all is.
            url = quote(url, safe=_SAFE)
        self.handle.setopt(pycurl.URL, url)
        self._host = url.split("/", 3)[2] if url.startswith("https:") else ""
        if self._shares != (shares := self._host in self._curl.sharing):
            self._shares = shares
            self.handle.setopt(pycurl.PIPEWAIT, int(shares))
        self.handle.setopt(pycurl.TIMEOUT_MS, round(seconds * 1000))
        if request or self._request:
            self._ask_for(request)
        self._headers.clear()
        self._body: list[bytes] = []
        self._waiting, self._paused, self._in_line, self.ended = 0, False, False, False
        self._full, self._large = _FULL, False
        self._failure: CurlError | None = None
        self._refused: str | None = None
        self._connecting = False
        self.on_filled: Callable[[], None] | None = None
        """Called once, from the loop, when `filled` would return; set it right after the start."""

    async def filled(self) -> None:
        """Wait until the body is here, or enough of it to go on. Raises CurlError."""
        if not self.ended and self._waiting < self._full:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.on_filled = partial(_wake, waiter)
            await waiter
        if self._failure is not None:
            raise self._failure

    @property
    def body(self) -> bytes | None:
        """All of it, if it has ended well and is here."""
        return b"".join(self._body) if self.ended and self._failure is None else None

    async def read(self) -> list[bytes]:
        """The next bytes; none at the end. Raises CurlError, after all that had come."""
        try:
            await self.filled()
        except CurlError:
            if not self._body:
                raise
        if self._large:
            self._full = self._room()
        body, self._body, self._waiting = self._body, [], 0
        self._go_on()
        return body

    def is_large(self) -> None:
        """From now on much is read at a time, for as long as bytes come."""
        self._curl.large += not self._large
        self._full, self._large, self._since = min(_FULL_LARGE, 4 * _FULL), True, time.monotonic()
        self.handle.setopt(pycurl.TIMEOUT_MS, 0)
        self._go_on()

    def _room(self) -> int:
        """For what comes in a tenth of a second: who looks twice a second how fast a file comes must not see it come in lumps."""
        before, self._since = self._since, time.monotonic()
        share = min(_FULL_LARGE, max(_FULL, _LARGE_TOGETHER // self._curl.large))
        return int(min(share, max(4 * _FULL, self._waiting / (self._since - before + 1e-6) / 10)))

    def _go_on(self) -> None:
        if self._paused:
            self._paused = False
            self.handle.pause(pycurl.PAUSE_CONT)

    @property
    def status(self) -> int:
        return int(self.handle.getinfo(pycurl.RESPONSE_CODE))

    @property
    def content_length(self) -> int | None:
        length = int(self.handle.getinfo(pycurl.CONTENT_LENGTH_DOWNLOAD_T))
        return length if length >= 0 else None

    def header(self, name: str) -> str | None:
        """Of the answer; a name in lower case."""
        return self.headers.get(name)

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer, names in lower case."""
        found: dict[str, str] = {}
        # Not what Python takes for lines and spaces: bytes of UTF-8 are among those.
        for line in b"".join(self._headers).decode("latin-1").split("\n"):
            name, colon, value = line.partition(":")
            if colon:
                found[name.strip().lower()] = value.strip(" \t\r")
            elif name.startswith("HTTP/"):
                found.clear()  # what was before is another answer's, such as 103
        return found

    @property
    def location(self) -> str | None:
        """Where a redirect leads, as a whole URL."""
        return self.handle.getinfo(pycurl.REDIRECT_URL)  # type: ignore[no-any-return]

    @property
    def retry_after(self) -> float | None:
        """Seconds, from either form of the header (RFC 9110, 10.2.3)."""
        return float(self.handle.getinfo(pycurl.RETRY_AFTER)) or None

    def release(self) -> None:
        """Give the connection back, or close it if the body was not read to its end."""
        self._curl.release(self)

    def let_go(self) -> None:
        """Of its room, and of what it sent: a handle that waits for its next use keeps it otherwise."""
        self._curl.large -= self._large
        self._large = False
        if self._request and self._request.body:
            self.handle.setopt(pycurl.POSTFIELDS, b"")
            self._request = self._request._replace(body=None)

    def filled_up(self) -> None:
        if self.on_filled is not None:
            on_filled, self.on_filled = self.on_filled, None
            on_filled()

    def end(self, code: int) -> None:
        """`code` is `pycurl.E_*`."""
        self.ended, self._in_line = True, False
        if self._host and not self._shares and self.handle.getinfo(pycurl.INFO_HTTP_VERSION) == pycurl.CURL_HTTP_VERSION_2_0:
            self._curl.sharing.add(self._host)
        if code != pycurl.E_OK:
            refused = None if self._connecting else self._refused
            self._failure = CurlError(code, self.handle.getinfo(pycurl.OS_ERRNO), refused)
        self.filled_up()

    def _ask_for(self, request: Request | None) -> None:
        before, self._request = self._request, request
        set_option = self.handle.setopt
        if before is None or request is None:
            version = pycurl.CURL_HTTP_VERSION_1_1 if request else pycurl.CURL_HTTP_VERSION_NONE
            set_option(pycurl.HTTP_VERSION, version)
        if before and before.method != "GET":
            set_option(pycurl.HTTPGET, 1)
            self.handle.unsetopt(pycurl.CUSTOMREQUEST)
        if bool(before and before.patient) != bool(request and request.patient):
            set_option(pycurl.LOW_SPEED_TIME, 0 if request and request.patient else self._stall)
        set_option(pycurl.HTTPHEADER, [*HEADERS, *request.headers] if request else HEADERS)
        if request and request.method == "HEAD":
            set_option(pycurl.NOBODY, 1)
        elif request and request.method != "GET":
            if request.body is not None:
                set_option(pycurl.POSTFIELDS, request.body)
            set_option(pycurl.CUSTOMREQUEST, request.method)

    def _open_socket(self, _purpose: int, address: Any) -> socket.socket | int:
        """Asked by libcurl with (family, type, protocol, sockaddr) of the very address that it is about to connect to.

        So it does not matter how a URL writes an address, what DNS says the second time, or where a redirect leads. A connection
        that is used again was judged when it was opened; libcurl uses it for the same host and port only.
        """
        family, kind, protocol, where = address
        may = self._curl.anywhere or (family in (socket.AF_INET, socket.AF_INET6) and may_connect(where[0], self._allowed))
        if not may:
            self._refused = str(where[0])
            return pycurl.SOCKET_BAD
        self._connecting = True
        try:
            opened = socket.socket(family, kind, protocol)
        except OSError:  # no descriptor left, no IPv6
            return pycurl.SOCKET_BAD
        if size := self._curl.bandwidth.buffer():
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        self._curl.soon(opened.close)  # pycurl gives libcurl a duplicate
        return opened

    def _received(self, data: bytes) -> int | None:
        if self._waiting >= self._full:
            self._paused = True
            return pycurl.WRITEFUNC_PAUSE
        bandwidth = self._curl.bandwidth
        if bandwidth.rate and not bandwidth.take(len(data)):
            self._in_line = True
            bandwidth.wait(self._my_turn)
            return pycurl.WRITEFUNC_PAUSE
        self._body.append(data)
        self._waiting += len(data)
        if self._waiting >= self._full and self.on_filled is not None:
            # Not from here: libcurl is at work, and may not be called again.
            self._curl.soon(self.filled_up)
        return None

    def _my_turn(self) -> None:
        if self._in_line:
            self._in_line = False
            self.handle.pause(pycurl.PAUSE_CONT)

    def leave_line(self) -> None:
        self._in_line = False


class Curl:
    """All transfers of one loop, and the connections that they share.

    `anywhere`: the operator has chosen the hosts, so that no address is refused, and proxies are used as the environment says.
    """

    def __init__(self, settings: Download, bandwidth: Bandwidth | None = None, *, anywhere: bool = False) -> None:
        self._settings, self.bandwidth, self.anywhere = settings, bandwidth or Bandwidth(), anywhere
        self._sockets = watched()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, settings.concurrency)
        self._multi.setopt(pycurl.M_MAX_CONCURRENT_STREAMS, _STREAMS)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._running: dict[pycurl.Curl, Response] = {}
        self._idle: list[Response] = []
        self.large = 0  # responses that have the room of such a file
        self.sharing: set[str] = set()
        """Hosts that speak HTTP/2: a transfer waits for a connection to them that is just being made, and shares it. Not known in
        advance: libcurl would wait for a whole answer of a host to see that it does not."""

    async def __aenter__(self) -> "Curl":
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sockets, self._ready)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._loop.remove_reader(self._sockets)
        for response in list(self._running.values()):
            self.release(response)
        for response in self._idle:
            response.handle.close()
        self._multi.close()
        if self._timer is not None:
            self._timer.cancel()
        self._sockets.close()

    def start(self, url: str, seconds: float = 0, request: Request | None = None) -> Response:
        """GET `url`, or do what the request says, in at most `seconds` (0: for as long as bytes come)."""
        response = self._idle.pop() if self._idle else Response(self, self._settings)
        response.begin(url, seconds, request)
        self._running[response.handle] = response
        self._multi.add_handle(response.handle)
        return response

    def soon(self, call: Callable[[], None]) -> None:
        self._loop.call_soon(call)

    def release(self, response: Response) -> None:
        response.on_filled = None
        response.leave_line()
        if self._running.pop(response.handle, None):
            self._multi.remove_handle(response.handle)
        response.let_go()  # not before: libcurl may be sending it
        self._idle.append(response)

    def _watch(self, event: int, fd: int, _multi: object, _data: object) -> None:
        if event == pycurl.POLL_REMOVE:
            self._sockets.let_go(fd)
        else:
            self._sockets.watch(fd, event)

    def _set_timer(self, milliseconds: int) -> None:
        """libcurl asks at every start and end of a transfer. A timer that goes off too early does no harm: it will ask again."""
        if milliseconds < 0:
            return
        when = self._loop.time() + milliseconds / 1000
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer_at, self._timer = when, self._loop.call_at(when, self._timed_out)

    def _timed_out(self) -> None:
        self._timer = None
        self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._collect()

    def _ready(self) -> None:
        for fd, events in self._sockets.ready():
            self._multi.socket_action(fd, events)
        self._collect()

    def _collect(self) -> None:
        """Tell the readers of what has ended."""
        left = 1
        while left:
            left, done, failed = self._multi.info_read()
            for handle in done:
                self._end(handle, pycurl.E_OK)
            for handle, code, _ in failed:
                self._end(handle, code)

    def _end(self, handle: pycurl.Curl, code: int) -> None:
        response = self._running.pop(handle)
        self._multi.remove_handle(handle)
        if self.bandwidth.rate:
            self.bandwidth.spend(handle.getinfo(pycurl.HEADER_SIZE))
        response.end(code)


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
