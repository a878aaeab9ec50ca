"""One trace, from whoever sent the SQS message to the call that answers the waiting state, as a collector sees it."""

import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from export_service.devstack import aws
from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e
TRACE, SENDER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        outer.spans += scope.spans
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def test_one_trace_from_the_message_to_the_answer(world: World, collector: Collector) -> None:
    definition = json.loads(aws.state_machine_definition().replace("${QueueUrl}", world.queue))
    parent = {"DataType": "String", "StringValue": f"00-{TRACE}-{SENDER}-01"}
    definition["States"]["StartExportJob"]["Parameters"]["MessageAttributes"] = {"traceparent": parent}
    role = f"arn:aws:iam::{aws.ACCOUNT}:role/export-state-machine"
    name = f"m-{uuid.uuid4().hex[:8]}"
    machine = world.machine.create_state_machine(name=name, definition=json.dumps(definition), roleArn=role)["stateMachineArn"]
    # More than a batch, so that several records of results meet in the tally.
    world.catalog("many", [f"{number}.txt" for number in range(300)])
    tracing = {"EXPORT_TRACES_ENABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    world.worker(**tracing)
    execution, job = world.execute("many", machine=machine)
    assert world.finished(execution)["status"] == "SUCCEEDED"

    topic = world.env["EXPORT_TOPICS_PREFIX"].__add__
    wanted = {f"process {topic(step)}" for step in ("requests", "tasks", "results", "completions", "snapshots")}
    wanted |= {f"send {topic('requests')}", f"send {topic('completions')}", "SendTaskSuccess"}

    def way(name: str) -> list[str]:
        """Names of the spans from the first one that we made to this one."""
        by_id = {span.span_id: span for span in collector.spans}
        found = [span for span in collector.spans if span.name == name]
        while found and (above := by_id.get(found[-1].parent_span_id)):
            found.append(above)
        return [span.name for span in reversed(found)]

    def complete() -> bool:
        # A span comes when its record is done, so the ends of a trace come before its middle.
        return wanted <= {span.name for span in collector.spans} and way("SendTaskSuccess")[:1] == [f"send {topic('requests')}"]

    world.until(complete, "all steps are in the trace")
    assert way("SendTaskSuccess")[-3:] == [f"send {topic('completions')}", f"process {topic('completions')}", "SendTaskSuccess"]
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert all(job in str(span.attributes) for span in collector.spans if span.name.startswith("process"))
    (request,) = [span for span in collector.spans if span.name == f"send {topic('requests')}"]
    assert request.parent_span_id.hex() == SENDER
    (completion,) = [span for span in collector.spans if span.name == f"send {topic('completions')}"]
    assert len(completion.links) > 1
    downloads = {span.span_id for span in collector.spans if span.name == f"process {topic('tasks')}"}
    assert downloads & {link.span_id for link in completion.links}, "the downloads meet in the completion"
    assert "taskToken" not in str(collector.spans)
