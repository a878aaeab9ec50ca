"""Which addresses are public, and what the settings for it say of mistakes."""

import pytest

from export_service.addresses import may_connect, parse_networks

PRIVATE = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.255", "168.63.129.16"),
    *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1"),
    *("198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "64:ff9b::10.0.0.1", "64:ff9b:1::8.8.8.8"),
    *("100::1", "2001:db8::1", "2001:0:808:808::f7f7:f7f7", "2002:7f00:1::", "2002:808:808::", "3fff::1", "fc00::1"),
    *("fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert not may_connect(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
)
def test_what_is_public_is_not(address: str) -> None:
    assert may_connect(address)


def test_an_allowed_network_allows_itself_in_any_disguise_and_nothing_else() -> None:
    allowed = parse_networks("10.1.0.0/16, fd00::/8")
    assert all(may_connect(one, allowed) for one in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "fd00::1", "8.8.8.8"))
    assert not any(may_connect(one, allowed) for one in ("10.2.0.1", "127.0.0.1", "fc00::1", "169.254.169.254"))
    everything_of_ipv6 = parse_networks("::/0")
    assert may_connect("fe80::1", everything_of_ipv6)
    assert not any(
        may_connect(one, everything_of_ipv6) for one in ("::ffff:127.0.0.1", "2002:7f00:1::", "2001:0:808:808::80ff:fffe")
    )


def test_a_network_that_is_none_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8 has host bits set; write .*; 'lan' does not appear .*; write"):
        parse_networks("10.0.0.1/8,lan,127.0.0.0/8")
