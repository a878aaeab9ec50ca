"""Who gets the next free slot: the user who has the fewest, and of a user's jobs the one that has the fewest.

Shares are of slots, not of tasks: a user whose files are slow does not end up with all of them. Who has equally few is served in the
order of coming, so no one starves; who is alone gets all slots; the order within a job is kept. Pure, so that this can be tested.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Turns:
    """Keys that hold slots, or wait for one: fewest slots first, then the one that has waited with so many for longest."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._waiting: dict[int, dict[str, None]] = {}
        """Number of slots -> who has so many and waits for another. A dict, because it keeps the order of coming."""

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def __bool__(self) -> bool:
        return bool(self._slots or self._waiting)

    def first(self) -> str:
        return next(iter(self._waiting[min(self._waiting)]))

    def wait(self, key: str) -> None:
        self._waiting.setdefault(self._slots.get(key, 0), {})[key] = None

    def leave(self, key: str) -> bool:
        """Wait no longer. False: it did not."""
        slots = self._slots.get(key, 0)
        if key not in (same := self._waiting.get(slots, {})):
            return False
        del same[key]
        if not same:
            del self._waiting[slots]
        return True

    def change(self, key: str, by: int) -> None:
        """It got a slot, or gave one back."""
        waits, slots = self.leave(key), self._slots.pop(key, 0) + by
        if slots:
            self._slots[key] = slots
        if waits:
            self.wait(key)


class FairQueue(Generic[T]):
    """Items of users' jobs. Whoever takes one with `pop` holds a slot until he says `ended`."""

    def __init__(self) -> None:
        self._users = _Turns()
        self._jobs: dict[str, _Turns] = {}
        self._items: dict[tuple[str, str], deque[T]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, user: str, job: str, item: T) -> None:
        if (user, job) not in self._items:
            self._items[user, job] = deque()
            self._jobs.setdefault(user, _Turns()).wait(job)
            self._users.wait(user)
        self._items[user, job].append(item)
        self._length += 1

    def pop(self) -> T:
        """The item whose turn it is; there must be one."""
        user = self._users.first()
        job = self._jobs[user].first()
        item = self._items[user, job].popleft()
        self._length -= 1
        self._change(user, job, 1)
        self._tidy(user, job)
        return item

    def ended(self, user: str, job: str) -> None:
        """A slot that an item of this job held is free."""
        self._change(user, job, -1)
        if not self._jobs[user]:
            del self._jobs[user]

    def keep(self, wanted: Callable[[T], bool]) -> None:
        """Drop all items but these."""
        for (user, job), items in list(self._items.items()):
            kept = [item for item in items if wanted(item)]
            self._length -= len(items) - len(kept)
            self._items[user, job] = deque(kept)
            self._tidy(user, job)

    def waiting(self) -> Iterator[tuple[str, int]]:
        """(job, how many of its items wait), of jobs that have any."""
        return ((job, len(items)) for (_, job), items in self._items.items())

    def _change(self, user: str, job: str, by: int) -> None:
        self._users.change(user, by)
        self._jobs[user].change(job, by)

    def _tidy(self, user: str, job: str) -> None:
        if self._items[user, job]:
            return
        jobs = self._jobs[user]
        del self._items[user, job]
        jobs.leave(job)
        if not jobs.waiting:
            self._users.leave(user)
        if not jobs:
            del self._jobs[user]
