"""Confirmed publishing: one aiokafka producer a worker, and a future per record that is done when the broker has it.

Faust's own `topic.send()` returns before delivery, and a failed delivery is a log line after which the offset still commits.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError

from export_service import metric_names as names
from export_service.samples import Sample
from export_service.settings import Settings
from streams.kafka_client import MAX_RECORD_BYTES, connection, unreachable
from streams.topics import short_names, topics

_STOP_SECONDS = 3.0
"""To send what is queued, at the end."""


class _Out:
    __slots__ = ("bytes", "confirmed")

    def __init__(self) -> None:
        self.bytes = self.confirmed = 0


class KafkaPublisher:
    """The Publisher port. `async with` starts and stops the producer; stopping sends what is queued."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        self._out: dict[str, _Out] = {}
        self._unconfirmed, self._heard = 0, 0.0

    async def __aenter__(self) -> "KafkaPublisher":
        producer = AIOKafkaProducer(
            **connection(self._settings),
            acks="all",
            compression_type="lz4",
            # Records of one loop turn leave together; 2 ms more make a result's changelog and outputs share requests.
            linger_ms=2,
            max_batch_size=256 * 1024,
            max_request_size=MAX_RECORD_BYTES,
            request_timeout_ms=int(self._settings.kafka.request_timeout_seconds * 1000),
        )
        try:
            await producer.start()
        except KafkaError as error:
            await producer.stop()
            raise unreachable(self._settings, error) from None
        self._producer = producer
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._producer is not None:
            # A broker that is away keeps what is queued for as long as a request may take. Nobody counts on it: it is not confirmed.
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await self._producer.stop()

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: Mapping[str, bytes] | None = None,
    ) -> "asyncio.Future[Any]":
        assert self._producer is not None, "used outside `async with`"
        try:
            if partition is not None and partition not in await self._producer.partitions_for(topic):
                await self._producer.client.force_metadata_update()  # the topic has grown
            sent: asyncio.Future[Any] = await self._producer.send(
                topic, value, key=key, partition=partition, headers=list(headers.items()) if headers else None
            )
        except KafkaError as error:
            raise unreachable(self._settings, error) from None
        if (out := self._out.get(topic)) is None:
            out = self._out[topic] = _Out()
        out.bytes += len(key or b"") + len(value or b"")
        if not self._unconfirmed:
            self._heard = time.monotonic()
        self._unconfirmed += 1
        confirmed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        sent.add_done_callback(partial(self._settle, confirmed, out))
        return confirmed

    @property
    def silent_seconds(self) -> float:
        """While some are not confirmed: since the broker last confirmed one."""
        return time.monotonic() - self._heard if self._unconfirmed else 0.0

    def samples(self) -> Iterator[Sample]:
        short = {spec.name: name for name, spec in short_names(topics(self._settings)).items()}
        for topic, out in self._out.items():
            label = (short.get(topic, "other"),)
            yield Sample(names.RECORDS_OUT, out.confirmed, label)
            yield Sample(names.BYTES_OUT, out.bytes, label)
        yield Sample(names.UNCONFIRMED, self._unconfirmed)
        yield Sample(names.UNCONFIRMED_SECONDS, self.silent_seconds)

    def _settle(self, confirmed: "asyncio.Future[Any]", out: _Out, sent: "asyncio.Future[Any]") -> None:
        self._unconfirmed -= 1
        if not sent.cancelled() and sent.exception() is None:
            out.confirmed += 1
            self._heard = time.monotonic()
        if confirmed.done():
            return
        if sent.cancelled():
            confirmed.cancel()
        elif (error := sent.exception()) is None:
            confirmed.set_result(sent.result())
        elif isinstance(error, KafkaTimeoutError) or (isinstance(error, KafkaError) and error.retriable):
            # aiokafka tried until `request_timeout_ms`: whether the broker has the record is not known.
            confirmed.set_exception(unreachable(self._settings, error))
        else:
            confirmed.set_exception(error)
