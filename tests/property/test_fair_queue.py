"""The queue before the slots: nothing lost, no slot idle, slots shared by user and then by job, no one starves."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from export_service.fair_queue import FairQueue

USERS, JOBS, HOSTS = st.sampled_from("abc"), st.sampled_from("12"), st.sampled_from("xyz")
Lane = tuple[str, str, str]
Item = tuple[Lane, int]
PUT, POP, END, DROP, PAUSE, RESUME, FILL, TAKE = "put", "pop", "end", "drop", "pause", "resume", "fill", "take"
WHAT = st.sampled_from((PUT, PUT, PUT, POP, POP, POP, END, END, DROP, PAUSE, RESUME, FILL, TAKE))
STEPS = st.lists(st.tuples(WHAT, st.tuples(USERS, JOBS, HOSTS), st.integers(0, 1000)), max_size=150)


@given(STEPS, st.sampled_from((None, 1, 3)))
def test_each_item_comes_once_in_its_lanes_order_and_goes_to_who_has_fewest_slots_of_those_who_may(
    steps: list[tuple[str, Lane, int]], most: int | None
) -> None:
    queue: FairQueue[Item] = FairQueue()
    waiting: dict[Lane, list[Item]] = {}
    held: list[Lane] = []
    paused: set[str] = set()
    full: set[str] = set()
    for number, (what, lane, pick) in enumerate(steps):
        host = lane[2]
        if what == PUT:
            first = pick % 4 == 0
            queue.put(*lane, (lane, number), first=first)
            waiting.setdefault(lane, []).insert(0 if first else len(waiting[lane]), (lane, number))
        elif what == POP:
            popped = queue.pop(lambda host: host not in full, most)  # noqa: B023 - called at once
            users, jobs, hosts = (Counter(each[:length] for each in held) for length in (1, 2, 3))
            may = [
                each
                for each, items in waiting.items()
                if items and each[2] not in paused | full and (most is None or users[each[:1]] < most)
            ]
            if popped is None:
                assert not may
                continue
            lane = popped[0]
            assert lane in may
            assert waiting[lane].pop(0) == popped
            assert all(users[lane[:1]] <= users[other[:1]] for other in may)
            assert all(jobs[lane[:2]] <= jobs[other[:2]] for other in may if other[:1] == lane[:1])
            assert all(hosts[lane] <= hosts[other] for other in may if other[:2] == lane[:2])
            held.append(lane)
        elif what == END and held:
            queue.ended(*held.pop(pick % len(held)))
        elif what == DROP:
            queue.keep(lambda item: item[0] != lane)  # noqa: B023 - called at once
            waiting.pop(lane, None)
        elif what == PAUSE:
            paused.add(host)
            queue.pause(host)
        elif what == RESUME:
            paused.discard(host)
            queue.resume(host)
        elif what == FILL:
            full ^= {host}
        elif what == TAKE:
            gone = [item for each in waiting if each[2] == host for item in waiting[each]]
            assert sorted(queue.take(host)) == sorted(gone)
            waiting = {each: items for each, items in waiting.items() if each[2] != host}
        expected: Counter[str] = Counter()
        for each, items in waiting.items():
            expected[each[1]] += len(items)
        assert len(queue) == expected.total()
        assert queue.waiting() == +expected
    for lane in held:
        queue.ended(*lane)
    for host in paused:
        queue.resume(host)
    left = [item for _ in range(len(queue)) if (item := queue.pop())]
    assert sorted(left) == sorted(item for items in waiting.values() for item in items)
    for lane, _ in left:
        queue.ended(*lane)
    assert not any(vars(queue)[kept] for kept in ("_jobs", "_hosts", "_items", "_lanes", "_paused"))


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.integers(1, 8))
def test_users_who_always_want_more_share_the_slots_whatever_their_files_take(durations: list[int], slots: int) -> None:
    """`durations[n]`: how long a slot is held by user n. Time goes on in steps of 1."""
    queue: FairQueue[str] = FairQueue()
    for number in range(len(durations)):
        for _ in range(120 * slots):
            queue.put(str(number), "job", "host", str(number))
    ends: list[tuple[int, str]] = []
    served: Counter[str] = Counter()
    for now in range(120):
        for end in [end for end in ends if end[0] <= now]:
            ends.remove(end)
            queue.ended(end[1], "job", "host")
        while len(ends) < slots:
            user = queue.pop() or ""
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
        queue.put("patient", "big", "host", "patient")
    held: list[str] = []
    for step in range(60):
        for number in range(newcomers):
            queue.put(f"new-{step}-{number}", "small", "host", f"new-{step}-{number}")
        if len(held) == slots:
            user = held.pop(0)
            queue.ended(user, "big" if user == "patient" else "small", "host")
        held.append(queue.pop() or "")
    assert "patient" in held or queue.waiting().get("big", 0) < 10
