"""Who may change something: who has signed in with the token. A request that changes something must come from a page of ours."""

import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

COOKIE = "export-console"
_SECONDS = 12 * 3600
_MOST = 1000


@dataclass
class Session:
    """`csrf` is in each of its forms; a page of another origin cannot know it. `said`: what was done, for the next page."""

    id: str
    csrf: str
    until: float
    said: str | None = None


class Sessions:
    """`token` None: nobody can sign in."""

    def __init__(self, token: str | None) -> None:
        self._token = token
        self._sessions: dict[str, Session] = {}

    @property
    def possible(self) -> bool:
        return self._token is not None

    def begin(self, token: str) -> Session | None:
        """None: it is not the token."""
        if self._token is None or not hmac.compare_digest(token.encode(), self._token.encode()):
            return None
        now = time.time()
        self._sessions = {name: each for name, each in self._sessions.items() if each.until > now}
        while len(self._sessions) >= _MOST:
            del self._sessions[next(iter(self._sessions))]
        session = Session(secrets.token_urlsafe(32), secrets.token_urlsafe(32), now + _SECONDS)
        self._sessions[session.id] = session
        return session

    def of(self, cookies: Mapping[str, str]) -> Session | None:
        session = self._sessions.get(cookies.get(COOKIE, ""))
        return session if session is not None and session.until > time.time() else None

    def end(self, session: Session) -> None:
        self._sessions.pop(session.id, None)


def ours(session: Session, form: Mapping[str, object], headers: Mapping[str, str]) -> bool:
    """Whether a form is one that we made for this session, and sent from our own page."""
    given = form.get("csrf")
    return isinstance(given, str) and hmac.compare_digest(given.encode(), session.csrf.encode()) and same_origin(headers)


def same_origin(headers: Mapping[str, str]) -> bool:
    """As far as the browser says where the request comes from."""
    if headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == headers.get("Host")


def known_host(host: str, names: tuple[str, ...]) -> bool:
    """A page of a stranger whose name leads to our address must not read us: he cannot have an address, or one of our names, for his."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        ip_address(name)
    except ValueError:
        return name == "localhost" or name in names
    return True
