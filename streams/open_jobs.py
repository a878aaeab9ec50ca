"""Reads `snapshots` for the watch: a share of its partitions, always from the beginning, because what an open job was is all it has."""

from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from pydantic import ValidationError

from agents.watch import Watch
from export_service.backoff import until_available
from export_service.messages import JobSnapshot
from export_service.settings import Settings
from streams.kafka_client import connection, unreachable
from streams.membership import be_static, instance_id

_TICK_SECONDS = 1.0


class _Forget(ConsumerRebalanceListener):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_partitions_revoked(self, _: Any) -> None:
        self._watch.forget()

    def on_partitions_assigned(self, _: Any) -> None:
        pass


async def watch_open_jobs(settings: Settings, topic: str, watch: Watch, log: Any) -> None:
    """Until it is cancelled. The group never commits: after each rebalance its members begin at the beginning."""

    async def read() -> None:
        consumer = AIOKafkaConsumer(
            **connection(settings),
            group_id=f"{settings.app_id}-watch",
            group_instance_id=instance_id(settings.kafka.group_instance_id, "watch"),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=int(settings.kafka.session_timeout_seconds * 1000),
        )
        try:
            await consumer.start()
            be_static(consumer._coordinator)
            consumer.subscribe([topic], listener=_Forget(watch))
            while True:
                for records in (await consumer.getmany(timeout_ms=int(_TICK_SECONDS * 1000))).values():
                    for record in records:
                        _see(watch, record.value)
                if await _caught_up(consumer):
                    await watch.tick()
        except (TimeoutError, KafkaError) as error:
            raise unreachable(settings, error) from None
        finally:
            watch.forget()
            await consumer.stop()

    while True:
        await until_available(read, log)


async def _caught_up(consumer: AIOKafkaConsumer) -> bool:
    """Before that, an old snapshot may look like an open job."""
    for place in consumer.assignment():
        end = consumer.highwater(place)
        if end is None or await consumer.position(place) < end:
            return False
    return bool(consumer.assignment())


def _see(watch: Watch, value: bytes | None) -> None:
    try:
        watch.see(JobSnapshot.model_validate_json(value or b""))
    except ValidationError:
        return  # the snapshot role puts it among the dead letters
