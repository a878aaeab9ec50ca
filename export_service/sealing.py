"""Keeps URL queries out of the topics: a query may be a signature, that is a bearer secret.

A job has a random key, kept in the ledger with its token (DynamoDB only). Records carry the query encrypted under that key
(AES-256-GCM), bound to the rest of the URL, so that a sealed query cannot be moved to another host.
"""

import base64
import os
from urllib.parse import urlsplit, urlunsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12


def new_key() -> bytes:
    return AESGCM.generate_key(bit_length=256)


def without_query(url: str) -> str:
    """The URL as people, logs and topics may see it."""
    if "?" not in url and "#" not in url:
        return url
    scheme, netloc, path, _, _ = urlsplit(url)
    return urlunsplit((scheme, netloc, path, "", ""))


def seal(url: str, key: bytes) -> tuple[str, str | None]:
    """(URL without query, sealed query or None)."""
    bare = without_query(url)
    if bare == url or not (query := urlsplit(url).query):
        return bare, None
    nonce = os.urandom(_NONCE_BYTES)
    sealed = nonce + AESGCM(key).encrypt(nonce, query.encode(), bare.encode())
    return bare, base64.urlsafe_b64encode(sealed).decode()


def unseal(bare: str, sealed: str | None, key: bytes | None) -> str:
    """The whole URL again. Raises ValueError when the key is missing or does not fit."""
    if sealed is None:
        return bare
    if key is None:
        raise ValueError(f"the query of {bare} is sealed and its job has no key in the ledger")
    raw = base64.urlsafe_b64decode(sealed)
    try:
        query = AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], bare.encode())
    except InvalidTag:
        raise ValueError(f"the sealed query of {bare} does not open with its job's key") from None
    return f"{bare}?{query.decode()}"
