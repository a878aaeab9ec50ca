"""The RocksDB store on its own: what is on disk is the changelog up to the stored offset, with the same options on every open."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.structs import RecordMetadata
from faust.streams import _current_event
from faust.types import TP

from export_service.settings import Settings, load
from streams.role import FaustRole, confirmed_table
from tables import rocksdb
from tables.confirmed import ConfirmedTable
from tables.rocksdb import ConfirmedStore
from tests.unit.test_app import ignore

TOPIC = "export-tally-jobs-changelog"


class Message:
    def __init__(self, partition: int) -> None:
        self.partition, self.topic = partition, "results"


class Event:
    """What Faust puts into its context while a record is iterated."""

    def __init__(self, partition: int) -> None:
        self.message = Message(partition)


def iterating(partition: int) -> None:
    event = Event(partition)
    _current_event.set(cast(Any, lambda: event))  # Faust keeps a weak reference there


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(worker={"state_dir": tmp_path}, tally={"store": "rocksdb://"})


def table(settings: Settings) -> ConfirmedTable:
    role = FaustRole(settings, "tally", ignore)
    made = confirmed_table(role, cast(Any, None), "jobs", TOPIC)
    role.app.conf.tabledir.mkdir(parents=True, exist_ok=True)
    return made


def store(settings: Settings) -> ConfirmedStore:
    return table(settings).disk


async def test_a_write_is_read_at_once_and_on_disk_when_it_is_confirmed(settings: Settings) -> None:
    here = store(settings)
    iterating(1)
    here.put(1, b"a", b"one")
    here.put(1, b"a", b"two")
    assert here[b"a"] == b"two"
    disk = here._db_for_partition(1)
    assert disk.get(b"a") is None
    here.confirmed(TP(TOPIC, 1), 7, b"a", b"one", 0)
    assert (disk.get(b"a"), here.persisted_offset(TP(TOPIC, 1))) == (b"one", 7)
    assert here[b"a"] == b"two"
    here.confirmed(TP(TOPIC, 1), 8, b"a", b"two", 0)
    assert (disk.get(b"a"), here.persisted_offset(TP(TOPIC, 1))) == (b"two", 8)
    assert not here._unconfirmed[1]


async def test_what_was_not_confirmed_is_gone_after_a_crash_and_after_a_revoke(settings: Settings) -> None:
    first = table(settings)
    iterating(0)
    first.disk._db_for_partition(0)
    first.disk.put(0, b"kept", b"1")
    first.disk.confirmed(TP(TOPIC, 0), 0, b"kept", b"1", 0)
    first.disk.put(0, b"lost", b"1")
    await first.disk.stop()  # nothing of what waits is written
    second = table(settings)
    assert second.disk[b"kept"] == b"1"
    assert b"lost" not in second.disk
    second.disk.put(0, b"lost", b"1")
    second.disk.revoke_partitions(second, {TP(TOPIC, 0)})
    second.disk.confirmed(TP(TOPIC, 0), 1, b"lost", b"1", 0)
    assert not second.disk._dbs, "a late confirmation opens nothing of a partition that went away"
    assert b"lost" not in second.disk


async def test_a_confirmation_from_before_a_revoke_says_nothing_of_what_was_written_since(settings: Settings) -> None:
    here = table(settings)
    iterating(0)
    here.disk.put(0, b"a", b"one")
    before = here.disk.opened(0)
    here.disk.revoke_partitions(here, {TP(TOPIC, 0)})
    here.disk.put(0, b"a", b"one")
    here.disk.put(0, b"a", b"two")
    here.disk._db_for_partition(0)
    here.disk.confirmed(TP(TOPIC, 0), 7, b"a", b"one", before)
    here.disk.confirmed(TP(TOPIC, 0), 8, b"a", b"one", here.disk.opened(0))
    assert here.disk[b"a"] == b"two", "two is not confirmed yet"


async def test_a_disk_that_fails_ends_the_worker_and_is_written_no_more(settings: Settings) -> None:
    here = table(settings)
    iterating(0)
    here.disk._db_for_partition(0)
    failures: list[BaseException] = []
    here.app.on_failure = failures.append  # type: ignore[attr-defined]

    class Full:
        def get(self, _: bytes) -> None:
            return None

        def write(self, _: object) -> None:
            raise OSError("IO error: No space left on device")

        def close(self) -> None:
            return

    kept, here.disk._dbs[0] = here.disk._dbs[0], Full()
    for number, key in enumerate((b"a", b"b")):
        here.disk.put(0, key, b"1")
        sent: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        sent.set_result(RecordMetadata(TOPIC, 0, TP(TOPIC, 0), number, 0, 0, 0))
        here._keep((0, key, b"1"), here.disk.opened(0), sent)
        here.disk._dbs[0] = kept
    assert [str(failure) for failure in failures] == ["IO error: No space left on device"]
    assert here.disk.persisted_offset(TP(TOPIC, 0)) is None, "a later offset would hide the write that is missing"


class Publisher:
    """Of which nothing is confirmed before the test says so."""

    def __init__(self) -> None:
        self.sent: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []

    async def send(self, *record: Any, partition: int) -> "asyncio.Future[Any]":
        self.sent.append(((*record, partition), asyncio.get_running_loop().create_future()))
        return self.sent[-1][1]


def in_memory(settings: Settings) -> tuple[ConfirmedTable, Publisher]:
    here, publisher = (
        table(settings.model_copy(update={"tally": settings.tally.model_copy(update={"store": "memory://"})})),
        Publisher(),
    )
    here.publisher = cast(Any, publisher)
    return here, publisher


def as_bytes(_: bytes, value: str) -> bytes:
    return value.encode()


async def test_of_several_values_only_the_last_is_encoded_kept_and_sent(settings: Settings) -> None:
    here, publisher = in_memory(settings)
    iterating(2)
    here.put(b"a", "one", as_bytes)
    here.put(b"a", "two", as_bytes)
    assert here.get(b"a") is None
    assert here.unsent[b"a"].value == "two"
    await here.flush()
    assert here[b"a"] == b"two"
    assert not here.unsent
    assert [record for record, _ in publisher.sent] == [(TOPIC, b"a", b"two", 2)]


async def test_a_table_is_written_in_one_way(settings: Settings) -> None:
    here, _ = in_memory(settings)
    iterating(0)
    with pytest.raises(TypeError, match="`put`"):
        here[b"a"] = b"1"
    with pytest.raises(TypeError, match="`put`"):
        del here[b"a"]


async def test_a_flush_is_confirmed_when_all_before_it_is(settings: Settings) -> None:
    """A record that comes again after a rebalance finds its values made, and must not be acked before they are with the broker."""
    here, publisher = in_memory(settings)
    iterating(0)
    here.put(b"a", "one", as_bytes)
    first = await here.flush()
    assert await here.flush() == first == [future for _, future in publisher.sent]
    first[0].set_result(None)
    await asyncio.sleep(0)
    assert await here.flush() == []


async def test_what_was_not_sent_goes_with_its_partition(settings: Settings) -> None:
    here, publisher = in_memory(settings)
    for partition in range(3):
        iterating(partition)
        here.put(b"%d" % partition, "x", as_bytes)
    places = [TP(here.changelog_topic.get_topic_name(), partition) for partition in range(3)]
    await here.on_rebalance(assigned={places[0], places[2]}, revoked=set(), newly_assigned={places[2]})
    assert list(here.unsent) == [b"0"]
    here.drop()
    assert await here.flush() == []
    assert not publisher.sent


async def test_an_older_confirmation_never_replaces_what_a_recovery_has_read(settings: Settings) -> None:
    here = store(settings)
    iterating(0)
    here._db_for_partition(0).put(b"a", b"newer")
    here.set_persisted_offset(TP(TOPIC, 0), 20)
    here.put(0, b"a", b"older")
    here.confirmed(TP(TOPIC, 0), 10, b"a", b"older", 0)
    assert (here[b"a"], here.persisted_offset(TP(TOPIC, 0))) == (b"newer", 20)


async def test_the_options_hold_on_the_first_open_and_after_each_reopen(settings: Settings) -> None:
    for _ in range(3):
        here = store(settings)
        caches = [here._db_for_partition(partition).property_int_value("rocksdb.block-cache-capacity") for partition in (0, 1)]
        assert caches == [rocksdb.CACHE_BYTES, rocksdb.CACHE_BYTES]
        for partition in (0, 1):
            (options,) = sorted(here.partition_path(partition).glob("OPTIONS-*"))[-1:]
            text = options.read_text()
            assert f"max_open_files={rocksdb._OPEN_FILES}\n" in text
            assert f" write_buffer_size={rocksdb._WRITE_BUFFER_BYTES}\n" in text
            assert "filter_policy=bloomfilter" in text
        # Closed, not left to the garbage collector: the next one opens the same folder at once, while `here` is still referenced.
        await here.stop()


async def test_a_folder_of_another_changelog_is_not_read(settings: Settings) -> None:
    mine = store(settings)
    mine._db_for_partition(0)
    mine.set_persisted_offset(TP(TOPIC, 0), 5)
    await mine.stop()
    role = FaustRole(settings, "tally", ignore)
    other = confirmed_table(role, cast(Any, None), "jobs", "another-tally-jobs-changelog").disk
    assert other.persisted_offset(TP("another-tally-jobs-changelog", 0)) is None
    await other.stop()


@pytest.mark.parametrize("kept", ["memory://", "rocksdb://"])
async def test_a_changelog_is_restored_in_its_order(settings: Settings, kept: str) -> None:
    here = table(settings.model_copy(update={"tally": settings.tally.model_copy(update={"store": kept})}))
    place = TP(TOPIC, 1)

    def record(offset: int, key: bytes, value: bytes | None) -> SimpleNamespace:
        return SimpleNamespace(offset=offset, key=key, value=value)

    here.restore(
        place, [record(3, b"a", b"1"), record(4, b"b", b"1"), record(5, b"c", b"1"), record(7, b"a", b"2"), record(8, b"b", None)]
    )
    here.restore(place, [record(9, b"c", None), record(10, b"c", b"3")])
    iterating(1)
    assert {key: here.get(key) for key in (b"a", b"b", b"c")} == {b"a": b"2", b"b": None, b"c": b"3"}
    if kept == "rocksdb://":
        assert here.disk.persisted_offset(place) == 10
