"""Small files over TLS: does HTTP/2 pay, with one connection or several? From nginx on loopback, by this service's own libcurl loop.

    ./dev benchmark http2 [--files 8000] [--rounds 3]

Files a second, processor time of client and server for a file, and connections as the server counts them (nginx's stub_status).
Loopback has no latency: there HTTP/2 can only win by its framing. Needs nginx and openssl (Debian: apt-get install nginx-light openssl).
"""

import argparse
import asyncio
import os
import ssl
import statistics
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import pycurl
import uvloop

from benchmarks.parts import cpu_seconds
from connectors.curl import Curl, Response
from export_service.devstack.processes import free_port
from export_service.settings import Download

SIZE, AT_A_TIME = 16 * 1024, 64
_1, _2 = pycurl.CURL_HTTP_VERSION_1_1, pycurl.CURL_HTTP_VERSION_2TLS
Mode = tuple[int, int, int] | None
MODES: dict[str, Mode] = {
    # Version, whether a transfer waits to share a connection, and how many may.
    "HTTP/1.1, keep-alive": (_1, 0, 100),
    "HTTP/2, a connection each": (_2, 0, 100),
    "HTTP/2, 64 share one": (_2, 1, 100),
    "HTTP/2, 16 share one": (_2, 1, 16),
    "as this service does": None,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="export-http2-", dir="/dev/shm") as folder:
        nginx, base, plain = start_nginx(Path(folder))
        try:
            seen: dict[str, list[tuple[float, float, float, int]]] = {mode: [] for mode in MODES}
            for number in range(options.rounds + 1):
                for mode, how in MODES.items():
                    measured = measure(nginx, base, plain, options.files, how)
                    if number:  # the first round warms up
                        seen[mode].append(measured)
            print(f"{'':<28}{'files/s':>9}{'client us/file':>16}{'nginx us/file':>15}{'connections':>13}")
            for mode, rounds in seen.items():
                rate, client, server, connections = (statistics.median(column) for column in zip(*rounds, strict=True))
                print(f"{mode:<28}{rate:>9,.0f}{client:>16,.0f}{server:>15,.0f}{connections:>13,.0f}")
        finally:
            nginx.terminate()
            nginx.wait()


def start_nginx(folder: Path) -> tuple["subprocess.Popen[bytes]", str, str]:
    (folder / "source").mkdir()
    (folder / "source/f").write_bytes(os.urandom(SIZE))
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    os.environ["SSL_CERT_FILE"] = f"{folder}/cert.pem"
    port, plain = free_port(), free_port()
    (folder / "nginx.conf").write_text(f"""
        daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; worker_processes 1;
        events {{ worker_connections 1024; }}
        http {{ access_log off; sendfile on; client_body_temp_path {folder}/body;
          server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {folder}/cert.pem;
            ssl_certificate_key {folder}/key.pem; root {folder}/source; }}
          server {{ listen 127.0.0.1:{plain}; location / {{ stub_status; }} }} }}
    """)
    child = subprocess.Popen(["nginx", "-c", f"{folder}/nginx.conf", "-p", str(folder)], stderr=subprocess.DEVNULL)
    status = f"http://127.0.0.1:{plain}/"
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            accepted(status)
            break
        except OSError:
            time.sleep(0.05)
    return child, f"https://127.0.0.1:{port}/f", status


def measure(nginx: "subprocess.Popen[bytes]", url: str, status: str, files: int, mode: Mode) -> tuple[float, float, float, int]:
    """Files a second, microseconds of client and of server for each, connections."""
    connections, server, client, started = accepted(status), cpu_seconds(nginx.pid), time.process_time(), time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(fetch(url, files, mode))
    taken = time.monotonic() - started
    client, server = time.process_time() - client, cpu_seconds(nginx.pid) - server
    return files / taken, client / files * 1e6, server / files * 1e6, accepted(status) - connections - 1  # its own question is one


async def fetch(url: str, files: int, mode: Mode) -> None:
    settings = Download.model_validate({"allowed_networks": "127.0.0.1", "concurrency": AT_A_TIME})
    left, done = files, asyncio.Event()
    ended = 0
    async with Curl(settings) as curl:
        if mode is not None:
            curl._multi.setopt(pycurl.M_MAX_CONCURRENT_STREAMS, mode[2])

        def start() -> None:
            nonlocal left
            if left:
                left -= 1
                response = curl.start(url)
                if mode is not None:
                    response.handle.setopt(pycurl.HTTP_VERSION, mode[0])
                    response.handle.setopt(pycurl.PIPEWAIT, mode[1])
                response.on_filled = lambda: end(response)

        def end(response: Response) -> None:
            nonlocal ended
            assert response.status == 200
            assert len(response.body or b"") == SIZE
            response.release()
            ended += 1
            if ended == files:
                done.set()
            start()

        for _ in range(AT_A_TIME):
            start()
        await done.wait()


def accepted(status: str) -> int:
    """Connections since the start."""
    with urllib.request.urlopen(status) as answer:
        return int(answer.read().split()[7])


if __name__ == "__main__":
    assert ssl.HAS_ALPN
    main()
