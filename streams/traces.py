"""Traces by OpenTelemetry: one a job, from the attributes of its SQS message over the headers of Kafka records to the answer.

A record that has `traceparent` gets a span in each step, from when it is handled until all that it caused is confirmed. Requests and
completions also get a span where they are sent: the first begins the trace where the message has none, the second has links to the spans
of the results that it was counted from, which meet there. Only imported when EXPORT_TRACES_ENABLED is true; endpoint, sampler and the like
are OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME).
"""

import asyncio
import os
import re
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, Tracer, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from export_service.carried import Carrying, carried
from export_service.failures import CallbackError
from export_service.ports import Publisher, TaskCallback
from streams.ack_window import Entry
from streams.steps import Handle, HandleMany, Incoming, Taken
from streams.topics import Topics

_PROPAGATOR = TraceContextTextMapPropagator()
_XRAY = re.compile(r"Root=1-([0-9a-f]{8})-([0-9a-f]{24});Parent=([0-9a-f]{16})(?:;Sampled=([01]))?")
"""`AWSTraceHeader`, which Step Functions gives its messages when X-Ray is on."""
_HEADERS = ("traceparent", "tracestate", "AWSTraceHeader")
_LINKS, _JOBS = 128, 1000
"""Most links of a span, as in OpenTelemetry; and jobs whose links are remembered. The newest of each."""
_NO_JOBS: Mapping[bytes | None, Mapping[str, bytes]] = MappingProxyType({})
_SEND_SECONDS = 3.0
"""For the last spans, at the end."""


def parent(headers: Iterable[tuple[str, bytes | None]]) -> Context | None:
    """The trace that headers name, None if they name none."""
    text = {name: value.decode("latin-1") for name, value in headers if name in _HEADERS and value is not None}
    if "traceparent" not in text and (seen := _XRAY.match(text.get("AWSTraceHeader", ""))):
        start, rest, span, sampled = seen.groups()
        text["traceparent"] = f"00-{start}{rest}-{span}-0{sampled or 0}"
    context = _PROPAGATOR.extract(text)
    return context if get_current_span(context).get_span_context().is_valid else None


def headers_of(span: Span) -> Mapping[str, bytes]:
    text: dict[str, str] = {}
    _PROPAGATOR.inject(text, set_span_in_context(span))
    return {name: value.encode() for name, value in text.items()}


class Traces:
    def __init__(self, tracer: Tracer, names: Topics) -> None:
        self._tracer, self._names = tracer, names
        self._jobs: ContextVar[Mapping[bytes | None, Mapping[str, bytes]]] = ContextVar("jobs", default=_NO_JOBS)
        self._met: OrderedDict[bytes, deque[SpanContext]] = OrderedDict()
        """Job -> the newest results of it that were counted here."""

    def step(self, handle: Handle) -> Handle:
        """The same step, with a span for each record that is part of a trace."""

        async def traced(record: Incoming, entry: Entry) -> None:
            with Carrying(self._begin(record, entry)):
                return await handle(record, entry)

        return traced

    def steps(self, handle: HandleMany) -> HandleMany:
        """The same. What is sent for a job goes on from the last of the job's records."""

        async def traced(taken: Sequence[Taken]) -> None:
            jobs = {record.key: headers for record, entry in taken if (headers := self._begin(record, entry))}
            token = self._jobs.set(jobs)
            try:
                return await handle(taken)
            finally:
                self._jobs.reset(token)

        return traced

    def _begin(self, record: Incoming, entry: Entry) -> Mapping[str, bytes] | None:
        """Headers of its span, None if it is in no trace."""
        context = parent(record.headers)
        if context is None:
            return None
        if record.place.topic == self._names.results.name and record.key is not None:
            self._meet(record.key, get_current_span(context).get_span_context())
        attributes = _attributes(record.place.topic, record.key) | {
            "messaging.destination.partition.id": str(record.place.partition),
            "messaging.kafka.offset": record.offset,
        }
        span = self._tracer.start_span(f"process {record.place.topic}", context, SpanKind.CONSUMER, attributes)
        # Not when `handle` returns: a batch of downloads is then about to begin.
        entry.when_done(span.end)
        return headers_of(span)

    def publisher(self, publisher: Publisher) -> Publisher:
        return _TracedPublisher(publisher, self)

    def callback(self, callback: TaskCallback) -> TaskCallback:
        return _TracedCallback(callback, self._tracer)

    def carried(self, key: bytes | None) -> Mapping[str, bytes] | None:
        return carried() or self._jobs.get().get(key)

    def begin_sending(self, topic: str, key: bytes | None, headers: Mapping[str, bytes]) -> Span | None:
        """A span for what begins or gathers a trace."""
        if topic not in (self._names.requests.name, self._names.completions.name):
            return None
        links = self._met.pop(key or b"", ()) if topic == self._names.completions.name else ()
        kept = [Link(context) for context in links]
        return self._tracer.start_span(f"send {topic}", parent(headers.items()), SpanKind.PRODUCER, _attributes(topic, key), kept)

    def _meet(self, job: bytes, context: SpanContext) -> None:
        self._met.setdefault(job, deque(maxlen=_LINKS)).append(context)
        self._met.move_to_end(job)
        if len(self._met) > _JOBS:
            self._met.popitem(last=False)


class _TracedPublisher:
    def __init__(self, publisher: Publisher, traces: Traces) -> None:
        self._publisher, self._traces = publisher, traces

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: Mapping[str, bytes] | None = None,
    ) -> "asyncio.Future[Any]":
        headers = headers or self._traces.carried(key)
        span = self._traces.begin_sending(topic, key, headers or {})
        if span is None:
            return await self._publisher.send(topic, key, value, partition=partition, headers=headers)
        headers = {**(headers or {}), **headers_of(span)}
        sent = await self._publisher.send(topic, key, value, partition=partition, headers=headers)
        sent.add_done_callback(lambda _: span.end())
        return sent


class _TracedCallback:
    def __init__(self, callback: TaskCallback, tracer: Tracer) -> None:
        self._callback, self._tracer = callback, tracer

    async def success(self, token: str, output: str) -> None:
        await self._call("SendTaskSuccess", self._callback.success(token, output))

    async def failure(self, token: str, error: str, cause: str) -> None:
        await self._call("SendTaskFailure", self._callback.failure(token, error, cause))

    async def heartbeat(self, token: str) -> None:
        await self._callback.heartbeat(token)

    async def _call(self, name: str, call: Any) -> None:
        # Not the exception itself, whose text may be long, or say more than a trace should know.
        span = self._tracer.start_span(name, parent((carried() or {}).items()), SpanKind.CLIENT)
        try:
            await call
        except CallbackError as error:
            span.set_status(StatusCode.ERROR, error.code)
            raise
        finally:
            span.end()


def _attributes(topic: str, key: bytes | None) -> dict[str, str | int]:
    job = {"export.job_id": key.decode("utf-8", "replace").partition(":")[0]} if key else {}
    return {"messaging.system": "kafka", "messaging.destination.name": topic, **job}


@asynccontextmanager
async def open_traces(names: Topics) -> AsyncIterator[Traces]:
    """Sends spans to where OTEL_EXPORTER_OTLP_ENDPOINT says, in the background; the last ones at the end."""
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "export-service")})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield Traces(provider.get_tracer("export-service"), names)
    finally:
        # A collector that is away must not hold up the end.
        await asyncio.to_thread(provider.force_flush, int(_SEND_SECONDS * 1000))
