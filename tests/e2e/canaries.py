"""Secrets that can be told from everything else, and a search for them in everything that a world's people can read."""

import asyncio
import base64
import json
import uuid
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from aiokafka.admin import AIOKafkaAdminClient

from export_service.settings import load
from streams.topics import topics as manifest
from tests.e2e.conftest import World
from tests.kafka import records

_KEPT = ("taskToken", "sealKey")
"""Attributes of an ATTEMPT# item: the one place where they may be."""


def forms(secret: str) -> set[bytes]:
    """Ways to write it: as it is, percent-encoded, escaped in JSON, in hexadecimal, in base64 wherever it begins."""
    raw = secret.encode()
    found = {raw, quote(secret, safe="").encode(), json.dumps(secret)[1:-1].encode(), raw.hex().encode()}
    found |= {"".join(form.format(byte) for byte in raw).encode() for form in ("%{:02x}", "%{:02X}", "\\u{:04x}")}
    for before in range(3):
        whole = base64.b64encode(bytes(before) + raw)
        # Without the characters that what stands before and behind has a part in.
        found |= {middle := whole[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6], middle.translate(_URL_SAFE)}
    return found


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


class Canaries:
    """`new` makes one. A part that was cut off somewhere is found too, if the canary's heart is in it."""

    def __init__(self) -> None:
        self._forms: dict[str, set[bytes]] = {}

    def new(self, name: str, form: str = "{}") -> str:
        heart = f"cnry{uuid.uuid4().hex}"
        self._forms[name] = forms(heart)
        return form.format(heart)

    def token(self, name: str) -> str:
        """As Step Functions makes them."""
        return self.new(name, "AAAAKgAAAAIAAAAAAAAAA{}/+w==AAAABBBBCCCC")

    def know(self, name: str, secret: str) -> None:
        self._forms[name] = forms(secret)

    def found(self, places: Iterable[tuple[str, bytes]]) -> set[str]:
        """`secret in place`, for each."""
        return {
            f"{name} in {place}"
            for place, content in places
            for name, written in self._forms.items()
            if any(form in content for form in written)
        }


def everywhere(world: World, planted: Iterable[bytes] = ()) -> Iterator[tuple[str, bytes]]:
    """Every record but the planted ones, every file of the world (logs, state, temporary and exported files, with their names),
    every item but what the ledger is for."""
    yield from asyncio.run(_records(world, set(planted)))
    for path in world.folder.rglob("*"):
        name = path.relative_to(world.folder).as_posix()
        yield f"the file {name}", name.encode() + (path.read_bytes() if path.is_file() else b"")
    for page in world.table.get_paginator("scan").paginate(TableName=world.table_name):
        for item in page["Items"]:
            sort = item["sk"]["S"]
            kept = _KEPT if sort.startswith("ATTEMPT#") else ()
            yield f"the item {sort}", str({name: value for name, value in item.items() if name not in kept}).encode()


async def _records(world: World, planted: set[bytes]) -> list[tuple[str, bytes]]:
    bootstrap = world.env["EXPORT_KAFKA_BOOTSTRAP_SERVERS"]
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        mine = (world.env["EXPORT_TOPICS_PREFIX"], world.env["EXPORT_APP_ID"] + "-")
        topics = [topic for topic in await admin.list_topics() if topic.startswith(mine)]
    finally:
        await admin.close()
    assert len(topics) == len(manifest(load()).manifest()), topics
    found = await records(bootstrap, *topics)
    return [(f"a record of {record.topic}", _whole(record)) for record in found if record.value not in planted]


def _whole(record: Any) -> bytes:
    headers = b"\n".join(name.encode() + b"=" + (value or b"") for name, value in record.headers)
    return b"\n".join((record.key or b"", record.value or b"", headers))
