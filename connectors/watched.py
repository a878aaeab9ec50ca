"""The sockets that libcurl waits for, as one descriptor that a loop can watch.

libcurl lets go of a socket when a transfer ends, and takes it up again when the next one uses its connection. epoll is not told of the
first: that halves its system calls. A socket that was let go of and closed has left epoll by itself, and its number may be another
socket's by then, so what is taken up again is set anew, and added if it is not there.
"""

import select
import selectors
from contextlib import suppress
from typing import Protocol

Ready = list[tuple[int, int]]
"""Descriptor and what it is ready for: 1 to read, 2 to write. libcurl's numbers, and those of selectors."""


class Watched(Protocol):
    def fileno(self) -> int: ...
    def watch(self, fd: int, events: int) -> None: ...
    def let_go(self, fd: int) -> None: ...
    def ready(self) -> Ready: ...
    def close(self) -> None: ...


def watched() -> Watched:
    return EpollWatched() if hasattr(select, "epoll") else SelectorWatched()


class EpollWatched:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._masks = {1: select.EPOLLIN, 2: select.EPOLLOUT, 3: select.EPOLLIN | select.EPOLLOUT}
        self._known: set[int] = set()
        self._asleep: set[int] = set()
        """Let go of, but still in epoll, if they were not closed since."""
        self.fileno, self.close = self._epoll.fileno, self._epoll.close

    def watch(self, fd: int, events: int) -> None:
        mask = self._masks[events]
        if fd in self._known:
            self._asleep.discard(fd)
            try:
                return self._epoll.modify(fd, mask)
            except FileNotFoundError:
                pass
        self._known.add(fd)
        return self._epoll.register(fd, mask)

    def let_go(self, fd: int) -> None:
        if fd in self._known:
            self._asleep.add(fd)

    def ready(self) -> Ready:
        found: Ready = []
        for fd, mask in self._epoll.poll(0):
            if fd in self._asleep:
                # An idle connection that the other side has closed.
                self._asleep.discard(fd)
                self._known.discard(fd)
                with suppress(OSError):  # closed since
                    self._epoll.unregister(fd)
            else:
                # An error is told to whoever waits for either.
                found.append((fd, bool(mask & ~select.EPOLLOUT) | bool(mask & ~select.EPOLLIN) << 1))
        return found


class SelectorWatched:
    """Where there is no epoll."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._known: set[int] = set()
        self.close = self._selector.close

    def fileno(self) -> int:
        return self._selector.fileno()

    def watch(self, fd: int, events: int) -> None:
        if fd in self._known:
            self._selector.modify(fd, events)
        else:
            self._known.add(fd)
            self._selector.register(fd, events)

    def let_go(self, fd: int) -> None:
        if fd in self._known:
            self._known.discard(fd)
            self._selector.unregister(fd)

    def ready(self) -> Ready:
        return [(key.fd, events) for key, events in self._selector.select(0)]
