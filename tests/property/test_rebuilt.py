"""Tables that are wrong in any way are right again after JobRebuilt, also if that comes several times, or a crash keeps half of it."""

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from export_service.messages import JobEvent, Outcome
from export_service.rebuilt import JobRebuilt, put_back, read
from export_service.shards import Shard
from tests.property.test_fold import EXAMPLES, HISTORIES, Tables, histories, opened, planned, results, run


def apply(tables: Tables, record: JobEvent | JobRebuilt, offset: int) -> None:
    if not isinstance(record, JobRebuilt):
        tables.apply(record, offset)
        return
    record = JobRebuilt.model_validate_json(record.to_bytes())
    step = put_back(tables.state, record, offset, lambda *key: tables.shards.get(key, Shard()))
    tables.state = step.state if step.changed else tables.state
    tables.shards = {**tables.shards, **step.shards}
    tables.completions = [*tables.completions, *([offset] if step.completes else [])]


def rebuilt(events: list[JobEvent]) -> JobRebuilt:
    right = run(events)
    assert right.state is not None
    return JobRebuilt.of("j", right.state, right.shards, len(events) - 1, "run")


@st.composite
def broken(draw: st.DrawFn, events: list[JobEvent]) -> Tables:
    """Tables that have lost, or kept from earlier, any part."""
    tables = run(events)
    old = [run(events[:number]) for number in range(1, len(events))]
    tables.state = draw(st.sampled_from([None, tables.state, *(each.state for each in old)]))
    for key in list(tables.shards):
        kept = draw(st.sampled_from([None, tables.shards[key], *(each.shards.get(key) for each in old)]))
        tables.shards = {name: shard for name, shard in tables.shards.items() if name != key} | ({key: kept} if kept else {})
    return tables


@given(st.one_of(histories(), st.sampled_from(list(HISTORIES.values()))), st.data())
@settings(max_examples=3 * EXAMPLES)
def test_wrong_tables_are_right_again_whatever_crashes(events: list[JobEvent], data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(events)), label="rebuilt after so many events")
    assume(run(events[:place]).state is not None)
    records: list[JobEvent | JobRebuilt] = [*events[:place], rebuilt(events[:place]), *events[place:]]
    expected = Tables()
    for offset, record in enumerate(records):
        if not isinstance(record, JobRebuilt):
            expected.apply(record, offset)

    tables = data.draw(broken(events[:place]), label="what the tables had")
    versions = [(tables.state, tables.shards)]
    for offset, record in enumerate(records[place:], start=place):
        apply(tables, record, offset)
        versions.append((tables.state, tables.shards))
    assert tables.summary() == expected.summary()

    # A crash keeps one version of the state, another of the shards, and replays from the older one or earlier.
    state, shards = data.draw(st.integers(0, len(versions) - 1)), data.draw(st.integers(0, len(versions) - 1))
    tables.state, tables.shards = versions[state][0], versions[shards][1]
    for offset in range(place + min(state, shards), len(records)):
        apply(tables, records[offset], offset)
    assert tables.summary() == expected.summary()
    assert tables.state is not None
    assert expected.state is not None
    assert tables.state.completed_at == expected.state.completed_at


def test_an_end_that_the_tables_did_not_know_is_said_and_one_they_knew_is_not() -> None:
    events: list[JobEvent] = [planned(1, 2), results(1, {0: Outcome.SUCCEEDED, 1: Outcome.FAILED})]
    for known, said in ((run(events), []), (run(events[:1]), [2]), (Tables(), [2])):
        known.completions = []
        apply(known, rebuilt(events), 2)
        assert known.completions == said
    again: list[JobEvent] = [*events, opened(2), results(2, {1: Outcome.SUCCEEDED})]
    behind = run(again[:2])
    behind.completions = []
    apply(behind, rebuilt(again), 4)
    assert behind.completions == [4], "that of the second attempt"


@given(st.one_of(histories(), st.sampled_from(list(HISTORIES.values()))), st.data())
@settings(max_examples=EXAMPLES)
def test_tables_that_are_right_stay_so_whenever_a_record_comes_and_whatever_crashes(
    events: list[JobEvent], data: st.DataObject
) -> None:
    place = data.draw(st.integers(1, len(events)), label="events that the record has")
    late = data.draw(st.integers(place, len(events)), label="events before it")
    assume(run(events[:place]).state is not None)
    records: list[JobEvent | JobRebuilt] = [*events[:late], rebuilt(events[:place]), *events[late:]]
    expected, tables = Tables(), Tables()
    versions = [(tables.state, tables.shards)]
    for offset, record in enumerate(records):
        if not isinstance(record, JobRebuilt):
            expected.apply(record, offset)
        apply(tables, record, offset)
        versions.append((tables.state, tables.shards))
    assert tables.summary() == expected.summary()
    state, shards = data.draw(st.integers(0, len(versions) - 1)), data.draw(st.integers(0, len(versions) - 1))
    begin = data.draw(st.integers(0, min(state, shards)), label="read again from")
    tables.state, tables.shards = versions[state][0], versions[shards][1]
    for offset in range(begin, len(records)):
        apply(tables, records[offset], offset)
    assert tables.summary() == expected.summary()


def test_a_record_that_an_event_has_overtaken_takes_nothing_out() -> None:
    events: list[JobEvent] = [planned(1, 3), results(1, {0: Outcome.SUCCEEDED}), results(1, {1: Outcome.SUCCEEDED})]
    tables = run(events)
    apply(tables, rebuilt(events[:2]), 3)
    assert tables.summary() == run(events).summary(), "what was read had not the last event"
    # Also when it is read again, after something that has moved the state and no shard.
    apply(tables, opened(2), 4)
    apply(tables, rebuilt(events[:2]), 3)
    assert tables.shards == run(events).shards
    apply(tables, results(1, {2: Outcome.SUCCEEDED}), 5)
    assert tables.completions == [5]


def test_an_end_is_said_again_if_a_crash_came_before_it_was_confirmed() -> None:
    events: list[JobEvent] = [planned(1, 1), results(1, {0: Outcome.SUCCEEDED})]
    tables = Tables()
    for _ in range(2):
        apply(tables, rebuilt(events), 2)
    assert tables.completions == [2, 2]
    apply(tables, opened(2), 3)
    tables.completions = []
    apply(tables, rebuilt(events), 2)
    assert tables.completions == [], "a later attempt has the answer"


def test_what_cannot_be_put_back_is_no_record() -> None:
    right = json.loads(rebuilt([planned(1, 2)]).to_bytes())
    assert isinstance(read(json.dumps(right).encode()), JobRebuilt)
    wrongs: list[dict[str, object]] = [{"shards": {"1.0": "AgAA"}}, {"shards": {"x": ""}}, {"state": {}}, {"v": 2}]
    for wrong in wrongs:
        with pytest.raises(ValidationError):
            read(json.dumps(right | wrong).encode())
