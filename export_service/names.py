"""Names and URLs that people send us: what is allowed, and why not."""

import re
import unicodedata
from urllib.parse import unquote, urlsplit

SCHEMES = ("http", "https", "s3")
RESERVED = ("_report.jsonl", "_report.csv")
MAX_NAME_BYTES = 1024
"""What S3 allows for a key."""
MAX_PART_BYTES = 255
MAX_URL_BYTES = 16_384
"""More than web servers take. A URL travels in a record of a topic that takes 1 MiB."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNFIT_IN_URL = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]")
"""Control characters and lone surrogates. Expressions, because a manifest may have millions of lines."""
_PLAIN_NAME = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*/)*[A-Za-z0-9][A-Za-z0-9._-]*")
_PLAIN_URL = re.compile(r"https?://[a-z0-9][a-z0-9.-]*(?::(?:[1-5][0-9]{4}|[0-9]{1,4}))?/[A-Za-z0-9/._~%+=&?,;:!$()*-]*")
"""What most names and URLs look like; nothing in them needs a closer look, which takes five times as long."""


def check_name(name: str) -> str:
    """The name in NFC: a relative path with '/' between its parts. Raises ValueError with the reason."""
    return name if len(name) <= MAX_PART_BYTES and _PLAIN_NAME.fullmatch(name) else examine_name(name)


def check_url(url: str, schemes: tuple[str, ...] = SCHEMES) -> str:
    """The URL unchanged. Raises ValueError with the reason, never quoting the URL, which may hold a secret."""
    plain = len(url) <= MAX_URL_BYTES and _PLAIN_URL.fullmatch(url) and url[: url.index(":")] in schemes
    return url if plain else examine_url(url, schemes)


def examine_name(name: str) -> str:
    """`check_name`, of any name."""
    name = unicodedata.normalize("NFC", name)
    shown = repr(name if len(name) <= 80 else name[:80] + "…")
    if not name:
        raise ValueError("is empty; give the path below the destination, e.g. 'reports/2025.csv'")
    if _CONTROL.search(name):
        raise ValueError(f"{shown} has a control character; leave it out")
    length = len(name.encode())
    if length > MAX_NAME_BYTES:
        raise ValueError(f"{shown} is longer than {MAX_NAME_BYTES} bytes; shorten it")
    if "\\" in name:
        raise ValueError(f"{shown} has a backslash; use '/' between folders")
    if name.startswith("/") or (name[1:2] == ":" and name[0].isalpha()):
        raise ValueError(f"{shown} is an absolute path; give a path below the destination")
    parts = name.split("/")
    if ".." in parts or "." in parts:
        raise ValueError(f"{shown} has a '.' or '..' part; give a path that stays below the destination")
    if "" in parts:
        raise ValueError(f"{shown} has an empty part ('//' or a '/' at its end); leave it out")
    if length > MAX_PART_BYTES and any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        raise ValueError(f"{shown} has a part longer than {MAX_PART_BYTES} bytes, which no file system takes; shorten it")
    if name in RESERVED:
        raise ValueError(f"{shown} is the name of the job's own report; choose another")
    return name


def derive_name(url: str) -> str:
    """The last segment of the URL's path, percent-decoded; empty if there is none. `check_name` may still refuse it."""
    try:
        return unquote(urlsplit(url).path.rsplit("/", 1)[-1])
    except ValueError:
        return ""


def examine_url(url: str, schemes: tuple[str, ...]) -> str:
    """`check_url`, of any URL."""
    if _UNFIT_IN_URL.search(url):
        raise ValueError("has a space or control character; percent-encode it")
    if len(url.encode()) > MAX_URL_BYTES:
        raise ValueError(f"is longer than {MAX_URL_BYTES} bytes; shorten it")
    try:
        parts = urlsplit(url)
        host, scheme = parts.hostname, parts.scheme
        _ = parts.port
    except ValueError:
        # Python's own message may quote a part of a password that it took for a port.
        raise ValueError("is not a URL (host or port is malformed); use scheme://host/path") from None
    if scheme not in schemes:
        raise ValueError(f"has the scheme {scheme!r}; known are {', '.join(schemes)}")
    if "@" in parts.netloc:
        raise ValueError("has credentials in it (user@host), which would end up in records; use a signed URL instead")
    if scheme != "file" and not host:
        raise ValueError(f"has no host{' (bucket)' if scheme == 's3' else ''}; use {scheme}://host/path")
    return url
