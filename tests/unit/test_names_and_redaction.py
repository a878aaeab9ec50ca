"""Names that stay below the destination, and secrets that stay out of sight."""

import json
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_service.names import check_name, check_url, derive_name
from export_service.redaction import fingerprint, redact, without_secrets
from export_service.sealing import new_key, seal, unseal


@given(st.text(max_size=60) | st.lists(st.sampled_from(["..", ".", "a", "", "b c", "C:"]), max_size=5).map("/".join))
def test_a_name_that_passes_stays_below_the_destination(name: str) -> None:
    try:
        checked = check_name(name)
    except ValueError:
        return
    assert not checked.startswith("/")
    assert not {"..", ".", ""} & set(checked.split("/"))
    assert PurePosixPath("/root", checked).is_relative_to("/root")
    assert check_name(checked) == checked


@pytest.mark.parametrize(
    "name", ["", "..", "a/../b", "/etc/passwd", "C:\\x", "a\\b", "a//b", "a/", "a\x00b", "_report.csv", "x" * 1025]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_name(name)


def test_derived_names_and_urls() -> None:
    assert derive_name("https://h/dir/a%20b.csv?x=1") == "a b.csv"
    for bad in ("nope", "ftp://h/x", "https://u@h/x", "https:///x", "https://h/a b", "https://h:port/"):
        with pytest.raises(ValueError, match=r"\w"):
            check_url(bad)


@given(st.text(min_size=1, max_size=2048))
def test_a_redacted_token_shows_at_most_twelve_characters_of_a_long_one(token: str) -> None:
    assert len(redact(token)) <= 26
    assert len(token) < 32 or token not in redact(token)
    assert len(fingerprint(token)) == 12


def test_the_guides_form_of_a_token() -> None:
    assert redact("AAAAKgAA" + "x" * 600 + "AAAA") == "AAAAKgAA...********...AAAA"
    assert redact("short") == "********"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=4, max_size=40))
def test_a_bodys_token_is_removed_json_or_not(token: str) -> None:
    body = json.dumps({"jobId": "j", "taskToken": token, "z": 1}, ensure_ascii=False)
    cleaned = json.loads(without_secrets(body))
    assert cleaned == {"jobId": "j", "taskToken": "(redacted)", "z": 1}
    inner = json.dumps({"Type": "Notification", "Message": json.dumps({"taskToken": "plain-secret"})})
    assert "plain-secret" not in without_secrets(inner)
    assert "cut-off" not in without_secrets('{"taskToken": "cut-off')


def test_queries_and_credentials_of_urls_are_removed() -> None:
    text = without_secrets('see https://u:p@h/a?X-Amz-Signature=abc&b=1 and "s3://b/k?v=2", fine')
    assert text == 'see https://(redacted)@h/a?(redacted) and "s3://b/k?(redacted)", fine'


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"], exclude_characters="#?"), min_size=1, max_size=80))
def test_sealing_is_undone_only_with_the_same_key_and_url(query: str) -> None:
    key = new_key()
    bare, sealed = seal("https://h/path?" + query, key)
    assert bare == "https://h/path"
    assert unseal(bare, sealed, key) == "https://h/path?" + query
    for url, other in ((bare, new_key()), ("https://evil/path", key), (bare, None)):
        with pytest.raises(ValueError, match=r"sealed"):
            unseal(url, sealed, other)
