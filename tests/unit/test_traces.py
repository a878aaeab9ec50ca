"""What a trace is read from, how much of it is remembered, and that nothing is there while it is off."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_current_span

from connectors.memory import MemoryPublisher, SystemClock
from export_service.carried import carried
from export_service.failures import CallbackThrottled
from export_service.settings import load
from streams.ack_window import AckWindow, Entry, Place
from streams.steps import Incoming, Taken
from streams.topics import topics
from streams.traces import Traces, parent
from tests.waiting import until

NAMES = topics(load())
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = [("traceparent", f"00-{TRACE}-{SPAN}-01".encode())]


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traces(spans: InMemorySpanExporter) -> Traces:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return Traces(provider.get_tracer("test"), NAMES)


def window_of(limit: int) -> AckWindow:
    def fatal(error: BaseException) -> None:
        raise error

    return AckWindow(limit, fatal)


async def entry(window: AckWindow, place: Place, offset: int = 0) -> Entry:
    if not window.knows(place):
        window.begin(place, offset)
    admitted = await window.admit(place, offset)
    assert admitted is not None
    return admitted


def incoming(place: Place, offset: int = 0, headers: Any = HEADERS) -> Incoming:
    return Incoming(place, offset, SystemClock().now(), b"job-1", b"{}", headers)


@pytest.mark.parametrize(
    ("name", "value", "sampled"),
    [
        ("traceparent", f"00-{TRACE}-{SPAN}-01", True),
        ("AWSTraceHeader", f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Sampled=1", True),
        ("AWSTraceHeader", f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Sampled=0", False),
    ],
)
def test_a_trace_is_read_from_either_header(name: str, value: str, sampled: bool) -> None:
    context = parent([("other", b"\xff"), (name, value.encode())])
    assert context is not None
    span = get_current_span(context).get_span_context()
    assert (f"{span.trace_id:032x}", f"{span.span_id:016x}", span.trace_flags.sampled) == (TRACE, SPAN, sampled)


@pytest.mark.parametrize("value", [None, b"", b"00-xyz-01", b"\xff\xfe", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01"])
def test_nonsense_is_no_trace(value: bytes | None) -> None:
    assert parent([("traceparent", value), ("AWSTraceHeader", value)]) is None


async def test_a_span_lasts_until_the_record_is_done_and_what_is_sent_meanwhile_carries_it(
    traces: Traces, spans: InMemorySpanExporter
) -> None:
    place, window, publisher = Place(NAMES.tasks.name, 0), window_of(10), MemoryPublisher()
    traced = traces.publisher(publisher)

    async def handle(record: Incoming, _: Entry) -> None:
        await traced.send(NAMES.results.name, record.key, b"{}")

    first = await entry(window, place)
    await traces.step(handle)(incoming(place), first)
    assert carried() is None
    assert not spans.get_finished_spans(), "its downloads go on"
    first.done()
    (span,) = spans.get_finished_spans()
    assert span.context is not None
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, SPAN)
    assert publisher.headers == [{"traceparent": f"00-{TRACE}-{span.context.span_id:016x}-01".encode()}]


async def test_a_record_without_a_trace_has_no_span_and_a_request_begins_one(traces: Traces, spans: InMemorySpanExporter) -> None:
    place, window, publisher = Place(NAMES.tasks.name, 0), window_of(10), MemoryPublisher()

    async def handle(_: Incoming, entry: Entry) -> None:
        assert carried() is None
        entry.done()

    await traces.step(handle)(incoming(place, headers=()), await entry(window, place))
    assert not spans.get_finished_spans()
    await (await traces.publisher(publisher).send(NAMES.requests.name, b"job-1", b"{}", headers={"kept": b"1"}))
    await until(lambda: len(spans.get_finished_spans()) == 1)
    (span,) = spans.get_finished_spans()
    assert span.parent is None
    (headers,) = publisher.headers
    assert headers is not None
    assert set(headers) == {"kept", "traceparent"}


async def test_a_completion_has_links_to_the_results_that_met_in_it_and_they_are_forgotten(
    traces: Traces, spans: InMemorySpanExporter
) -> None:
    place, window, publisher = Place(NAMES.results.name, 0), window_of(1000), MemoryPublisher()
    traced = traces.publisher(publisher)

    async def handle(taken: Sequence[Taken]) -> None:
        for record, entry in taken:
            if record.offset >= 199:
                await traced.send(NAMES.completions.name, record.key, b"{}")
            entry.done()

    for offset in range(201):
        headers = [("traceparent", f"00-{TRACE}-{offset + 1:016x}-01".encode())]
        await traces.steps(handle)([Taken(incoming(place, offset, headers), await entry(window, place, offset))])
    await until(lambda: len(spans.get_finished_spans()) == 203)
    first, second = [span for span in spans.get_finished_spans() if span.name.startswith("send")]
    assert [link.context.span_id for link in first.links] == list(range(73, 201)), "the newest 128"
    assert [link.context.span_id for link in second.links] == [201]
    counted = {span.context.span_id for span in spans.get_finished_spans() if span.context and span.name.startswith("process")}
    assert first.parent is not None
    assert first.parent.span_id in counted


async def test_a_failed_call_says_its_error_and_no_more(traces: Traces, spans: InMemorySpanExporter) -> None:
    class Throttled:
        async def success(self, token: str, output: str) -> None:
            raise CallbackThrottled("ThrottlingException", f"slow down, {token}, with {output}")

        async def failure(self, token: str, error: str, cause: str) -> None: ...

        async def heartbeat(self, token: str) -> None: ...

    with pytest.raises(CallbackThrottled):
        await traces.callback(Throttled()).success("canary", "{}")
    (span,) = spans.get_finished_spans()
    assert (span.name, span.status.description) == ("SendTaskSuccess", "ThrottlingException")
    assert "canary" not in span.to_json()


def test_off_nothing_of_it_is_loaded() -> None:
    import subprocess

    code = "import streams.worker, sys; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60).returncode == 0
