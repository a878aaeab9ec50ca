"""Which jobs a rebuild puts back: those whose tables are not what their events say, not those that have moved meanwhile."""

from export_service.history.actions import rebuild
from export_service.messages import JobEvent, Outcome
from export_service.snapshots import of
from export_service.verify.evidence import Raw
from tests.property.test_fold import Tables, planned, results, run

EVENTS: list[JobEvent] = [planned(1, 3), results(1, {0: Outcome.SUCCEEDED}), results(1, {1: Outcome.SUCCEEDED})]


def changelog(tables: Tables) -> dict[bytes, Raw]:
    assert tables.state is not None
    found = {b"j": tables.state.to_bytes()} | {
        f"j/{number}".encode(): each.to_bytes() for (_, number), each in tables.shards.items()
    }
    return {key: Raw("jobs-changelog", 0, 0, 0, key, value) for key, value in found.items()}


def test_wrong_entries_are_put_back_and_newer_ones_are_not() -> None:
    read, newer, older = run(EVENTS[:2]), run(EVENTS), run(EVENTS[:1])
    assert read.state is not None
    for entries, do in ((changelog(read), False), (changelog(older), True), ({}, True), (changelog(newer), False)):
        action = rebuild("j", read.state, read.shards, entries, of("j", read.state), rebuilt=False, end=2)
        assert action.do is do
        assert ("moved since" in action.why) == (entries == changelog(newer))
