"""Which bytes of a file are here, under way, or nobody's yet: for one that comes through several connections."""

from bisect import insort


class Span:
    """Bytes `at` to `stop` that somebody is fetching; `at` moves on."""

    __slots__ = ("at", "stop")

    def __init__(self, at: int, stop: int) -> None:
        self.at, self.stop = at, stop


class Spans:
    """Those of one file of `size` bytes, of which the first `kept` are here."""

    def __init__(self, kept: int, size: int) -> None:
        self.size = size
        self._free = [(kept, size)] if kept < size else []
        self._taken: set[Span] = set()

    @property
    def frontier(self) -> int:
        """All before it is here."""
        first = self._free[0][0] if self._free else self.size
        return min(first, min((span.at for span in self._taken), default=self.size))

    @property
    def left(self) -> int:
        """Bytes that are not here."""
        return sum(stop - at for at, stop in self._free) + sum(span.stop - span.at for span in self._taken)

    def take(self, length: int) -> Span | None:
        """The first bytes that are nobody's."""
        if not self._free:
            return None
        span = Span(*self._cut(0, length))
        self._taken.add(span)
        return span

    def extend(self, span: Span, length: int) -> bool:
        """Take what follows the span, too; False if it is somebody's, or the end."""
        for index, (at, _) in enumerate(self._free):
            if at == span.stop:
                span.stop = self._cut(index, length)[1]
                return True
        return False

    def give_back(self, span: Span) -> None:
        """What it has fetched is here, the rest nobody's."""
        self._taken.discard(span)
        if span.at < span.stop:
            insort(self._free, (span.at, span.stop))

    def free_after(self, span: Span) -> None:
        """What follows the span is nobody's again, also what is here; all other spans have been given back."""
        self._free = [(span.stop, self.size)] if span.stop < self.size else []

    def _cut(self, index: int, length: int) -> tuple[int, int]:
        at, stop = self._free.pop(index)
        if stop - at > length:
            insort(self._free, (at + length, stop))
            stop = at + length
        return at, stop
