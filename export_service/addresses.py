"""Which addresses a file may be fetched from: public ones, and those of networks that the operator allowed.

Pure. `connectors/curl.py` asks with the address that it is about to connect to.
"""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network
_Address = IPv4Address | IPv6Address
_NAT64 = IPv6Network("64:ff9b::/96")
_NOT_PUBLIC: tuple[Network, ...] = (
    # What `is_global` answers for these depends on the version of Python.
    IPv6Network("2002::/16"),  # 6to4
    IPv6Network("2001::/32"),  # Teredo
    IPv6Network("64:ff9b:1::/48"),  # NAT64 of a site's own
    IPv6Network("3fff::/20"),  # documentation
    IPv6Network("fec0::/10"),  # site-local, of old
    IPv4Network("192.0.0.0/24"),  # protocol assignments; Oracle's metadata service
    IPv4Network("192.88.99.0/24"),  # relays of 6to4
    # Azure's platform service, for the machine itself. It looks public.
    IPv4Network("168.63.129.16/32"),
)


def parse_networks(text: str) -> tuple[Network, ...]:
    """Networks from comma-separated CIDRs. Raises ValueError with all mistakes."""
    found: list[Network] = []
    mistakes = []
    for part in filter(None, map(str.strip, text.split(","))):
        try:
            found.append(ip_network(part))
        except ValueError as error:
            mistakes.append(f"{error}; write networks as 10.0.0.0/8 or fd00::/8, comma separated")
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return tuple(found)


def may_connect(address: str, allowed: Sequence[Network] = ()) -> bool:
    """Whether every address that `address` stands for is public or allowed. False for what is no address at all."""
    try:
        given = ip_address(address)
    except ValueError:
        return False
    return all(_is_public(each) or any(each in network for network in allowed) for each in _meant(given))


def _is_public(address: _Address) -> bool:
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _meant(address: _Address) -> Iterator[_Address]:
    """The addresses that a packet to this one may reach: an IPv6 address can hold one or two of IPv4."""
    if isinstance(address, IPv4Address):
        yield address
    elif address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif address in _NAT64:
        yield IPv4Address(int(address) & 0xFFFFFFFF)
    else:
        yield address
        if address.sixtofour is not None:
            yield address.sixtofour
        yield from address.teredo or ()
