"""Properties of the two guards of sources, against oracles of their own."""

import posixpath
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from urllib.parse import unquote

from hypothesis import assume, example, given
from hypothesis import strategies as st

from export_service.addresses import may_connect
from export_service.names import check_url
from export_service.prefixes import is_below

V4 = st.ip_addresses(v=4).map(IPv4Address)
SPECIAL = [
    IPv4Network(each)
    for each in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
    )
]
PRIVATE = st.sampled_from(SPECIAL).flatmap(lambda network: st.ip_addresses(network=network)).map(IPv4Address)


def inside(prefix: str, address: IPv4Address, shift: int = 0) -> str:
    return str(IPv6Address(int(IPv6Address(prefix)) | int(address) << shift))


@given(V4)
def test_a_translated_address_is_judged_as_what_it_stands_for(address: IPv4Address) -> None:
    assert may_connect(str(address)) == may_connect(inside("::ffff:0:0", address)) == may_connect(inside("64:ff9b::", address))


@given(PRIVATE, st.sampled_from([("::ffff:0:0", 0), ("64:ff9b::", 0), ("::", 0), ("2002::", 80), ("2001::", 64)]))
def test_a_private_address_is_refused_whatever_it_is_in(address: IPv4Address, form: tuple[str, int]) -> None:
    assert not may_connect(str(address))
    assert not may_connect(inside(form[0], address, form[1]))


@given(V4 | PRIVATE, st.sampled_from(SPECIAL))
def test_allowing_a_network_changes_the_answer_for_its_addresses_only(address: IPv4Address, network: IPv4Network) -> None:
    assert may_connect(str(address), [network]) == (may_connect(str(address)) or address in network)


@given(st.text())
def test_no_text_is_an_error(text: str) -> None:
    assert may_connect(text) in (True, False)


PIECES = [".evil.org", "evil.org", "@", ":", ":443", ":8", "/", "//", "..", ".", "%2e%2e", "%2F", "\\", "?", "#", ";", "team", "X"]
GOOD = "https://good.example/team/a/b"


@given(st.lists(st.tuples(st.integers(0, len(GOOD)), st.sampled_from(PIECES)), max_size=6))
@example([(GOOD.index("a/b"), "..")])
def test_nothing_inserted_into_an_allowed_url_leads_elsewhere(insertions: list[tuple[int, str]]) -> None:
    url = GOOD
    for at, piece in insertions:
        url = url[:at] + piece + url[at:]
    try:
        check_url(url)
    except ValueError:
        assume(False)
    if is_below(url, ["https://good.example/team/"]):
        matched = re.match(r"https://good\.example(?::0*443|:)?(/[^?#]*)", url, re.IGNORECASE)
        assert matched
        assert posixpath.normpath(unquote(matched[1]).replace("\\", "/")).startswith("/team")
        assert "/teammates" not in url
