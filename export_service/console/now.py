"""What the broker says now, and said lately: topics with rates, lag and age, groups with their members."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from export_service.messages import DownloadDemand
from export_service.verify.evidence import READERS, Bounds
from streams.group_members import Group, Place

KEPT = 1800
"""Samples: an hour, at one each two seconds."""
_RATE_SAMPLES = 5
FLOW = tuple(READERS)
"""Topics that somebody commits offsets of, so that they have a lag."""


class Sample(NamedTuple):
    """`at` in seconds since the epoch; `files` and `bytes` are sums since the start; `ends` and `lag` by topic."""

    at: float
    files: int
    bytes: int
    ends: Mapping[str, int]
    lag: Mapping[str, int]
    age: float = 0.0


class Topic(NamedTuple):
    """`lag` in records, `age` of the next uncommitted one in seconds; None: nobody commits offsets of it, or nothing waits."""

    name: str
    records: int
    lag: int | None
    age: float | None
    rate: float | None


@dataclass
class Now:
    """Attributes:
    bounds: of the partitions that exist.
    ages: seconds since the next uncommitted record of a partition was written, where there is one.
    demand: by worker, and when it said so (seconds since the epoch).
    missing: topics that are not there.
    problem: why nothing new comes, if that is so.
    """

    bounds: Mapping[Place, Bounds] = field(default_factory=dict)
    ages: Mapping[Place, float] = field(default_factory=dict)
    groups: Sequence[Group] = ()
    demand: dict[str, tuple[float, DownloadDemand]] = field(default_factory=dict)
    missing: Sequence[str] = ()
    problem: str | None = "Kafka has not answered yet"
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=KEPT))

    def of(self, topic: str) -> dict[int, Bounds]:
        return {number: each for (name, number), each in sorted(self.bounds.items()) if name == topic}

    def topic(self, name: str) -> Topic:
        mine = self.of(name)
        lag = sum(each.lag for each in mine.values()) if name in READERS else None
        ages = [self.ages[Place(name, number)] for number in mine if Place(name, number) in self.ages]
        return Topic(name, sum(each.end - each.begin for each in mine.values()), lag, max(ages, default=None), self.rate(name))

    def rate(self, topic: str) -> float | None:
        """Records a second that came in, of the last seconds."""
        return self._rate(lambda sample: sample.ends.get(topic, 0))

    def files(self) -> float | None:
        return self._rate(lambda sample: sample.files)

    def bytes(self) -> float | None:
        return self._rate(lambda sample: sample.bytes)

    def _rate(self, of: Callable[[Sample], float]) -> float | None:
        if len(self.samples) < 2:
            return None
        first, last = self.samples[max(-_RATE_SAMPLES, -len(self.samples))], self.samples[-1]
        return max(0, of(last) - of(first)) / max(last.at - first.at, 0.001)

    def sample(self, at: float, files: int, size: int) -> None:
        names = {place.topic for place in self.bounds}
        ends = {name: sum(each.end for each in self.of(name).values()) for name in names}
        lag = {name: sum(each.lag for each in self.of(name).values()) for name in FLOW if name in names}
        self.samples.append(Sample(at, files, size, ends, lag, max(self.ages.values(), default=0.0)))

    def owners(self) -> dict[Place, str]:
        return {place: member.name for group in self.groups for member in group.members for place in member.places}
