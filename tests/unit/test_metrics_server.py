"""The port that operators ask, asked by a stranger's client and by one that misbehaves."""

import asyncio
import json
import socket
import urllib.error
import urllib.request
from contextlib import suppress

import pytest

from export_service.failures import SettingsError
from export_service.metrics import Metrics
from export_service.metrics_server import metrics_page, probe, serve
from export_service.settings import Metrics as Settings
from streams.health import Health
from tests.unit.test_metrics import counted


async def fetch(port: int | None, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
    """(status, content type, body)."""

    def ask() -> tuple[int, str, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Content-Type"], error.read().decode()

    return await asyncio.to_thread(ask)


async def test_a_port_answers_until_it_is_closed_and_one_that_is_taken_is_a_mistake_in_the_settings() -> None:
    metrics = Metrics()
    metrics.jobs_accepted.labels("true").inc()
    async with serve(Settings(port=0), {"/metrics": metrics_page(metrics.registry)}) as port:
        status, content_type, body = await fetch(port, "/metrics?x=1")
        assert (status, content_type.split(";")[0]) == (200, "text/plain")
        assert counted(body) == {"export_jobs_accepted_total true": 1}
        _, content_type, body = await fetch(port, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert content_type.startswith("application/openmetrics-text")
        assert body.endswith("# EOF\n")
        with pytest.raises(
            SettingsError, match=f"EXPORT_METRICS_PORT={port}: cannot listen on 127.0.0.1: Address already in use; choose another"
        ):
            async with serve(Settings(port=port), {}):
                pass
    assert port is not None
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


async def test_a_host_that_is_not_known_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(SettingsError, match=r"EXPORT_METRICS_PORT=0: cannot listen on no\.such\.host\.invalid: "):
        async with serve(Settings(port=0, host="no.such.host.invalid"), {}):
            pass


async def test_without_a_port_nothing_is_served() -> None:
    async with serve(Settings(), {}) as port:
        assert port is None


async def test_other_paths_and_methods_are_refused_and_head_has_no_body() -> None:
    async with serve(Settings(port=0), {"/livez": probe(list)}) as port:
        assert (await fetch(port, "/"))[::2] == (404, "here are: /livez\n")
        assert (await fetch(port, "/livez", "POST"))[0] == 405
        assert (await fetch(port, "/livez", "HEAD"))[::2] == (200, "")


@pytest.mark.parametrize(
    "sent",
    [b"", b"nonsense\r\n\r\n", b"\xff\xfe\r\n\r\n", b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 5000, b"G" * 200_000],
    ids=["empty", "nonsense", "no text", "many headers", "long line"],
)
async def test_who_does_not_speak_http_gets_nothing_and_the_next_one_is_answered(sent: bytes) -> None:
    async with serve(Settings(port=0), {"/livez": probe(list)}) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(OSError):
            writer.write(sent)
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert (await fetch(port, "/livez"))[0] == 200


async def test_a_worker_is_ready_between_its_start_and_its_drain_if_no_check_finds_anything() -> None:
    health, troubles = Health(["tally"]), ["tally: waits for its consumer group"]
    health.checks.append(lambda: troubles)
    pages = {"/readyz": probe(health.ready), "/startupz": probe(health.startup), "/livez": probe(health.alive)}
    async with serve(Settings(port=0), pages) as port:

        async def said() -> list[int]:
            return [(await fetch(port, path))[0] for path in ("/livez", "/startupz", "/readyz")]

        assert await said() == [200, 503, 503]
        health.started = True
        assert await said() == [200, 200, 503]
        assert json.loads((await fetch(port, "/readyz"))[2]) == {"ok": False, "troubles": troubles}
        troubles.clear()
        assert await said() == [200, 200, 200]
        health.draining = True
        assert await said() == [200, 200, 503]
        health.failure = RuntimeError("x")
        assert await said() == [503, 200, 503]
