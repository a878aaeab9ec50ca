"""The rules for Faust that can be seen without a broker (docs/decisions/0002)."""

import asyncio
from pathlib import Path

import pytest
from faust.types import TP
from faust.types.enums import ProcessingGuarantee

from export_service.failures import SettingsError
from export_service.settings import Settings, load
from streams import app as apps
from streams.ack_window import AckWindow, Place
from streams.app import ExportApp, Generations, create_app, raw_topic, require_compiled_iterator


def ignore(_: BaseException) -> None:
    pass


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(worker={"state_dir": tmp_path})


@pytest.fixture
async def app(settings: Settings) -> ExportApp:
    return create_app(settings, "tally", AckWindow(10, ignore), ignore)


async def test_guarantee_web_and_discovery_are_as_decided(app: ExportApp) -> None:
    conf = app.conf
    guarantee: object = conf.processing_guarantee
    assert guarantee is ProcessingGuarantee.AT_LEAST_ONCE
    assert not conf.web_enabled
    assert not conf.web_tables_enabled
    assert (conf.stream_wait_empty, conf.topic_allow_declare, conf.topic_disable_leader) == (False, False, True)
    assert conf.consumer_auto_offset_reset == "earliest"
    assert app.conf.id == "export-tally"


async def test_topics_carry_raw_bytes(app: ExportApp) -> None:
    topic = raw_topic(app, "results")
    assert (topic.key_type, topic.value_type, topic.key_serializer, topic.value_serializer) == (bytes, bytes, "raw", "raw")


def test_the_compiled_iterator_is_here_and_required(monkeypatch: pytest.MonkeyPatch) -> None:
    require_compiled_iterator()
    monkeypatch.setattr("faust.streams._CStreamIterator", None)
    with pytest.raises(SettingsError, match="NO_CYTHON"):
        require_compiled_iterator()


def test_importing_the_apps_module_makes_no_app() -> None:
    assert not [name for name, value in vars(apps).items() if isinstance(value, ExportApp)]


async def test_a_commit_takes_the_windows_position_and_never_fausts(app: ExportApp) -> None:
    consumer = app._new_consumer()
    app.window.begin(Place("results", 0), 31)
    first = await app.window.admit(Place("results", 0), 31)
    second = await app.window.admit(Place("results", 0), 32)
    third = await app.window.admit(Place("results", 0), 33)
    assert first and second and third
    tp = TP("results", 0)
    # P1: Faust itself would commit 34 here, past 31, because nothing is committed yet.
    second.done()
    third.done()
    assert consumer._filter_committable_offsets([tp]) == {tp: 31}
    first.done()
    assert consumer._filter_committable_offsets([tp]) == {tp: 34}
    assert list(consumer._filter_tps_with_pending_acks()) == [tp]


async def test_faust_still_commits_past_a_gap_so_the_seam_is_still_needed(app: ExportApp) -> None:
    """Fails when upstream mends P1 (faust-streaming/faust #606): then WindowConsumer may go."""
    from faust.transport.drivers.aiokafka import Consumer

    plain = app._new_consumer()
    tp = TP("results", 0)
    plain._acked[tp] = [5, 6]
    assert Consumer._new_offset(plain, tp) == 7, "nothing was said of offsets below 5"


async def test_a_generation_that_we_missed_makes_the_window_forget(app: ExportApp) -> None:
    generations = Generations(app)
    place = Place("results", 0)
    app.consumer_generation_id = 1
    await generations.assigned(None, {TP("results", 0)})
    app.window.begin(place, 5)
    kept = await app.window.admit(place, 5)
    app.consumer_generation_id = 2
    await generations.assigned(None, {TP("results", 0)})
    assert kept is not None
    assert not kept.lost
    app.consumer_generation_id = 4
    await generations.assigned(None, {TP("results", 0)})
    assert kept.lost


async def test_a_crash_of_faust_reaches_the_worker(settings: Settings) -> None:
    told: list[BaseException] = []
    app = create_app(settings, "plan", AckWindow(10, told.append), told.append)
    await app.crash(RuntimeError("consumer thread died"))
    assert [str(error) for error in told] == ["consumer thread died"]
    await asyncio.sleep(0)


async def test_a_revoke_that_could_not_wait_for_the_broker_gives_up_its_records(app: ExportApp) -> None:
    """A recovery would put the changelog's older value over theirs; so they come again."""

    class Consumer:
        async def commit(self) -> None:
            committed.append(app.window.position(Place("results", 0)))

    committed: list[int | None] = []
    app.revoke_seconds = 0.01
    app.window.begin(Place("results", 0), 5)
    entry = await app.window.admit(Place("results", 0), 5)
    await app._consumer_wait_empty(Consumer(), None)
    assert entry is not None
    assert entry.lost
    assert committed == [5]
    assert not app.window.places()


async def test_a_role_without_tables_keeps_its_records_over_a_revoke(app: ExportApp) -> None:
    class Consumer:
        async def commit(self) -> None:
            pass

    app.window.begin(Place("results", 0), 5)
    entry = await app.window.admit(Place("results", 0), 5)
    await app._consumer_wait_empty(Consumer(), None)
    assert entry is not None
    assert not entry.lost


async def test_what_a_standby_was_sent_stays_when_the_flow_resumes(app: ExportApp) -> None:
    queue = app.tables.changelog_queue  # type: ignore[attr-defined]
    app.flow_control.resume()
    queue.put_nowait("a record")
    app.flow_control.resume()
    assert queue.qsize() == 1
    app.flow_control.suspend()
    app.flow_control.clear()
    assert queue.empty()
