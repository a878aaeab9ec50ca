"""Defects of faust-streaming and aiokafka that we work around (docs/decisions/0002). A test here fails when upstream mends its defect:
then the workaround it names may go. P1 has its probe in `test_app.py`."""

import asyncio
import importlib.metadata
import inspect
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import faust
import pytest
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.group import HeartbeatRequest
from faust.exceptions import ImproperlyConfigured
from faust.stores.memory import Store as MemoryStore
from faust.stores.rocksdb import RocksDBOptions
from faust.stores.rocksdb import Store as RocksDBStore
from faust.tables.recovery import Recovery, ServiceStopped
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

MIB = 1024 * 1024


@pytest.fixture
async def app(tmp_path: Path) -> faust.App:
    """Faust as it comes."""
    logging.getLogger("faust").setLevel(logging.ERROR)
    return faust.App("probe", broker="kafka://localhost:1", datadir=tmp_path)


@pytest.fixture
async def thread(app: faust.App) -> AsyncIterator[Any]:
    """Of Faust's consumer; never started."""
    made = cast(Any, app._new_consumer())._thread
    yield made
    made.thread_loop.close()


async def test_p5_and_p19_defaults_wait_without_limit_and_serve_tables(app: faust.App) -> None:
    assert app.conf.stream_wait_empty
    assert app.conf.web_enabled
    assert app.conf.web_tables_enabled


async def test_p9_no_idempotent_producer_outside_exactly_once(app: faust.App) -> None:
    producer = cast(Any, app.transport.create_producer())
    assert "enable_idempotence" not in producer._settings_default() | producer._settings_extra()


async def test_p15_a_request_that_times_out_ends_the_recovery_as_if_the_worker_had_been_stopped(app: faust.App) -> None:
    """Without a word, and nothing recovers or starts any more. `RecoveryWatch.watch` ends the worker."""
    recovery = Recovery(app, app.tables)
    with pytest.raises(ServiceStopped):
        await recovery._wait(asyncio.sleep(60), timeout=0.01)
    assert not recovery.should_stop


def test_p16_rocksdb_forgets_its_cache_when_it_is_opened_again(tmp_path: Path) -> None:
    options = RocksDBOptions(block_cache_size=64 * MIB, use_rocksdict=True)
    caches = []
    for _ in range(2):
        db = options.open(tmp_path / "probe.db")
        caches.append(db.property_int_value("rocksdb.block-cache-capacity"))
        cast(Any, db).close()
    assert caches == [64 * MIB, 8 * MIB]
    assert RocksDBOptions.block_cache_size == 2048 * MIB


async def test_p16_rocksdb_is_not_closed_and_changes_the_tables_options(app: faust.App) -> None:
    options: dict[str, Any] = {"driver": "rocksdict"}
    table = cast(Any, app.Table("probe", partitions=1))
    app.conf.tabledir.mkdir(parents=True, exist_ok=True)
    store = RocksDBStore("rocksdb:", app, table, table_name="probe", options=options)
    assert options == {}
    db = cast(Any, store._db_for_partition(0))
    await store.stop()
    assert db.get(b"key") is None, "it would raise if it were closed"
    db.close()


async def test_p16_rocksdb_writes_before_the_changelog_has_it() -> None:
    """`ConfirmedStore` writes when the broker has confirmed."""
    assert "db.put(key, value)" in inspect.getsource(RocksDBStore._set)


async def test_p17_a_memory_store_forgets_what_a_standby_followed(app: faust.App) -> None:
    """So standby tables need RocksDB."""
    store: Any = MemoryStore("memory://", app, cast(Any, app.Table("probe", partitions=2)))
    store.data.update(mine=1, followed=2)
    store._key_partition.update(mine=0, followed=1)
    await store.on_recovery_completed({TP("changelog", 0)}, {TP("changelog", 1)})
    assert store.data == {"mine": 1}


async def test_p21_debug_logs_have_keys_and_values() -> None:
    assert "k=%r v=%r" in inspect.getsource(driver.ThreadedProducer.publish_message)


async def test_p22_a_table_cannot_be_added_late(app: faust.App) -> None:
    cast(Any, app.tables)._tables_finalized.set()
    with pytest.raises(RuntimeError, match="Too late"):
        app.Table("late", partitions=1)


def test_p23_faust_holds_click_back() -> None:
    assert any(need.replace(" ", "").startswith("click<8.4") or "<8.4" in need for need in _needs("faust-streaming", "click"))


def _needs(distribution: str, name: str) -> list[str]:
    return [need for need in importlib.metadata.requires(distribution) or [] if need.startswith(name)]


async def test_p25_a_fetch_waits_for_a_second_and_a_half(thread: Any) -> None:
    made = thread._create_worker_consumer(thread.transport)
    assert made._fetch_max_wait_ms == 1500
    made._closed = True  # it was never started, and would complain that nobody stopped it


async def test_p26_resuming_the_flow_empties_the_queue_of_changelog_records(app: faust.App) -> None:
    """With it, records of a standby are gone, while their offsets count as read. `ChangelogQueue` keeps them."""
    queue = cast(Any, app.tables).changelog_queue
    app.flow_control.resume()
    queue.put_nowait("a record that a standby was sent")
    app.flow_control.resume()
    assert queue.empty()


def test_p27_heartbeats_and_commits_do_not_say_which_static_member_they_are_of() -> None:
    """`be_static` sends newer versions of both."""
    assert cast(Any, HeartbeatRequest)._CLASSES[-1].API_VERSION < 3
    assert cast(Any, OffsetCommitRequest)._CLASSES[-1].API_VERSION < 7


async def test_p28_an_error_of_the_group_waits_for_a_caller_that_faust_is_not() -> None:
    """`tell_errors` hears of it at once."""
    fetch = inspect.getsource(driver.AIOKafkaConsumerThread._fetch_records)
    assert "check_errors" not in inspect.getsource(driver) + fetch


async def test_p29_a_session_timeout_above_a_request_timeout_is_refused(app: faust.App, thread: Any) -> None:
    app.conf.broker_session_timeout, app.conf.broker_request_timeout = 100.0, 90.0
    with pytest.raises(ImproperlyConfigured):
        thread._create_worker_consumer(thread.transport)
