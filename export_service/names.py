"""Names and URLs that people send us: what is allowed, and why not."""

import unicodedata
from urllib.parse import unquote, urlsplit

SCHEMES = ("http", "https", "s3")
RESERVED = ("_report.jsonl", "_report.csv")
MAX_NAME_BYTES = 1024


def check_name(name: str) -> str:
    """The name in NFC: a relative path with '/' between its parts. Raises ValueError with the reason."""
    name = unicodedata.normalize("NFC", name)
    shown = repr(name if len(name) <= 80 else name[:80] + "…")
    if not name:
        raise ValueError("is empty; give the path below the destination, e.g. 'reports/2025.csv'")
    if len(name.encode(errors="surrogatepass")) > MAX_NAME_BYTES:
        raise ValueError(f"{shown} is longer than {MAX_NAME_BYTES} bytes")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        raise ValueError(f"{shown} has a control character")
    if "\\" in name:
        raise ValueError(f"{shown} has a backslash; use '/' between folders")
    if name.startswith("/") or (name[1:2] == ":" and name[0].isalpha()):
        raise ValueError(f"{shown} is an absolute path; give a path below the destination")
    parts = name.split("/")
    if ".." in parts or "." in parts:
        raise ValueError(f"{shown} has a '.' or '..' part; give a path that stays below the destination")
    if "" in parts:
        raise ValueError(f"{shown} has an empty part ('//' or a '/' at its end)")
    if any(len(part.encode()) > 255 for part in parts):
        raise ValueError(f"{shown} has a part longer than 255 bytes, which no file system takes")
    if name in RESERVED:
        raise ValueError(f"{shown} is the name of the job's own report; choose another")
    return name


def derive_name(url: str) -> str:
    """The last segment of the URL's path, percent-decoded. It may still be refused by `check_name`."""
    return unquote(urlsplit(url).path.rsplit("/", 1)[-1])


def check_url(url: str, schemes: tuple[str, ...] = SCHEMES) -> str:
    """The URL unchanged. Raises ValueError with the reason, never showing its query."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"is not a URL ({error})") from None
    if parts.scheme not in schemes:
        raise ValueError(f"has the scheme {parts.scheme!r}; known are {', '.join(schemes)}")
    if "@" in parts.netloc:
        raise ValueError("has credentials in it (user@host), which would end up in records; use a signed URL instead")
    if parts.scheme != "file" and not host:
        raise ValueError(f"has no host{' (bucket)' if parts.scheme == 's3' else ''}")
    if any(char <= " " or char == "\x7f" for char in url):
        raise ValueError("has a space or control character; percent-encode it")
    return url
