"""A pipeline with something to see: jobs that ended well and badly, a dead letter, and the console beside it."""

import re
import sys
import time
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.request import urlopen

from tests.e2e.conftest import World

TOKEN = "the-console-token-of-this-test"
CANARY = "canary-of-a-signature"
_CONSOLE = (sys.executable, "-m", "export_service", "console")


@dataclass
class Scene:
    """`failed` and `good` are jobs that have ended."""

    world: World
    failed: str = ""
    good: str = ""
    address: str = ""

    def console(self, port: int = 0) -> None:
        """Started, at `address`."""
        child = self.world.launch(*_CONSOLE, "--port", str(port), EXPORT_CONSOLE_TOKEN=TOKEN)
        log = self.world.folder / f"worker-{len(self.world.workers) - 1}.log"
        self.world.until(lambda: child.poll() is not None or "Console at " in log.read_text(), "the console is up")
        found = re.search(r"Console at (\S+)", log.read_text())
        assert found is not None, log.read_text()
        self.address = found[1]

    def listed(self) -> list[str]:
        """Jobs on its page."""
        with urlopen(f"{self.address}jobs", timeout=10) as page:
            return re.findall(r"/jobs/([0-9a-f-]{36})", page.read().decode())

    def send(self, user: str, export: str, names: list[str], **more: Any) -> str:
        job_id = str(uuid.uuid4())
        files = [{"url": f"{self.world.files.base}/{name}?signature={CANARY}", "name": name} for name in names]
        self.world.send({"jobId": job_id, "exportId": export, "userId": user, "files": files} | more)
        return job_id

    def run(self) -> str:
        """A job that is at half, and stays there until `world.files.gate` is set, for a minute at most."""
        self.world.files.held = {f"/photos/{number}.jpg" for number in range(30, 60)}
        self.world.files.misbehave = _one_after_the_other
        self.world.files.gate.clear()
        job_id = self.send("jonas", "photos", [f"photos/{number}.jpg" for number in range(60)])
        self.world.until(lambda: int(self.world.snapshot(job_id).get("completedTasks", 0)) > 0, "some files are there")
        return job_id


def _one_after_the_other(_: BaseHTTPRequestHandler, path: str, _times: int) -> bool:
    """A snapshot comes at most each half second, by the times of outcomes: those that come at once are seen with the next that comes."""
    if path.startswith("/photos/"):
        time.sleep(int(path[8:-4]) % 30 * 0.06)
    return False


def prepare(world: World, *, files: int = 400) -> Scene:
    scene = Scene(world)
    # Files that are held back would be all that their host is found worth.
    world.worker(EXPORT_DOWNLOAD_ADAPTIVE="false")
    broken = [f"/reports/{number}.csv" for number in range(0, files, 9)]
    world.files.missing = {*broken[::2]}
    world.files.answers = dict.fromkeys(broken[1::2], (403, {}, b"no"))
    world.catalog("invoices", [f"invoices/{number}.pdf" for number in range(40)])
    arn, scene.good = world.execute("invoices")
    scene.failed = scene.send("maria", "reports", [f"reports/{number}.csv" for number in range(files)])
    world.send('{"jobId": "no-uuid", "exportId": "x", "userId": "maria", "taskToken": "AAAAKgAAAAIAthisisacanarytokenofthequeue"}')
    scene.console()
    world.finished(arn)
    world.ended(scene.failed)
    world.until(lambda: {scene.good, scene.failed} <= set(scene.listed()), "the console lists both")
    return scene
