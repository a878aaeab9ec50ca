"""What a trace is read from, how much of it is remembered, and that nothing is there while it is off."""

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_current_span

from agents.download import Downloader
from connectors.memory import MemoryCallback, MemoryLedger, MemoryPublisher, SystemClock
from export_service.carried import carried, trace_id
from export_service.failures import CallbackThrottled, SettingsError
from export_service.messages import Outcome, Task, TaskBatch, TaskResult
from export_service.settings import load
from export_service.transfer import TransferTasks, result
from streams.ack_window import AckWindow, Entry, Place
from streams.dead_letters import DeadLetters
from streams.parts import tracing_of
from streams.steps import Incoming, Taken
from streams.topics import topics
from streams.traces import Traces, open_traces, parent
from tests.saying import said
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
        (
            "AWSTraceHeader",
            f"Self=1-67891234-12456789abcdef012345678;Sampled=1; Parent={SPAN};Root=1-{TRACE[:8]}-{TRACE[8:]}",
            True,
        ),
        ("AWSTraceHeader", f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Sampled=?", False),
    ],
)
def test_a_trace_is_read_from_either_header(name: str, value: str, sampled: bool) -> None:
    context = parent([("other", b"\xff"), (name, value.encode())])
    assert context is not None
    span = get_current_span(context).get_span_context()
    assert (f"{span.trace_id:032x}", f"{span.span_id:016x}", span.trace_flags.sampled) == (TRACE, SPAN, sampled)


NONSENSE = [b"00-xyz-01", b"\xff\xfe", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"Root=1-2-3;Parent=4;Sampled=1", b";;=;"]


@pytest.mark.parametrize("value", [None, b"", f"Root=1-{TRACE[:8]}-{TRACE[8:]};Sampled=1".encode(), *NONSENSE])
def test_nonsense_is_no_trace(value: bytes | None) -> None:
    assert parent([("traceparent", value), ("AWSTraceHeader", value)]) is None


@pytest.mark.parametrize(("members", "kept"), [(4, True), (20, False)])
def test_a_state_is_carried_on_unless_it_is_long(members: int, kept: bool) -> None:
    state = ",".join(f"vendor{number}={'x' * 50}" for number in range(members))
    context = parent([*HEADERS, ("tracestate", state.encode())])
    assert context is not None
    assert bool(get_current_span(context).get_span_context().trace_state) == kept


async def test_a_span_lasts_until_the_record_is_done_and_what_is_sent_meanwhile_carries_it(
    traces: Traces, spans: InMemorySpanExporter
) -> None:
    place, window, publisher = Place(NAMES.tasks.name, 0), window_of(10), MemoryPublisher()
    traced = traces.publisher(publisher)

    async def handle(record: Incoming, _: Entry) -> None:
        await traced.send(NAMES.results.name, record.key, b"{}")

    first = await entry(window, place)
    await traces.step(handle)(incoming(place), first)
    assert trace_id() is None
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
        assert not carried()
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


async def test_batches_that_share_a_downloader_do_not_share_a_trace(traces: Traces, capsys: pytest.CaptureFixture[str]) -> None:
    """The transfer of a batch without a trace is begun in the context of one that has one, whose slot it gets."""

    async def transfer(_: str, task: Task, __: str) -> TaskResult:
        return result(task, Outcome.SUCCEEDED, 1, 0.0)

    publisher, errors = MemoryPublisher(), list[BaseException]()
    window = AckWindow(10, errors.append)
    with said(capsys) as lines:
        downloader = Downloader(
            TransferTasks(lambda destination, task, url, _: transfer(destination, task, url), errors.append),
            MemoryLedger(),
            traces.publisher(publisher),
            DeadLetters(publisher, NAMES.dead_letters.name, SystemClock()),
            NAMES,
            structlog.get_logger(),
            load(download={"concurrency": 1}).download,
            lines=1,
        )
        downloader.start(errors.append)
        handle, place = traces.step(downloader.handle), Place(NAMES.tasks.name, 0)
        for offset, headers in enumerate([HEADERS, (), HEADERS, ()]):
            tasks = tuple(Task(index=index, url=f"http://h/{index}", name=f"n{index}") for index in range(3))
            value = TaskBatch(job_id=f"job-{offset}", attempt=1, destination="file:///out/", tasks=tasks).to_bytes()
            await handle(incoming(place, offset, headers)._replace(value=value), await entry(window, place, offset))
        assert await window.empty(10)
        await downloader.drain(1)
    assert not errors
    sent = dict(zip((key for key, _ in publisher.records[NAMES.results.name]), publisher.headers, strict=True))
    assert {key.decode(): bool(headers) for key, headers in sent.items() if key} == {f"job-{n}": n % 2 == 0 for n in range(4)}
    ended = [line for line in lines() if line["msg"] == "Task ended"]
    assert len(ended) == 12
    assert all(line.get("traceId") == (TRACE if line["jobId"] in ("job-0", "job-2") else None) for line in ended)


@contextmanager
def silent() -> Iterator[str]:
    """A collector that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


async def test_a_collector_that_says_nothing_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.traces._SEND_SECONDS", 0.2)
    with silent() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1.5")
        async with open_traces(NAMES) as opened:
            await (await opened.publisher(MemoryPublisher()).send(NAMES.requests.name, b"job-1", b"{}"))
            await asyncio.sleep(0)
            began = time.monotonic()
        assert time.monotonic() - began < 1
    # No thread of this test goes on beside the next ones.
    await until(lambda: not any(thread.name.startswith("Otel") for thread in threading.enumerate()))


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OTEL_TRACES_EXPORTER", "console"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "9999999")],
)
async def test_what_would_send_nothing_is_refused_by_name(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match="OTEL_"):
        async with open_traces(NAMES):
            pass


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({}, "export-service"),
        ({"OTEL_SERVICE_NAME": "exports"}, "exports"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=ours,deployment.environment.name=test"}, "ours"),
    ],
)
async def test_the_service_is_named_by_opentelemetrys_variables(
    env: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each, value in env.items():
        monkeypatch.setenv(each, value)
    async with open_traces(NAMES) as opened:
        assert getattr(opened._tracer, "resource").attributes["service.name"] == name  # noqa: B009


async def test_switched_off_by_opentelemetrys_variable_a_trace_is_passed_on_and_none_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    publisher = MemoryPublisher()
    async with open_traces(NAMES) as opened:
        traced = opened.publisher(publisher)
        await traced.send(NAMES.requests.name, b"job-1", b"{}", headers={"kept": b"1"})
        await traced.send(NAMES.requests.name, b"job-1", b"{}", headers=dict(HEADERS))
    assert publisher.headers == [{"kept": b"1"}, dict(HEADERS)]


def test_without_the_extra_a_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "streams.traces")
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)
    with pytest.raises(SettingsError, match=r"EXPORT_TRACES_ENABLED=true: opentelemetry.* install export-service\[otel\]"):
        tracing_of(load(traces={"enabled": True}), NAMES)


async def test_off_a_step_and_what_it_sends_with_are_the_very_same() -> None:
    async def handle(*_: object) -> None: ...

    publisher, callback = MemoryPublisher(), MemoryCallback()
    async with tracing_of(load(), NAMES) as tracing:
        assert tracing.step(handle) is handle
        assert tracing.steps(handle) is handle
        assert tracing.publisher(publisher) is publisher
        assert tracing.callback(callback) is callback


def test_off_nothing_of_it_is_loaded() -> None:
    import subprocess

    code = "import streams.worker, sys; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60).returncode == 0
