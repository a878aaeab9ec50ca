"""What each host that files come from is asked for at a time, and when: less if it answers 429 or 503, and nothing while it is paused.

A pause is of the whole host. It lasts as long as Retry-After says, or exponentially longer with full jitter from one pause to the next
without a good answer between them. Afterwards one transfer is begun, and more as they end well (`limiter`). A host that has not answered
well for `busy_seconds` is *given up*: what waits for it fails, and so does what comes, until one transfer after a pause goes well.
"""

import random
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from export_service.limiter import Limiter
from export_service.messages import Outcome, TaskResult
from export_service.settings import Download
from export_service.transfer import MAX_RETRY_AFTER

_FIRST_PAUSE, _MOST_PAUSE = 0.25, 30.0
_FILE_BYTES = 256 * 1024
"""So many bytes are as much work as a file."""
_REMEMBERED = 4096
_PORTS = {"http": ":80", "https": ":443"}


def host_of(url: str) -> str:
    """Scheme, host and port: `https://example.com`, `s3://bucket`."""
    scheme, _, rest = url.partition("://")
    scheme, host = scheme.lower(), rest.partition("/")[0].lower()
    return f"{scheme}://{host.removesuffix(_PORTS.get(scheme, ' '))}"


class _Host:
    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.under_way = 0
        self.until = 0.0
        """End of its pause."""
        self.pauses = 0
        """Since it last answered well; a transfer belongs to the pause that it was begun after."""
        self.age = 0
        """Pauses there have been."""
        self.busy_since: float | None = None

    def forget(self) -> None:
        self.pauses, self.busy_since = 0, None


class Hosts:
    """All that this worker knows of. `limits`: transfers at a time of some, by `host` or `host:port`, which only lower the setting."""

    def __init__(
        self,
        settings: Download,
        *,
        now: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._settings, self._now, self._jitter = settings, now, jitter
        self._limits: Mapping[str, int] = {}
        self._hosts: dict[str, _Host] = {}

    def limit(self, limits: Mapping[str, int]) -> None:
        self._limits = limits
        for name, host in self._hosts.items():
            host.limiter.allow(self._most(name))

    def room(self, name: str) -> bool:
        host = self._hosts.get(name)
        return host is None or host.under_way < host.limiter.limit

    def begun(self, name: str) -> int:
        """A transfer is. Its `age`, for `busy` and `answered`."""
        host = self._host(name)
        host.under_way += 1
        return host.age

    def stopped(self, name: str) -> None:
        """A transfer that was not to end by itself."""
        self._hosts[name].under_way -= 1

    def answered(self, name: str, age: int, result: TaskResult) -> None:
        """A transfer ended, and not because the host was busy."""
        host = self._hosts[name]
        if age == host.age:
            host.forget()
            host.limiter.answered(_worth(result), host.under_way, self._now())
        host.under_way -= 1

    def busy(self, name: str, age: int, retry_after: float | None) -> bool:
        """A transfer ended with 429 or 503. False: nor did the one before that was begun after a pause, so it is not this one's fault."""
        host, now = self._hosts[name], self._now()
        host.under_way -= 1
        if host.busy_since is None:
            host.busy_since = now
        seconds = min(retry_after or 0.0, MAX_RETRY_AFTER)
        if age == host.age:
            # The first of those that were under way: they all are one answer.
            host.age += 1
            host.pauses += 1
            host.limiter.busy()
            seconds = seconds or self._jitter(0, min(_FIRST_PAUSE * 2 ** (host.pauses - 1), _MOST_PAUSE))
        host.until = max(host.until, now + seconds)
        return host.pauses == 1

    def pause(self, name: str) -> float:
        """Seconds until something may be asked of it; 0 or less: now."""
        host = self._hosts.get(name)
        return host.until - self._now() if host is not None else 0.0

    def given_up(self, name: str) -> bool:
        host = self._hosts.get(name)
        if host is None or host.busy_since is None:
            return False
        return self._now() - host.busy_since >= self._settings.busy_seconds and self.pause(name) > 0

    def _host(self, name: str) -> _Host:
        if (host := self._hosts.get(name)) is None:
            if len(self._hosts) >= _REMEMBERED:
                self._forget()
            host = self._hosts[name] = _Host(Limiter(self._most(name), adaptive=self._settings.adaptive))
        return host

    def _forget(self) -> None:
        now = self._now()
        for name in [name for name, host in self._hosts.items() if not host.under_way and host.until < now]:
            del self._hosts[name]

    def _most(self, name: str) -> int:
        most = min(self._settings.host_concurrency or self._settings.concurrency, self._settings.concurrency)
        parts = urlsplit(name)
        limit = self._limits.get(parts.netloc, self._limits.get(parts.hostname or ""))
        return most if limit is None else max(1, min(most, limit))


def _worth(result: TaskResult) -> float:
    """What an answer is worth to whoever waits: little after tries in vain, so that a host that breaks down is asked for less."""
    if result.outcome is not Outcome.SUCCEEDED:
        return float(result.attempts == 1)
    return (1 + result.bytes / _FILE_BYTES) / result.attempts
