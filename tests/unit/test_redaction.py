"""Bodies on their way to the dead letters: no token, no query, no password, however they were written; and all else as it was."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_service.redaction import body_without_secrets, names_token, without_secrets

SECRET = "canary-0123456789abcdef"


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"taskToken": SECRET}),
        json.dumps({"TASK_TOKEN": SECRET}),
        json.dumps({"a": [{"taskToken": [SECRET, {"b": SECRET}]}]}),
        '{"task\\u0054oken": "' + SECRET + '"}',
        '{"taskToken": "' + SECRET + '", "taskToken": null}',
        json.dumps({"Type": "Notification", "Message": json.dumps({"Message": json.dumps({"taskToken": SECRET})})}),
        '{"taskToken": "' + SECRET,
        '{"Message": "{\\"taskToken\\": \\"' + SECRET + '\\", \\"x\\": 1}"',
        "{'taskToken': '" + SECRET + "'}",
        "taskToken=" + SECRET + "&x=1",
        "taskToken: " + SECRET,
        '{"taskToken": "a\\"' + SECRET + '", broken',
        json.dumps({"url": f"https://h/a?sig={SECRET}"}),
        '{"url": "https://h/a\\u003fsig=' + SECRET + '"}',
        json.dumps({"url": f"https://h/a b'c?sig={SECRET} x"}),
        json.dumps({"manifestUrl": f"h/a?sig={SECRET}"}),
        f'{{"url": "https://h/a?sig={SECRET}',
        f"https://me:{SECRET}@h/x",
        f"https://me:a@{SECRET}@h/x",
        f"https://me:a/{SECRET}@h/x",
        '{"x": "https:\\/\\/me:' + SECRET + '@h"}',
        '{"deep": ' + "[" * 50_000 + f'"https://h/a?sig={SECRET}"',
    ],
    ids=range(22),
)
def test_no_spelling_of_a_secret_survives(body: str) -> None:
    cleaned = body_without_secrets(body)
    assert "canary" not in cleaned
    assert "(redacted)" in cleaned
    assert body_without_secrets(cleaned) == cleaned


def test_a_known_token_is_hidden_under_any_name_but_a_short_one_is_not_torn_out_of_words() -> None:
    body = json.dumps({"taskToken": SECRET, "other": f"<{SECRET}>", SECRET: 1, "n": 5})
    cleaned = json.loads(body_without_secrets(body, SECRET))
    assert cleaned == {"taskToken": "(redacted)", "other": "<(redacted)>", "(redacted)": 1, "n": 5}
    assert json.loads(body_without_secrets('{"taskToken": "e", "name": "there"}', "e"))["name"] == "there"


@given(
    st.recursive(st.none() | st.integers() | st.text(max_size=20), lambda x: st.lists(x) | st.dictionaries(st.text(max_size=5), x))
)
def test_a_body_without_secrets_is_unchanged(value: object) -> None:
    body = json.dumps(value, indent=1)
    if "://" not in body and "oken" not in body:
        assert body_without_secrets(body) == body


def test_a_token_of_step_functions_is_known_where_nothing_says_that_it_is_one() -> None:
    assert without_secrets("it was AAAAKgAAAAIAAAAAAAAAAebfqJhREcanary+/w== twice") == "it was (redacted) twice"
    for harmless in ("AAAAKgAA...********...AAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="):
        assert without_secrets(harmless) == harmless


def test_half_a_surrogate_pair_stays_an_escape_that_can_be_sent() -> None:
    cleaned = body_without_secrets('{"a": "\\ud800", "taskToken": "x"}')
    assert json.loads(cleaned.encode()) == {"a": "\ud800", "taskToken": "(redacted)"}


def test_our_own_sentences_are_not_mistaken_for_secrets() -> None:
    sentence = "taskToken: must be a string of 1 to 2048 characters; known are http, https, s3 (why?)"
    assert without_secrets(sentence) == sentence
    assert not names_token("taskTokenCount")
