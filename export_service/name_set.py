"""A set of names that may be millions, in 10 to 20 bytes each; Python's own takes 100."""

import hashlib
from collections import defaultdict

_BYTES, _BUCKET = 8, 2
_REST = _BYTES - _BUCKET


class NameSet:
    """Keeps eight bytes of a hash instead of the name: in a list of five million one in 10^6 has a false match."""

    def __init__(self) -> None:
        self._buckets: defaultdict[bytes, bytearray] = defaultdict(bytearray)

    def add(self, name: str) -> bytes | None:
        """The eight bytes; None if the name was there already."""
        digest = hashlib.blake2b(name.encode(), digest_size=_BYTES).digest()
        bucket, rest = self._buckets[digest[:_BUCKET]], digest[_BUCKET:]
        at = bucket.find(rest)
        while at > 0 and at % _REST:
            at = bucket.find(rest, at + 1)  # that was the end of one and the beginning of the next
        if at >= 0:
            return None
        bucket += rest
        return digest
