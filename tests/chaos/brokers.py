"""Kafka of a test's own: one broker or several, each behind a proxy of ours, killed, stopped, frozen and started again with its data."""

import asyncio
import os
import signal
import subprocess
from pathlib import Path

from export_service.devstack import kafka
from export_service.devstack.processes import free_port
from tests.chaos.kafka_proxy import KafkaProxy


class Brokers:
    """`direct` leads to the brokers themselves, `proxied` through the proxies: brokers tell who comes that way only of the proxies."""

    def __init__(self, folder: Path, nodes: int = 1) -> None:
        self.nodes = range(1, nodes + 1)
        self._folder, self._cluster = folder, kafka.cluster_id()
        self._ports, self._controllers = ({node: free_port() for node in self.nodes} for _ in range(2))
        self.proxies = {node: KafkaProxy(free_port()) for node in self.nodes}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.direct = ",".join(f"127.0.0.1:{port}" for port in self._ports.values())
        self.proxied = ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.proxies.values())

    def start(self, *nodes: int) -> None:
        """Those given, or all; returns when they answer."""
        started = [node for node in nodes or self.nodes if node not in self._processes]
        for node in started:
            self._processes[node] = kafka.launch(
                self._node(node), self._ports[node], cluster=self._cluster, settings=self._settings(node)
            )
        for node in started:
            asyncio.run(kafka.ready(self._processes[node], self._ports[node], self._node(node)))
            self.proxies[node].start()

    def kill(self, *nodes: int) -> None:
        for node in nodes or self.nodes:
            self._signal(node, signal.SIGKILL)
            self._processes.pop(node).wait()

    def stop(self, node: int) -> None:
        self._signal(node, signal.SIGTERM)
        self._processes.pop(node).wait(60)

    def freeze(self, node: int) -> None:
        self._signal(node, signal.SIGSTOP)

    def go_on(self, node: int) -> None:
        self._signal(node, signal.SIGCONT)

    def close(self) -> None:
        for proxy in self.proxies.values():
            proxy.close()
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _signal(self, node: int, number: int) -> None:
        os.kill(self._processes[node].pid, number)

    def _node(self, node: int) -> Path:
        return self._folder / f"node-{node}"

    def _settings(self, node: int) -> dict[str, str]:
        replicas = str(min(len(self.nodes), 3))
        inner = self.proxies[node].target
        here = f"PLAINTEXT://127.0.0.1:{self._ports[node]}"
        return {
            "node.id": str(node),
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{port}" for n, port in self._controllers.items()),
            "listeners": f"{here},PROXIED://127.0.0.1:{inner},CONTROLLER://127.0.0.1:{self._controllers[node]}",
            "advertised.listeners": f"{here},PROXIED://127.0.0.1:{self.proxies[node].port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "offsets.topic.replication.factor": replicas,
            # A topic that a test has deleted is gone at once, and a compaction that it asks for comes within a second.
            "log.segment.delete.delay.ms": "1000",
            "log.cleaner.backoff.ms": "500",
            # A broker that is killed is out of the cluster after this time.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
        }
