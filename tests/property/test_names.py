"""The quick look at plain names and URLs lets nothing pass that a close look refuses, or would change."""

from hypothesis import given
from hypothesis import strategies as st

from export_service import names
from export_service.names import SCHEMES, check_name, check_url, examine_name, examine_url

plain_names = st.from_regex(names._PLAIN_NAME, fullmatch=True)
plain_urls = st.from_regex(names._PLAIN_URL, fullmatch=True)
near = st.text(st.sampled_from("aZ09._-/~%\\: é\x00_report.jsonl"), max_size=300)


@given(plain_names | near)
def test_names(name: str) -> None:
    assert _verdict(lambda: check_name(name)) == _verdict(lambda: examine_name(name))


@given(plain_urls | near.map("http://h/".__add__) | near.map("https://".__add__))
def test_urls(url: str) -> None:
    for schemes in (SCHEMES, ("https",)):
        assert _verdict(lambda schemes=schemes: check_url(url, schemes)) == _verdict(
            lambda schemes=schemes: examine_url(url, schemes)
        )


def _verdict(check: object) -> object:
    assert callable(check)
    try:
        return check()
    except ValueError as error:
        return str(error)
