"""A test's world before the oracle: everything that was asked for, against everything that is there."""

import hashlib
import json
import os
import subprocess
import sys
from typing import Any

from tests.chaos.oracle import Truth
from tests.e2e.conftest import FileServer, World


def run(world: World, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and invariant -> its part of the JSON."""
    command = [sys.executable, *arguments, "--json"]
    ended = subprocess.run(command, env=os.environ | world.env, capture_output=True, text=True, timeout=180, check=False)
    assert ended.stdout, ended.stderr
    return ended.returncode, {each["invariant"]: each for each in json.loads(ended.stdout)["invariants"]}


def broken(found: dict[str, Any]) -> dict[str, list[str]]:
    return {invariant: each["violations"] for invariant, each in found.items() if each["violations"]}


def sources(world: World, names: list[str]) -> dict[str, str]:
    """URL -> SHA-256 of what the file server has."""
    return {f"{world.files.base}/{name}": hashlib.sha256(FileServer.content(f"/{name}")).hexdigest() for name in names}


def judge(
    world: World,
    names: list[str],
    jobs: list[str],
    executions: list[str],
    *,
    messages: list[str] | None = None,
    samples: list[tuple[str, int, int]] | None = None,
    stateless: set[str] | None = None,
    wait_seconds: float = 60,
) -> dict[str, str]:
    """Invariant -> verdict: every one was checked and holds, or AssertionError with the oracle's sentences.

    `names` are all files that there ever were, `messages` ids of those that nobody can read, `stateless` jobs whose state must be
    missing, which I5 has to say.
    """
    truth = Truth(
        sources=sources(world, names),
        jobs=jobs,
        messages=messages or [],
        logs=[str(path) for path in world.folder.glob("worker-*.log")],
        executions=executions,
        samples=samples or [],
        wait_seconds=wait_seconds,
    )
    code, found = run(world, "-m", "tests.chaos.oracle", str(truth.save(world.folder / "truth.json")))
    if stateless:
        missed = {job for job in stateless if any(job in text for text in found["I5"]["violations"])}
        assert missed == stateless, f"not missed: {stateless - missed}"
        rest = [text for text in found["I5"]["violations"] if not any(job in text for job in stateless)]
        found["I5"] |= {"violations": rest, "verdict": "VIOLATED" if rest else "OK"}
    assert (code, broken(found)) == (int(bool(stateless)), {}), json.dumps(found, indent=1)
    return {invariant: each["verdict"] for invariant, each in found.items()}
