"""What came of downloads, counted by outcome, failure class and set of hosts: a few additions for each file."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from export_service import metric_names as names
from export_service.messages import Outcome, TaskResult
from export_service.samples import Buckets, Sample

_MOST_ERRORS = 64
"""Failure classes with series of their own: ours are some forty, and stores have words of their own."""
_REMEMBERED = 4096
_CLASS = re.compile(r"[A-Za-z0-9]{1,48}")


class _Counts:
    __slots__ = ("bytes", "ended", "hosts", "retries", "seconds", "succeeded")

    def __init__(self, hosts: str) -> None:
        self.hosts = hosts
        self.ended: Counter[tuple[Outcome, str | None]] = Counter()
        """Of those that did not succeed."""
        self.bytes = self.retries = self.succeeded = 0
        self.seconds = Buckets(names.FILE_SECONDS)


class DownloadCounts:
    """`sets`: domains; a host is in the first that it is, or is below; else its set is its scheme."""

    def __init__(self, sets: Sequence[str]) -> None:
        self._sets = sets
        self._by_set: dict[str, _Counts] = {}
        self._by_host: dict[str, _Counts] = {}
        self._errors: set[str] = set()

    def add(self, host: str, result: TaskResult) -> None:
        """`host` as `hosts.host_of` gives it."""
        counts = self._by_host.get(host) or self._of(host)
        # An enum's hash is a call in Python, so the usual case goes without.
        if result.outcome is Outcome.SUCCEEDED:
            counts.succeeded += 1
        else:
            counts.ended[result.outcome, result.error] += 1
            if result.outcome is Outcome.CANCELLED:
                return
        counts.bytes += result.bytes
        counts.retries += result.attempts - 1
        counts.seconds.add(result.duration_ms / 1000)

    def samples(self) -> Iterator[Sample]:
        for counts in self._by_set.values():
            hosts = (counts.hosts,)
            ended = Counter({(Outcome.SUCCEEDED.value, ""): counts.succeeded})
            for (outcome, error), number in counts.ended.items():
                ended[outcome.value, self._class(error)] += number
            for labels, number in ended.items():
                yield Sample(names.DOWNLOADS, number, (*labels, counts.hosts))
            yield Sample(names.DOWNLOAD_BYTES, counts.bytes, hosts)
            yield Sample(names.DOWNLOAD_RETRIES, counts.retries, hosts)
            yield Sample(names.DOWNLOAD_SECONDS, counts.seconds, hosts)

    def _of(self, host: str) -> _Counts:
        scheme, _, place = host.partition("://")
        name = place.rpartition(":")[0] or place
        found = next((each for each in self._sets if name == each or name.endswith("." + each)), scheme)
        if len(self._by_host) >= _REMEMBERED:
            self._by_host.clear()
        counts = self._by_host[host] = self._by_set.setdefault(found, _Counts(found))
        return counts

    def _class(self, error: str | None) -> str:
        if error is None or error in self._errors:
            return error or ""
        if len(self._errors) >= _MOST_ERRORS or not _CLASS.fullmatch(error):
            return "other"
        self._errors.add(error)
        return error
