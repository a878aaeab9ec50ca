"""Whether each partition of a role moves, by what the broker says is there: a consumer that hangs would say that it has read all."""

import time
from collections.abc import Callable, Iterator, Mapping

from streams.ack_window import AckWindow, Place


class Progress:
    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._now = seconds, now
        self._seen: dict[Place, tuple[int | None, int]] = {}
        self._since: dict[Place, float] = {}
        """Of partitions that have more, and do not move."""

    def look(self, window: AckWindow, ends: Mapping[Place, int], *, held: bool) -> None:
        """`held`: the role rightly takes nothing now."""
        now = self._now()
        seen = {place: (window.position(place), window.admitted(place)) for place in window.places()}
        behind = [place for place, (_, admitted) in seen.items() if admitted < ends.get(place, 0) and not held]
        self._since = {place: self._since.get(place, now) if seen[place] == self._seen.get(place) else now for place in behind}
        self._seen = seen

    @property
    def longest(self) -> float:
        return max((self._now() - since for since in self._since.values()), default=0.0)

    def stuck(self) -> Iterator[tuple[Place, float]]:
        """Partitions that have stood still for too long, and for how long."""
        for place, since in self._since.items():
            if (seconds := self._now() - since) >= self._seconds:
                yield place, seconds
