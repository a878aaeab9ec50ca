"""Prometheus' own tool, as found on this machine or in Debian's package, which is unpacked and not installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from export_service.devstack.jars import cache_folder


def promtool() -> str:
    """Its path. Skips the test where it cannot be had, but not in CI."""
    unpacked = cache_folder() / "prometheus"
    tool = unpacked / "usr/bin/promtool"
    found = shutil.which("promtool") or (str(tool) if tool.exists() else None)
    if found is None and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        found = _unpack(unpacked, tool)
    if found is None:
        why = "promtool is not on the PATH and Debian's package prometheus cannot be had"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return found


def _unpack(folder: Path, tool: Path) -> str | None:
    folder.mkdir(parents=True, exist_ok=True)
    for commands in ([["apt-get", "download", "prometheus"]], [["apt-get", "update"], ["apt-get", "download", "prometheus"]]):
        if all(subprocess.run(command, cwd=folder, capture_output=True, timeout=300).returncode == 0 for command in commands):
            break
    for package in folder.glob("prometheus_*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True, capture_output=True)
        package.unlink()
    return str(tool) if tool.exists() else None
