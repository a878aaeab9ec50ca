"""The queue before the slots: nothing lost, no slot idle, slots shared by user and then by job, no one starves."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from export_service.fair_queue import FairQueue

USERS, JOBS = st.sampled_from("abc"), st.sampled_from("12")
Item = tuple[str, str, int]
PUT, POP, END, DROP = "put", "pop", "end", "drop"
STEPS = st.lists(st.tuples(st.sampled_from((PUT, PUT, POP, POP, END, DROP)), USERS, JOBS, st.integers(0, 1000)), max_size=120)


@given(STEPS)
def test_each_item_comes_once_in_its_jobs_order_and_goes_to_who_has_fewest_slots(steps: list[tuple[str, str, str, int]]) -> None:
    queue: FairQueue[Item] = FairQueue()
    waiting: dict[tuple[str, str], list[Item]] = {}
    held: list[tuple[str, str]] = []
    for number, (what, user, job, pick) in enumerate(steps):
        if what == PUT:
            item = (user, job, number)
            queue.put(user, job, item)
            waiting.setdefault((user, job), []).append(item)
        elif what == POP and queue:
            user, job, number = queue.pop()
            assert waiting[user, job].pop(0) == (user, job, number)
            slots, of_user = Counter(user for user, _ in held), Counter(job for holder, job in held if holder == user)
            others = {other for (other, _), items in waiting.items() if items}
            assert all(slots[user] <= slots[other] for other in others)
            assert all(of_user[job] <= of_user[other] for (holder, other), items in waiting.items() if items and holder == user)
            held.append((user, job))
        elif what == END and held:
            queue.ended(*held.pop(pick % len(held)))
        elif what == DROP:
            queue.keep(lambda item: item[:2] != (user, job))  # noqa: B023 - called at once
            waiting.pop((user, job), None)
        assert len(queue) == sum(map(len, waiting.values()))
        expected = Counter({key: len(items) for key, items in waiting.items() if items})
        assert sorted(queue.waiting()) == sorted((job, count) for (_, job), count in expected.items())
    for place in held:
        queue.ended(*place)
    assert sorted(queue.pop() for _ in range(len(queue))) == sorted(item for items in waiting.values() for item in items)
    assert not any(items for items in queue.__dict__["_items"].values())


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.integers(1, 8))
def test_users_who_always_want_more_share_the_slots_whatever_their_files_take(durations: list[int], slots: int) -> None:
    """`durations[n]`: how long a slot is held by user n. Time goes on in steps of 1."""
    queue: FairQueue[str] = FairQueue()
    for number in range(len(durations)):
        for _ in range(120 * slots):
            queue.put(str(number), "job", str(number))
    ends: list[tuple[int, str]] = []
    served: Counter[str] = Counter()
    for now in range(120):
        for end in [end for end in ends if end[0] <= now]:
            ends.remove(end)
            queue.ended(end[1], "job")
        while len(ends) < slots:
            user = queue.pop()
            served[user] += 1
            ends.append((now + durations[int(user)], user))
        held = Counter(user for _, user in ends)
        if slots >= len(durations):
            # Nobody is interrupted: a user may be one slot short until the next one is free.
            assert max(held.values()) - min(held[str(n)] for n in range(len(durations))) <= 2
    # Each has waited for nothing longer than one file of all others, over and over.
    assert all(served[str(n)] >= 120 // (sum(durations) + durations[n]) for n in range(len(durations)))


@given(st.integers(1, 4), st.integers(1, 3))
def test_newcomers_without_end_do_not_starve_who_waits(slots: int, newcomers: int) -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(10):
        queue.put("patient", "big", "patient")
    held: list[str] = []
    for step in range(60):
        for number in range(newcomers):
            queue.put(f"new-{step}-{number}", "small", f"new-{step}-{number}")
        if len(held) == slots:
            user = held.pop(0)
            queue.ended(user, "big" if user == "patient" else "small")
        held.append(queue.pop())
    assert "patient" in held or sum(items == 10 for _, items in queue.waiting()) == 0
