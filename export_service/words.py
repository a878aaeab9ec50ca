"""Numbers, sizes, times and texts as people read them."""

MISSING = "–"


def number(value: float | None) -> str:
    """`1,234`; of a rate below ten also one digit after the point."""
    if value is None:
        return MISSING
    return f"{value:,.1f}" if isinstance(value, float) and 0 < value < 10 else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Of bytes."""
    if value is None:
        return MISSING
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1000
    raise AssertionError("the last unit returns")


def span(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    for unit, length in (("min", 3600), ("h", 86_400), ("d", float("inf"))):
        if seconds < length:
            return f"{seconds / {'min': 60, 'h': 3600, 'd': 86_400}[unit]:.1f} {unit}"
    raise AssertionError("the last unit returns")


def printable(text: str) -> str:
    """What a caller has named something, on one line and without what a terminal would take for a command."""
    return "".join(each if each.isprintable() else "�" for each in text)
