"""The pictures of the docs, of a real pipeline: `./dev screenshots` writes docs/pictures. Needs Chromium."""

import asyncio
import sys
import tempfile
from pathlib import Path

from export_service.devstack import stack as stacks
from tests.browser.chromium import ABSENT, PHONE, WIDE, chromium
from tests.browser.scene import Scene, prepare
from tests.e2e.conftest import FileServer, World

PICTURES = Path(__file__).parents[1] / "docs/pictures"
_MOST_BYTES = 150_000


def main() -> None:
    if ABSENT:
        sys.exit(f"there is no Chromium: {ABSENT}")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        running = asyncio.run(stacks.up(Path(folder, "stack")))
        files = FileServer()
        world = World(running, Path(folder), files)
        world.env["EXPORT_DESTINATION"] = "s3://exports/{jobId}/"
        try:
            files.delay = 0.02  # so that there are rates to see
            _shoot(prepare(world, files=1500))
        finally:
            world.close()
            files.close()
            running.stop()
    sizes = {path.name: path.stat().st_size for path in sorted(PICTURES.iterdir())}
    sys.stdout.write("".join(f"{name:<24} {size:>9,}\n" for name, size in sizes.items()))
    if large := [name for name, size in sizes.items() if size > _MOST_BYTES]:
        sys.exit(f"{', '.join(large)}: more than {_MOST_BYTES:,} bytes")


def _shoot(scene: Scene) -> None:
    more = [scene.send("ada", "ledger", [f"ledger/{number}.csv" for number in range(1500)]) for _ in range(3)]
    with chromium(scene.address) as browser:
        browser.look("light", WIDE)
        browser.go("/")
        browser.loaded()
        browser.until(lambda: scene.world.snapshot(more[0]).get("completedTasks", "0") > "3", "there is progress", 60)
        browser.picture(PICTURES / "overview.png", 1135)
        for job in more:
            scene.world.ended(job)
        browser.look("dark", WIDE)
        browser.go(f"/jobs/{scene.failed}")
        browser.loaded()
        browser.picture(PICTURES / "job.png", 1120)
        browser.look("light", PHONE)
        browser.go("/")
        browser.loaded()
        browser.picture(PICTURES / "phone.png", 1300)


if __name__ == "__main__":
    main()
