"""Rates and limits as people write them: `50MB`, `800KiB/s`, `off`; `example.com=4`."""

import re

LEAST_RATE = 1000
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([kmgt]?)(i?)b?(?:/s)?", re.IGNORECASE)
_HOST = re.compile(r"(?:\[[0-9a-f:]+\]|[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?)(?::[0-9]{1,5})?")


def parse_rate(text: str) -> int | None:
    """Bytes a second; None for `off`. Raises ValueError with the reason."""
    if text.strip().lower() == "off":
        return None
    if not (found := _RATE.fullmatch(text.strip())) or (found[3] and not found[2]):
        raise ValueError(f"{text!r} is not a rate; give bytes a second, such as 50MB, 800KiB or 1000000, or off")
    rate = float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " ")
    if rate < LEAST_RATE:
        raise ValueError(f"{text!r} is less than 1KB a second for all download workers; give the unit too, such as 50MB, or off")
    return int(rate)


def parse_host_limit(text: str) -> tuple[str, int | None]:
    """(host or host:port, files at a time); None for `off`. Raises ValueError with the reason."""
    host, _, number = text.rpartition("=")
    host, number = host.strip().lower(), number.strip().lower()
    if not _HOST.fullmatch(host):
        raise ValueError(f"{text!r} does not name a host; give HOST=NUMBER, such as example.com=4 or example.com:8080=off")
    if number == "off":
        return host, None
    if not re.fullmatch("[0-9]{1,6}", number) or int(number) < 1:
        raise ValueError(
            f"{text!r} has no number of files at a time, 1 or more; give HOST=NUMBER, such as example.com=4, or HOST=off"
        )
    return host, int(number)


def shown(rate: int | None) -> str:
    """For people."""
    if rate is None:
        return "off"
    size = float(rate)
    units = ["TB", "GB", "MB", "KB", "B"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop()
    return f"{size:.4g} {units[-1]}/s"
