"""Who gets the next free slot: the user who has the fewest, of a user's jobs the one that has the fewest, and of a job's hosts likewise.

Shares are of slots, not of tasks: a user whose files are slow does not end up with all of them, nor does a slow host of a job. Who has
equally few is served in the order of coming, so no one starves; who is alone gets all slots; the order within a job and host is kept.
Who may have no more for now, a host or a user, is passed over. Pure, so that this can be tested.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
_Lane = tuple[str, str, str]
"""User, job, host."""


class _Turns:
    """Keys that hold slots, or wait for one: fewest slots first, then the one that has waited with so many for longest."""

    def __init__(self) -> None:
        self.slots: dict[str, int] = {}
        self._waiting: dict[int, dict[str, None]] = {}
        """Number of slots -> who has so many and waits for another. A dict, because it keeps the order of coming."""

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def __bool__(self) -> bool:
        return bool(self.slots or self._waiting)

    def first(self) -> str:
        return next(iter(self._waiting[min(self._waiting)]))

    def in_order(self) -> Iterator[str]:
        for slots in sorted(self._waiting):
            yield from self._waiting[slots]

    def wait(self, key: str) -> None:
        self._waiting.setdefault(self.slots.get(key, 0), {})[key] = None

    def leave(self, key: str) -> bool:
        """Wait no longer. False: it did not."""
        slots = self.slots.get(key, 0)
        if key not in (same := self._waiting.get(slots, {})):
            return False
        del same[key]
        if not same:
            del self._waiting[slots]
        return True

    def change(self, key: str, by: int) -> None:
        """It got a slot, or gave one back."""
        before = self.slots.pop(key, 0)
        if slots := before + by:
            self.slots[key] = slots
        same = self._waiting.get(before)
        if same is None or key not in same:
            return
        if len(same) == 1:
            del self._waiting[before]
            if slots not in self._waiting:  # who is alone is most of them
                self._waiting[slots] = same
                return
        else:
            del same[key]
        self._waiting.setdefault(slots, {})[key] = None


def _always(_: str) -> bool:
    return True


class FairQueue(Generic[T]):
    """Items of users' jobs, each from a host. Whoever takes one with `pop` holds a slot until he says `ended`."""

    def __init__(self) -> None:
        self._users = _Turns()
        self._jobs: dict[str, _Turns] = {}
        self._hosts: dict[tuple[str, str], _Turns] = {}
        self._items: dict[_Lane, deque[T]] = {}
        self._lanes: dict[str, dict[_Lane, None]] = {}
        """Host -> its lanes, of hosts that are not paused; the others are in `_paused`."""
        self._paused: dict[str, dict[_Lane, None]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, user: str, job: str, host: str, item: T, *, first: bool = False) -> None:
        """`first`: before the others of its job and host."""
        lane = user, job, host
        if (items := self._items.get(lane)) is None:
            items = self._items[lane] = deque()
            if (paused := self._paused.get(host)) is not None:
                paused[lane] = None
            else:
                self._lanes.setdefault(host, {})[lane] = None
                self._wait(lane)
        if first:
            items.appendleft(item)
        else:
            items.append(item)
        self._length += 1

    def pop(self, room: Callable[[str], bool] = _always, most: int | None = None) -> T | None:
        """The item whose turn it is: of a host that has `room`, and a user with less than `most` slots. None: nobody's."""
        if not self._lanes:
            return None
        user = self._users.first()
        job = self._jobs[user].first()
        host = self._hosts[user, job].first()
        if room(host) and (most is None or self._users.slots.get(user, 0) < most):
            return self._take(user, job, host)
        if not any(map(room, self._lanes)):
            return None  # without a look at every job of a host that has no room
        for user in self._users.in_order():
            if most is not None and self._users.slots.get(user, 0) >= most:
                return None  # those who follow have as many
            for job in self._jobs[user].in_order():
                for host in self._hosts[user, job].in_order():
                    if room(host):
                        return self._take(user, job, host)
        return None

    def ended(self, user: str, job: str, host: str) -> None:
        """A slot that an item of this job and host held is free."""
        self._change(user, job, host, -1)
        self._tidy(user, job)

    def pause(self, host: str) -> None:
        """Nothing of it comes until `resume`."""
        if host not in self._paused:
            self._paused[host] = self._lanes.pop(host, {})
            for lane in self._paused[host]:
                self._leave(lane)

    def resume(self, host: str) -> None:
        if lanes := self._paused.pop(host, None):
            self._lanes[host] = lanes
            for lane in lanes:
                self._wait(lane)

    def take(self, host: str) -> list[T]:
        """All that wait for it, out of turn and without slots."""
        taken: list[T] = []
        for lane in list(self._paused.get(host) or self._lanes.get(host) or ()):
            taken += self._items[lane]
            self._length -= len(self._items[lane])
            self._remove(lane)
        return taken

    def keep(self, wanted: Callable[[T], bool]) -> None:
        """Drop all items but these."""
        for lane, items in list(self._items.items()):
            kept = deque(item for item in items if wanted(item))
            self._length -= len(items) - len(kept)
            self._items[lane] = kept
            if not kept:
                self._remove(lane)

    def waiting(self) -> dict[str, int]:
        """Job -> how many of its items wait, of jobs that have any."""
        jobs: Counter[str] = Counter()
        for (_, job, _), items in self._items.items():
            jobs[job] += len(items)
        return jobs

    def _take(self, user: str, job: str, host: str) -> T:
        items = self._items[user, job, host]
        item = items.popleft()
        self._length -= 1
        self._change(user, job, host, 1)
        if not items:
            self._remove((user, job, host))
        return item

    def _change(self, user: str, job: str, host: str, by: int) -> None:
        self._users.change(user, by)
        self._jobs[user].change(job, by)
        self._hosts[user, job].change(host, by)

    def _wait(self, lane: _Lane) -> None:
        user, job, host = lane
        self._hosts.setdefault((user, job), _Turns()).wait(host)
        self._jobs.setdefault(user, _Turns()).wait(job)
        self._users.wait(user)

    def _leave(self, lane: _Lane) -> None:
        user, job, host = lane
        if (user, job) in self._hosts and self._hosts[user, job].leave(host) and not self._hosts[user, job].waiting:
            self._jobs[user].leave(job)
            if not self._jobs[user].waiting:
                self._users.leave(user)
            self._tidy(user, job)

    def _remove(self, lane: _Lane) -> None:
        """It is empty."""
        del self._items[lane]
        self._leave(lane)
        host = lane[2]
        if host in self._paused:
            del self._paused[host][lane]
            return
        del self._lanes[host][lane]
        if not self._lanes[host]:
            del self._lanes[host]

    def _tidy(self, user: str, job: str) -> None:
        if not self._hosts[user, job]:
            del self._hosts[user, job]
        if not self._jobs[user]:
            del self._jobs[user]
