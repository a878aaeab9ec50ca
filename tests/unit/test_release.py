"""What `./dev release` builds has everything in it; the release itself installs it into an empty environment."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.unit.test_deploy import ROOT


def test_the_wheel_works_without_the_checkout(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    # -P: not from where we are. The site goes before the checkout that this environment knows.
    command = (sys.executable, "-P", "-m", "export_service")
    env = {name: value for name, value in os.environ.items() if not name.startswith("EXPORT_")} | {
        "PYTHONPATH": str(tmp_path / "site")
    }

    def say(*arguments: str) -> str:
        return subprocess.run(
            [*command, *arguments], cwd=tmp_path, env=env, check=True, timeout=60, capture_output=True, text=True
        ).stdout

    assert f"-{say('--version').strip()}-" in wheel.name
    assert json.loads(say("config", "--json"))["EXPORT_TABLE_NAME"] == "export-jobs"
    where = (
        "import streams.worker, export_service.devstack.aws as aws; aws.state_machine_definition(); print(streams.worker.__file__)"
    )
    make = "from export_service._app_path import make_importable; make_importable();"
    ran = subprocess.run(
        [sys.executable, "-P", "-c", f"{make} {where}"],
        cwd=tmp_path,
        env=env,
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert ran.stdout.strip() == str(tmp_path / "site" / "export_service" / "_app" / "streams" / "worker.py")
