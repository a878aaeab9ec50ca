"""AsyncAPI's own JSON Schema, from its npm package, which is unpacked and not installed."""

import json
import os
import shutil
import subprocess
import tarfile
from typing import Any

import pytest

from export_service.devstack.jars import cache_folder

_PACKAGE = "@asyncapi/specs@6.11.1"


def schema() -> dict[str, Any]:
    """Of version 3.0.0. Skips the test where it cannot be had, but not in CI."""
    kept = cache_folder() / "asyncapi-3.0.0.json"
    if not kept.exists():
        npm = shutil.which("npm")
        if npm is None or not _fetch(npm, kept):
            why = f"AsyncAPI's schema is not here and npm cannot get {_PACKAGE}"
            if os.environ.get("CI"):
                pytest.fail(why)
            pytest.skip(why)
    read: dict[str, Any] = json.loads(kept.read_text())
    return read


def _fetch(npm: str, kept: Any) -> bool:
    folder = kept.parent / "asyncapi"
    folder.mkdir(parents=True, exist_ok=True)
    ran = subprocess.run([npm, "pack", "--silent", _PACKAGE], cwd=folder, capture_output=True, text=True, timeout=120)
    if ran.returncode != 0:
        return False
    with tarfile.open(folder / ran.stdout.split()[-1]) as archive:
        inner = archive.extractfile("package/schemas/3.0.0-without-$id.json")
        assert inner is not None
        part = kept.with_suffix(".part")
        part.write_bytes(inner.read())
        part.replace(kept)
    shutil.rmtree(folder)
    return True
