"""Which dead letters are meant, what may be sent again, and what is sent."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from export_service.failures import ExportError
from export_service.letters import Filter, Kept, Original, as_object, faster, refusal, sending, setting
from export_service.messages import DeadLetter, OperatorAction
from export_service.readers import read_batch
from export_service.requests import Policy

AT = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)
JOB = "550e8400-e29b-41d4-a716-446655440000"
POLICY = Policy(None, "file:./exports/{jobId}/", ())
PLANNED = {
    "type": "JobPlanned",
    "job": {"jobId": JOB, "exportId": "e", "userId": "u", "requestedAt": AT.isoformat(), "destination": "d"},
}
SQS = {"jobId": JOB, "exportId": "e", "userId": "u", "files": [{"url": "https://h/a"}]}


def kept(body: object, source: str = "export.results:1:7", key: str | None = JOB, **more: object) -> Kept:
    text = body if isinstance(body, str) else json.dumps(body)
    letter = DeadLetter(source=source, reason="totalTasks: Field required", key=key, body=text, at=AT, **more)
    return Kept(0, 3, AT, key.encode() if key else None, letter, "export.")


def action(name: str, stage: str, of: datetime = AT, id_: str = "1", who: str = "me@here") -> OperatorAction:
    fields = {"id": id_, "action": name, "subject": "0:3", "of": of, "stage": stage, "who": who, "at": AT}
    return OperatorAction.model_validate(fields)


def original(body: Mapping[str, object], key: str | None = JOB) -> Original:
    return Original(key.encode() if key else None, json.dumps(body).encode(), {"trace": b"1"})


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (Filter(), True),
        (Filter(("0:3",)), True),
        (Filter(("0:4",)), False),
        (Filter(topic="results"), True),
        (Filter(topic="tasks"), False),
        (Filter(job=JOB), True),
        (Filter(job="other"), False),
        (Filter(reason="FIELD req"), True),
        (Filter(reason="HttpNotFound"), False),
        (Filter(since=AT), True),
        (Filter(since=AT + timedelta(seconds=1)), False),
        (Filter(state="open"), True),
        (Filter(state="redriven"), False),
    ],
)
def test_filters(wanted: Filter, taken: bool) -> None:
    assert wanted.takes(kept(PLANNED)) is taken


def test_the_state_is_the_last_action_that_was_done_to_this_very_letter() -> None:
    letter = kept(PLANNED)
    begun, done = action("redrive", "begun"), action("redrive", "done")
    states = {
        "open": [],
        "redriving": [begun],
        "redriven": [begun, done],
        "discarded": [begun, done, action("discard", "done", id_="2")],
    }
    for state, actions in states.items():
        assert replace(letter, actions=actions).state == state
    assert replace(letter, actions=[begun, action("redrive", "dropped")]).state == "open"
    assert replace(letter, actions=[begun, done, action("redrive", "begun", id_="2")]).state == "redriving"
    # One that broke off, and was dealt with afterwards.
    assert replace(letter, actions=[begun, action("discard", "done", id_="2")]).state == "discarded"
    sent_again = [action("redrive", stage, id_="2") for stage in ("begun", "done")]
    assert replace(letter, actions=[begun, *sent_again]).state == "redriven"
    assert letter.is_of(begun)
    assert not letter.is_of(action("redrive", "done", of=AT - timedelta(days=1))), "the topic was made again: another letter's"
    assert not letter.is_of(action("rewind", "done"))


def test_a_letter_is_sent_once_unless_it_is_asked_for_again() -> None:
    letter = kept(PLANNED)
    assert refusal(letter, again=False) is None
    for actions, says in (([action("redrive", "begun")], "is not confirmed"), ([action("discard", "done")], "was discarded")):
        ended = replace(letter, actions=actions)
        assert says in (refusal(ended, again=False) or "")
        assert refusal(ended, again=True) is None


def test_of_two_people_the_first_one_sends() -> None:
    letter, mine, theirs = kept(PLANNED), action("redrive", "begun", id_="mine"), action("discard", "done", id_="theirs")
    assert faster(letter, mine, [mine, theirs]) is None
    assert faster(letter, mine, [theirs, mine]) is theirs
    known = replace(letter, actions=[theirs])
    assert faster(known, mine, [theirs, mine]) is None, "--again, and nobody else since"


def test_the_record_itself_is_sent_with_key_and_headers() -> None:
    # Its step of a later version can read what an earlier one could not.
    body = PLANNED | {"totalTasks": 3}
    sent = sending(kept(body), original(body), None, POLICY)
    assert (sent.topic, sent.key, sent.value, sent.headers) == (
        "export.results",
        JOB.encode(),
        json.dumps(body).encode(),
        {"trace": b"1"},
    )
    assert sent.notes == ()


def test_what_its_step_cannot_take_is_refused_with_field_and_way_out() -> None:
    with pytest.raises(
        ExportError, match=r"dead letter 0:3: results still cannot take it \(JobPlanned.totalTasks: Field required\)"
    ):
        sending(kept(PLANNED), original(PLANNED), None, POLICY)
    with pytest.raises(ExportError, match="no topic of ours"):
        sending(kept(PLANNED, source="other.results:0:1"), None, None, POLICY)


def test_an_edited_record_goes_under_the_key_of_its_job() -> None:
    sent = sending(kept(PLANNED, key="odd"), original(PLANNED, "odd"), setting(["totalTasks=3", "job.userId=u 2"]), POLICY)
    assert (sent.key, sent.notes) == (JOB.encode(), ("edited", "key is its job's"))
    assert json.loads(sent.value)["totalTasks"] == 3
    assert json.loads(sent.value)["job"]["userId"] == "u 2"


@pytest.mark.parametrize(
    ("change", "says"), [("job", "PATH=VALUE"), ("job.userId.deep=1", "job.userId has no place 'deep'"), ("files.0=1", None)]
)
def test_changes_that_are_no_changes(change: str, says: str | None) -> None:
    body = b'{"job": {"userId": "u"}, "files": []}'
    with pytest.raises(ExportError, match=says or "files has no place '0'"):
        setting([change])(body)
    with pytest.raises(ExportError, match="is not JSON"):
        setting(["a=1"])(b"half {")


def test_a_list_has_places() -> None:
    assert json.loads(setting(["files.1.size=12"])(b'{"files": [{}, {"size": 1}]}')) == {"files": [{}, {"size": 12}]}


def test_of_a_record_that_is_gone_the_letter_is_sent_unless_it_lacks_secrets() -> None:
    task = {"index": 0, "url": "https://h/a", "name": "a"}
    batch = {"type": "TaskBatch", "jobId": JOB, "attempt": 1, "destination": "d", "tasks": [task]}
    letter = kept(batch, source="export.tasks:0:1", key=f"{JOB}:0")
    sent = sending(letter, None, None, POLICY)
    assert (sent.key, sent.headers) == (f"{JOB}:0".encode(), {})
    assert "its topic does not have the record any more" in sent.notes[0]
    assert read_batch(sent.value).tasks[0].name == "a"
    hidden = kept(batch | {"tasks": [task | {"url": "https://h/a?(redacted)"}]}, source="export.tasks:0:1", key=f"{JOB}:0")
    with pytest.raises(ExportError, match="secrets were left out"):
        sending(hidden, None, None, POLICY)
    assert sending(hidden, None, setting(["tasks.0.url=https://h/b"]), POLICY).notes[1] == "edited"


def test_the_original_is_compared_with_the_letter() -> None:
    secret = {"taskToken": "t" * 20}
    assert original(secret).is_of(kept({"taskToken": "(redacted)"}))
    assert not original({"other": 1}).is_of(kept(PLANNED)), "the topic was made again"


def test_a_message_goes_to_the_queue_without_its_token() -> None:
    letter = kept(SQS | {"taskToken": "(redacted)"}, source="sqs:export-jobs", job_id=JOB)
    sent = sending(letter, None, None, POLICY)
    assert (sent.topic, sent.key, json.loads(sent.value)) == (None, JOB.encode(), SQS)
    assert "nobody is told" in sent.notes[0]
    with pytest.raises(ExportError, match="would be rejected again: exportId"):
        sending(kept(SQS | {"exportId": ""}, source="sqs:q"), None, None, POLICY)


def test_what_is_shown_has_no_secrets() -> None:
    shown = as_object(kept({"url": "https://h/a?sig=canary", "taskToken": "canary"}), body=True)
    assert "canary" not in json.dumps(shown)
    assert (shown["id"], shown["state"], shown["source"]) == ("0:3", "open", "export.results:1:7")
