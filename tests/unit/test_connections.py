"""Connections are used again, and shared where a server speaks HTTP/2: by what the server counts."""

import asyncio
import shutil
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from connectors.fetch_processes import forked
from export_service.devstack.processes import free_port
from export_service.messages import Outcome
from export_service.settings import load
from tests.unit.sources import BODY, Source, answer, working

FILES = 1000


class Nginx(NamedTuple):
    base: str
    status: str

    def accepted(self) -> tuple[int, int]:
        """Connections and requests until now, without the questions."""
        with urllib.request.urlopen(self.status) as told:
            numbers = told.read().split()
        return int(numbers[7]), int(numbers[9])


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (shutil.which("nginx") and shutil.which("openssl")):
        pytest.skip("needs nginx and openssl")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{tmp_path}/key.pem", "-out", f"{tmp_path}/cert.pem"]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path}/cert.pem")


@pytest.fixture(params=["http/1.1", "h2"])
def nginx(request: pytest.FixtureRequest, tmp_path: Path, certificate: None) -> Iterator[Nginx]:  # noqa: ARG001 - made before
    (tmp_path / "source").mkdir()
    (tmp_path / "source/f").write_bytes(BODY)
    port, status = free_port(), free_port()
    # keepalive_requests: connections end in the middle of it all, as they do.
    (tmp_path / "nginx.conf").write_text(f"""
        daemon off; master_process off; pid {tmp_path}/nginx.pid; error_log {tmp_path}/nginx.log; worker_processes 1;
        events {{ worker_connections 256; }}
        http {{ access_log off; keepalive_requests 150; client_body_temp_path {tmp_path}/body;
          server {{ listen 127.0.0.1:{port} ssl {"http2" if request.param == "h2" else ""}; root {tmp_path}/source;
            ssl_certificate {tmp_path}/cert.pem; ssl_certificate_key {tmp_path}/key.pem; }}
          server {{ listen 127.0.0.1:{status}; location / {{ stub_status; }} }} }}
    """)
    child = subprocess.Popen(["nginx", "-c", f"{tmp_path}/nginx.conf", "-p", str(tmp_path)], stderr=subprocess.DEVNULL)
    made = Nginx(f"https://127.0.0.1:{port}", f"http://127.0.0.1:{status}/")
    deadline = time.monotonic() + 10
    while True:
        try:
            made.accepted()
            break
        except OSError:
            assert time.monotonic() < deadline, (tmp_path / "nginx.log").read_text()
            time.sleep(0.02)
    yield made
    child.terminate()
    child.wait()


async def test_tls_connections_are_few_and_ends_of_them_lose_nothing(
    nginx: Nginx, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = nginx.accepted()
    made = load(download={"allowed_networks": "127.0.0.1", "concurrency": 32, "publish_seconds": 0.05})
    with forked(made, 1) as ends:
        async with working(ends, made, tmp_path) as work:
            await work.take([f"{nginx.base}/f" for _ in range(FILES)])
            await work.all_done()
            results = work.results
    assert {(result.outcome, result.attempts) for result in results.values()} == {(Outcome.SUCCEEDED, 1)}
    connections, requests = (after - early for after, early in zip(nginx.accepted(), before, strict=True))
    assert requests >= FILES
    # At a time, and those that were ended by the server after 150 requests each; 1 is the question's own.
    expected = 32 + (0 if "h2" in request.node.name else FILES // 150) + 1
    assert connections <= expected + 2, f"{connections} connections for {requests} requests"


async def test_a_plain_connection_serves_one_file_after_the_other(tmp_path: Path) -> None:
    async def serve(_: Source, __: str) -> bytes:
        return answer()

    source = Source(serve)
    made = load(download={"allowed_networks": "127.0.0.1", "concurrency": 8, "adaptive": False})
    with forked(made, 1) as ends:
        async with working(ends, made, tmp_path, source) as work:
            await work.take([f"{source.base}/{n}" for n in range(FILES)])
            await work.all_done()
    assert (len(source.asked), source.connections) == (FILES, 8)


@pytest.mark.parametrize("tls", ["", "http/1.1", "no ALPN"])
@pytest.mark.usefixtures("certificate")
async def test_who_cannot_share_a_connection_does_not_wait_for_anothers_answer(tls: str, tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def serve(_: Source, __: str) -> bytes:
        await gate.wait()
        return answer()

    source = Source(serve)
    if tls:
        source.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        source.tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        if tls == "http/1.1":
            source.tls.set_alpn_protocols([tls])
    made = load(download={"allowed_networks": "127.0.0.1", "concurrency": 8})
    with forked(made, 1) as ends:
        async with working(ends, made, tmp_path, source) as work:
            await work.take([f"{source.base}/{n}" for n in range(8)])
            await work.begun(source, 8)
            gate.set()
            await work.all_done()
