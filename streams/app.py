"""A Faust app for one role, hardened by thin seams: `create_app(settings, role, ...)` gives a fresh one, there is no global.

What differs from a plain Faust app, and why (P-numbers: docs/decisions/0002-faust-rules.md):
- offsets come from our ack window, not from Faust's acks, which commit past gaps (P1, P4);
- a role is a consumer group of its own, so that adding download workers never rebalances the tally's tables;
- nothing is awaited without a deadline on revoke (P5); partitions that stay keep their records under way;
- a step that raises stops the process instead of losing the record (P3, P4).
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import faust
from aiokafka.errors import KafkaError
from faust.auth import SASLCredentials, SSLCredentials
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP
from mode.supervisors import CrashingSupervisor

from export_service.failures import SettingsError
from export_service.metrics import Metrics
from export_service.settings import Settings
from streams.ack_window import AckWindow, Place
from streams.bundles import BUNDLES, Bundle, BundleScheduler
from streams.kafka_client import tls
from streams.membership import Hearing, be_static, instance_id, tell_errors
from streams.patience import Patience
from streams.recovery import ChangelogQueue, RecoveryWatch
from streams.restore import BulkRecovery
from tables.confirmed import ConfirmedTable

REVOKE_SECONDS = 5.0
"""How long a rebalance waits for records under way in a role with tables: they need a broker round trip, not a download.
Without it, the next owner would fold those records again (harmless, but slow)."""

_CHANGELOG_BUFFER = 256
"""Records."""
LOGGER = logging.getLogger("faust.app")
"""Faust's services log their starting and stopping under their module's name; under Faust's own it is as quiet as the rest of it."""


class NothingRead(dict[TP, int | None]):
    """Faust's note of what was delivered, always blank.

    Faust drops a record below this note, and sets the note after a wait in which a seek may have moved the consumer back: then it
    drops what was to be read again. Repeats are the ack window's business.
    """

    def __getitem__(self, _: TP) -> None:
        return None


class ConsumerThread(AIOKafkaConsumerThread):
    """Fetches with patience, watches recoveries, and is a static member of its group."""

    logger = LOGGER

    async def _fetch_records(self, *args: Any, **options: Any) -> Any:
        records = await super()._fetch_records(*args, **options)
        cast(ExportApp, self.app).recovery.fetched(records)
        return records

    async def _seek_wait(self, consumer: Any, partitions: Mapping[TP, int]) -> None:
        cast(ExportApp, self.app).recovery.sought(self.app, partitions)
        await super()._seek_wait(consumer, partitions)

    async def on_start(self) -> None:
        await super().on_start()
        consumer = self._ensure_consumer()
        Patience(consumer._fetcher)
        coordinator = consumer._coordinator
        be_static(coordinator)
        app = cast(ExportApp, self.app)
        app.hearing = Hearing(coordinator)
        # This is the consumer's thread, with a loop of its own.
        tell_errors(coordinator, lambda error: app.loop.call_soon_threadsafe(app.on_failure, error))


class WindowConsumer(Consumer):
    """Commits what the ack window says."""

    logger = LOGGER
    window: AckWindow

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._read_offset = NothingRead()
        self.scheduler = BundleScheduler(self.app.tables)

    def _to_message(self, tp: TP, record: Any) -> Any:
        if isinstance(record, list):
            return Bundle.of(tp, record, self.app.consumer_generation_id)
        return super()._to_message(tp, record)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        for place in self.window.places():
            tp = TP(place.topic, place.partition)
            if topics is None or tp in topics or tp.topic in topics:
                yield tp

    def _new_offset(self, tp: TP) -> int | None:
        return self.window.position(Place(tp.topic, tp.partition))


class WindowTransport(Transport):
    Consumer = WindowConsumer


class ExportApp(faust.App):
    """One role's app. `window` belongs to its one agent."""

    logger = LOGGER
    window: AckWindow
    recovery: RecoveryWatch
    on_failure: Callable[[BaseException], None]
    hearing: Hearing | None = None
    revoke_seconds = 0.0

    def current(self, generation: int) -> bool:
        """Whether records that were fetched in this generation of the group may still be handled."""
        return generation == self.consumer_generation_id and self.flow_control.is_active()

    def owns(self) -> bool:
        """Whether nobody else can have this worker's partitions now, so that it may write into their changelogs."""
        return self.hearing is not None and self.hearing.fresh()

    def _new_transport(self) -> WindowTransport:
        return WindowTransport(self.conf.broker_consumer, self)

    def _new_consumer(self) -> WindowConsumer:
        consumer = cast(WindowConsumer, super()._new_consumer())
        consumer.window = self.window
        return consumer

    async def _consumer_wait_empty(self, consumer: Any, logger: Any) -> None:  # noqa: ARG002
        # Faust calls this on revoke and on stop, with buffers cleared and flow suspended: only admitted records are left.
        emptied = await self.window.empty(self.revoke_seconds)
        await consumer.commit()
        if self.revoke_seconds and not emptied:
            # The recovery that follows may put older values over writes that are not confirmed yet: their records come again.
            self.forget()

    def forget(self) -> None:
        """All that is under way: its records come again."""
        self.window.keep_only([])
        for table in self.tables.values():
            cast(ConfirmedTable, table).drop()

    async def _on_partitions_revoked(self, revoked: set[TP]) -> None:
        self.recovery.interrupted()
        await super()._on_partitions_revoked(revoked)

    async def _on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        try:
            await self.recovery.assigned(self, [tp for tp in assigned if tp.topic in self.tables.changelog_topics])
        except KafkaError as error:
            return await self.crash(error)
        return await super()._on_partitions_assigned(assigned, generation_id)

    def on_rebalance_end(self) -> None:
        super().on_rebalance_end()
        self.recovery.ended()

    async def crash(self, reason: BaseException) -> None:
        self.on_failure(reason)
        await super().crash(reason)


class Generations:
    """Keeps the window in step with the group: what is under way in a partition that stays, stays."""

    def __init__(self, app: ExportApp) -> None:
        self._app, self._last = app, 0

    async def assigned(self, _: Any, assigned: set[TP], **__: Any) -> None:
        generation = self._app.consumer_generation_id
        # A generation without us means that somebody else may have worked on our partitions: nothing of ours counts.
        missed = generation != self._last + 1
        self._last = generation
        if missed:
            self._app.forget()
        else:
            self._app.window.keep_only([Place(tp.topic, tp.partition) for tp in assigned])


def require_compiled_iterator() -> None:
    """Raises SettingsError without Faust's compiled stream iterator: its Python twin acks stale records unprocessed (P10)."""
    from faust import streams

    if getattr(streams, "_CStreamIterator", None) is None:
        raise SettingsError(
            "Faust's compiled stream iterator is not loaded (NO_CYTHON is set, or faust-streaming came without its wheel); "
            "unset NO_CYTHON or install a faust-streaming wheel for this Python"
        )


def create_app(
    settings: Settings,
    role: str,
    window: AckWindow,
    on_failure: Callable[[BaseException], None],
    metrics: Metrics | None = None,
) -> ExportApp:
    """A Faust app in the consumer group `<app_id>-<role>`."""
    require_compiled_iterator()
    app = ExportApp(
        f"{settings.app_id}-{role}",
        broker=["kafka://" + server for server in settings.kafka.bootstrap_servers.split(",")],
        broker_credentials=_credentials(settings),
        datadir=settings.worker.state_dir / role,
        store=settings.tally.store,
        processing_guarantee="at_least_once",
        broker_commit_interval=1.0,
        broker_commit_every=500,
        broker_session_timeout=settings.kafka.session_timeout_seconds,
        broker_heartbeat_interval=min(3.0, settings.kafka.session_timeout_seconds / 3),
        broker_request_timeout=max(60.0, settings.kafka.session_timeout_seconds),
        consumer_group_instance_id=instance_id(settings.kafka.group_instance_id, role),
        # A static member that comes back is given its old assignment, with the URL it had then; Faust asserts that they are the same.
        canonical_url=f"http://{role}",
        consumer_auto_offset_reset="earliest",
        # Who leads the group while the broker answers with a part of its topics gives the others to nobody, until it looks again.
        consumer_metadata_max_age_ms=30_000,
        stream_buffer_maxsize=BUNDLES,
        stream_wait_empty=False,
        stream_publish_on_commit=False,
        table_standby_replicas=settings.tally.standby_replicas,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=settings.topics.partitions,
        agent_supervisor=CrashingSupervisor,
        web_enabled=False,
        web_tables_enabled=False,
        worker_redirect_stdouts=False,
        autodiscover=False,
    )
    app.window, app.on_failure = window, on_failure
    app.recovery = RecoveryWatch(role, settings.worker.recovery_stall_seconds, metrics or Metrics(), on_failure)

    app.tables._changelog_queue = ChangelogQueue(  # type: ignore[attr-defined]  # where Faust would make its own
        maxsize=_CHANGELOG_BUFFER, flow_control=app.flow_control, clear_on_resume=True
    )
    app.tables._recovery = restoring = BulkRecovery(app, app.tables, beacon=app.tables.beacon, loop=app.tables.loop)  # type: ignore[attr-defined]
    restoring.settings = settings

    async def completed(*_: Any, **__: Any) -> None:
        await app.recovery.completed(app)

    app.on_rebalance_complete.connect(completed, weak=False)
    generations = Generations(app)
    app.on_partitions_assigned.connect(generations.assigned, weak=False)  # type: ignore[arg-type]  # keyword-only in Faust
    return app


def raw_topic(app: ExportApp, name: str, **options: Any) -> Any:
    """A topic whose records reach the agent as bytes: what does not decode is ours to put among the dead letters."""
    return app.topic(name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", **options)


def _credentials(settings: Settings) -> SASLCredentials | SSLCredentials | None:
    kafka = settings.kafka
    context = tls(settings)
    if kafka.security_protocol.startswith("SASL") and kafka.sasl_password:
        options: Mapping[str, Any] = {"mechanism": kafka.sasl_mechanism, "ssl_context": context}
        return SASLCredentials(username=kafka.sasl_username, password=kafka.sasl_password.get_secret_value(), **options)
    return SSLCredentials(context) if context else None
