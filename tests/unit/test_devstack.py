"""The embedded stack's parts that need no Kafka: jars, ports, processes, environment."""

import socket
import sys
import zipfile
from pathlib import Path

import pytest

from export_service.addresses import may_connect, parse_networks
from export_service.devstack import jars, kafka, processes, stack
from export_service.devstack.aws import Provisioned
from export_service.devstack.processes import DevstackError


def make_jar(path: Path, *, whole: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("A.class", b"x" * 5000)
    if not whole:
        path.write_bytes(path.read_bytes()[:2000])
    return path


def test_a_broken_jar_is_found_removed_and_fetched_again(tmp_path: Path) -> None:
    fetches = 0

    def fetch(cache: Path) -> list[Path]:
        nonlocal fetches
        fetches += 1
        good = make_jar(cache / "maven" / "good.jar")
        late = cache / "maven" / "late.jar"
        if not late.exists():
            make_jar(late, whole=fetches > 1)
        return [good, late]

    assert [jar.name for jar in jars.class_path(tmp_path, fetch)] == ["good.jar", "late.jar"]
    assert fetches == 2
    assert [jar.name for jar in jars.class_path(tmp_path, fetch)] == ["good.jar", "late.jar"]
    assert fetches == 2, "all is there: no network"


def test_a_jar_that_stays_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(DevstackError, match=r"bad\.jar arrives broken"):
        jars.class_path(tmp_path, lambda cache: [make_jar(cache / "bad.jar", whole=False)])
    assert not (tmp_path / "classpath.txt").exists()


def test_no_network_is_a_sentence(tmp_path: Path) -> None:
    def fetch(_: Path) -> list[Path]:
        raise OSError("Network is unreachable")

    with pytest.raises(DevstackError, match=r"cannot be downloaded \(OSError: Network is unreachable\); check the network"):
        jars.class_path(tmp_path, fetch)


def test_a_jar_that_went_missing_is_fetched_again(tmp_path: Path) -> None:
    first = jars.class_path(tmp_path, lambda cache: [make_jar(cache / "a.jar")])
    first[0].unlink()
    assert jars.class_path(tmp_path, lambda cache: [make_jar(cache / "a.jar")])[0].exists()


def test_a_flipped_bit_in_a_jar_is_seen(tmp_path: Path) -> None:
    jar = make_jar(tmp_path / "a.jar")
    raw = bytearray(jar.read_bytes())
    raw[60] ^= 1
    jar.write_bytes(raw)
    assert not jars.whole(jar)


def test_a_taken_port_names_the_option() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(DevstackError, match=r"is taken by another program; choose another --kafka-port"):
            processes.claim_port(other.getsockname()[1], "--kafka-port")


def test_a_reused_pid_is_not_ours(tmp_path: Path) -> None:
    child = processes.start([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log")
    try:
        assert processes.alive(child.pid, "time.sleep(60)")
        assert not processes.alive(child.pid, kafka.MARKER)
        assert not processes.stop(child.pid, kafka.MARKER), "somebody else's process is left alone"
        assert processes.stop(child.pid, "time.sleep(60)")
    finally:
        child.kill()
        child.wait()


def test_environment_lines_survive_a_shell() -> None:
    assert stack.exports({"A": "s3://b/{exportId}/x y"}) == "export A='s3://b/{exportId}/x y'\n"


def test_the_environment_of_the_stack_lets_its_own_files_be_fetched(tmp_path: Path) -> None:
    env = stack.environment(tmp_path, 1, "http://127.0.0.1:2", Provisioned("queue", "arn"))
    allowed = parse_networks(env["EXPORT_DOWNLOAD_ALLOWED_NETWORKS"])
    assert [may_connect(host, allowed) for host in ("127.0.0.1", "::1", "10.0.0.1")] == [True, True, False]


def test_a_stack_file_of_a_dead_stack_is_not_up(tmp_path: Path) -> None:
    dead = stack.Stack(tmp_path, [stack.Service("kafka", 999_999_999, 1, "log", kafka.MARKER)], {"A": "b"})
    dead.save()
    loaded = stack.Stack.load(tmp_path)
    assert loaded is not None
    assert (loaded.env, [service.up for service in loaded.services]) == ({"A": "b"}, [False])
    with pytest.raises(DevstackError, match="no stack is up"):
        stack.require(tmp_path)
    assert loaded.stop() == []
    assert stack.Stack.load(tmp_path) is None


def test_the_broker_listens_on_loopback_only_and_makes_no_topics_by_itself(tmp_path: Path) -> None:
    config = kafka.broker_config(1234, 1235, tmp_path)
    assert config["listeners"] == "PLAINTEXT://127.0.0.1:1234,CONTROLLER://127.0.0.1:1235"
    assert config["auto.create.topics.enable"] == "false"


def test_a_cluster_id_is_never_taken_for_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka could not be formatted in one start of 64."""
    made = iter([b"\xf8" + bytes(15), b"\xfa" + bytes(15), b"\x01" + bytes(15)])
    monkeypatch.setattr("os.urandom", lambda _: next(made))
    assert kafka.cluster_id() == "AQAAAAAAAAAAAAAAAAAAAA"
