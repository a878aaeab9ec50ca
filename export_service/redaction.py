"""How secrets appear to people: a token as a fingerprint or shortened, a message body without token and URL queries."""

import hashlib
import re

_TOKEN_FIELD = re.compile(r'("taskToken\\*"\s*:\s*\\*")((?:[^"\\]|\\[^"])*)')
_QUERY = re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s\"'?#\\]*)\?[^\s\"'\\]*")
_USERINFO = re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s\"'/@\\]*@")


def fingerprint(token: str | None) -> str:
    """The first 12 hexadecimal digits of the token's SHA-256; `none` for no token."""
    return "none" if token is None else hashlib.sha256(token.encode()).hexdigest()[:12]


def redact(token: str) -> str:
    """`AAAAKgAA...********...AAAA`. A token too short to hide most of itself is hidden whole."""
    if len(token) < 32:
        return "********"
    return f"{token[:8]}...********...{token[-4:]}"


def without_secrets(text: str) -> str:
    """Any text, JSON or not, without task tokens, URL queries and URL credentials. What is left is unchanged."""
    text = _TOKEN_FIELD.sub(r"\1(redacted)", text)
    return _QUERY.sub(r"\1?(redacted)", _USERINFO.sub(r"\1(redacted)@", text))
