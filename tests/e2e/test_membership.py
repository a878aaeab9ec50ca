"""EXPORT_KAFKA_GROUP_INSTANCE_ID on real processes: a worker that was killed comes back at once; a namesake throws the older one out."""

import time

import pytest

from tests.e2e.conftest import World

pytestmark = pytest.mark.e2e
SESSION_SECONDS = 40


def test_a_killed_static_worker_goes_on_at_once_and_a_namesake_ends_it(world: World) -> None:
    env = {"EXPORT_KAFKA_GROUP_INSTANCE_ID": "worker-0", "EXPORT_KAFKA_SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS)}
    world.catalog("static", ["a.txt", "b.txt"])
    killed = world.worker(**env)
    assert world.finished(world.execute("static")[0])["status"] == "SUCCEEDED"
    killed.kill()
    killed.wait()
    since = time.monotonic()
    back = world.worker(**env)
    assert world.finished(world.execute("static")[0])["status"] == "SUCCEEDED"
    # A new member would have waited until the broker had given the dead one up.
    assert time.monotonic() - since < SESSION_SECONDS / 2
    world.worker(**env)
    world.until(lambda: back.poll() is not None, "the older of two workers with one id has ended")
    assert back.returncode == 78
    said = [line["msg"] for line in world.logs() if line["level"] == "error"]
    assert any("joined as 'worker-0-" in text and "EXPORT_KAFKA_GROUP_INSTANCE_ID" in text for text in said), said
    assert world.finished(world.execute("static")[0])["status"] == "SUCCEEDED"
