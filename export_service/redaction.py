"""How secrets appear to people: a token as a fingerprint or shortened; text and JSON without task tokens, URL queries and passwords."""

import hashlib
import json
import re
from typing import Any

HIDDEN = "(redacted)"

_SHORTEST = 8
"""A token shorter than this is hidden in its field only: it may be any word of the text, and real ones have hundreds of characters."""
_TOKEN_NAME = re.compile(r"^task[_-]?token$", re.IGNORECASE)
# In JSON that may be cut off, in JSON inside a JSON string (SNS), and where people do not write JSON. A bare word needs some length,
# because "taskToken: Value should have at most 2048 items" is what we say ourselves.
_TOKEN_FIELD = re.compile(
    r"""(task[_-]?token\\*["']?\s*[:=]\s*)"""
    r"""(?:(")(?:[^"\\]|\\.)*|(\\+")(?:[^"\\]|\\+[^"\\])*|(')[^']*|[A-Za-z0-9+/=_.-]{16,})""",
    re.IGNORECASE | re.DOTALL,
)
_BARE_TOKEN = re.compile(r"AAAAKgAAAAIA[A-Za-z0-9+/=_-]{20,}")
"""How the tokens of Step Functions begin: known as such where nothing beside them says so."""
_URL = r"[a-zA-Z][a-zA-Z0-9+.-]*://"
_QUERY = re.compile(rf"""(\b{_URL}[^\s"'?\\]*)\?[^\s"'\\]*""")
# The second form is a password with a '/' in it, which makes the URL invalid, but not less secret.
_USERINFO = re.compile(rf"""(\b{_URL})(?:[^\s"'/?#\\]*|[^\s"'/?#\\@]*:[^\s"'?#\\]*)@""")
_STARTS_AS_URL = re.compile(rf"\s*{_URL}")


def fingerprint(token: str | None) -> str:
    """The first 12 hexadecimal digits of the token's SHA-256; `none` for no token."""
    return "none" if token is None else hashlib.sha256(token.encode()).hexdigest()[:12]


def redact(token: str) -> str:
    """`AAAAKgAA...********...AAAA`. A token too short to hide most of itself is hidden whole."""
    if len(token) < 32:
        return "********"
    return f"{token[:8]}...********...{token[-4:]}"


def names_token(name: str) -> bool:
    """Whether a field or attribute of this name holds a task token."""
    return _TOKEN_NAME.match(name) is not None


def without_secrets(text: str, token: str | None = None) -> str:
    """Any text without task tokens, URL queries and URL credentials; `token` is hidden wherever it stands. The rest is unchanged."""
    if token and len(token) >= _SHORTEST:
        text = text.replace(token, HIDDEN)
    text = _TOKEN_FIELD.sub(lambda found: "".join(filter(None, found.groups())) + HIDDEN, text)
    text = _BARE_TOKEN.sub(HIDDEN, text)
    return _USERINFO.sub(rf"\1{HIDDEN}@", _QUERY.sub(rf"\1?{HIDDEN}", text))


def value_without_secrets(value: Any, token: str | None = None, name: str = "") -> Any:
    """The same for a JSON value: sees through escapes and through JSON in strings. `name` is the field that holds the value."""
    if names_token(name) and value is not None:
        return HIDDEN
    if isinstance(value, dict):
        return {without_secrets(key, token): value_without_secrets(inner, token, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [value_without_secrets(inner, token, name) for inner in value]
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith(("{", "[")):
        return body_without_secrets(value, token)
    if "?" in value and (_STARTS_AS_URL.match(value) or name.lower().endswith("url")):
        value = value.split("?", 1)[0] + f"?{HIDDEN}"
    return without_secrets(value, token)


def body_without_secrets(body: str, token: str | None = None) -> str:
    """A message body: as JSON if it is JSON, else by patterns. A body without secrets comes back exactly as it was."""
    try:
        parsed = json.loads(body)
        hidden = value_without_secrets(parsed, token)
    except (ValueError, RecursionError):
        return without_secrets(body, token)
    if hidden == parsed:
        return without_secrets(body, token)
    # A lone surrogate cannot be written as UTF-8, but its escape can.
    return json.dumps(hidden, ensure_ascii=False).encode(errors="backslashreplace").decode()
