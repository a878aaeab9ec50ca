"""Whether a URL is below an allowed one, as `EXPORT_DOWNLOAD_ALLOWED_URLS` names them: `https://files.example.com/,s3://bucket/team/`.

Parts are compared, not text: the scheme, the whole host, the port, and whole segments of the path.
"""

import re
from collections.abc import Sequence
from functools import cache
from urllib.parse import unquote, urlsplit

from export_service.names import SCHEMES, check_url

_PORTS = {"http": 80, "https": 443}


def parse_prefixes(text: str) -> tuple[str, ...]:
    """Comma-separated prefixes; `s3://` alone is every bucket. Raises ValueError with all mistakes."""
    found = tuple(filter(None, map(str.strip, text.split(","))))
    mistakes = []
    for prefix in found:
        try:
            if prefix not in {f"{scheme}://" for scheme in SCHEMES}:
                check_url(prefix)
                if re.search(r"[?#]", prefix) or _has_dots(urlsplit(prefix).path):
                    raise ValueError("has a '?', a '#' or a '.' or '..' part; give scheme://host/path/")
        except ValueError as error:
            mistakes.append(f"{prefix!r} {error}")
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return found


def is_below(url: str, prefixes: Sequence[str]) -> bool:
    """Whether `url` is below one of the prefixes. It must have passed `check_url`: one with '@' or a tab is read otherwise elsewhere."""
    scheme, host, port, path = _parts(url)
    for prefix in prefixes:
        its_scheme, its_host, its_port, its_path = _cached_parts(prefix)
        if scheme != its_scheme:
            continue
        if not its_host:
            return True
        # Always with a '/': to list `s3://bucket/team` would list `team-of-others/` too.
        below = its_path if its_path.endswith("/") else its_path + "/"
        if (host, port) == (its_host, its_port) and path.startswith(below) and (below == "/" or not _has_dots(path)):
            return True
    return False


def _parts(url: str) -> tuple[str, str, int | None, str]:
    """(scheme, host or bucket, port, path). Hosts are in lower case; a bucket's name is taken as it is."""
    parts = urlsplit(url)
    host = parts.netloc if parts.scheme == "s3" else parts.hostname or ""
    port = parts.port if parts.port is not None else _PORTS.get(parts.scheme)
    return parts.scheme, host, port, parts.path or "/"


_cached_parts = cache(_parts)


def _has_dots(path: str) -> bool:
    """Whether a server may read a '..' in it: URLs are sent as they are."""
    return not {".", ".."}.isdisjoint(re.split(r"[/\\]", unquote(path)))
