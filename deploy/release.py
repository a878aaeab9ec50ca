"""`./dev release`: wheel and sdist in dist/, tried in an empty environment, with a bill of materials, an audit and check sums.

The wheel is made from the sdist, so that an sdist that lacks something fails here. Times in both are those of the last commit.
Exit code 1 and one sentence: a step failed, and nothing of it should be published.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"


class Failed(Exception):
    """One sentence."""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What the command says on stdout. Raises Failed with what it says on stderr."""
    ended = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=900)
    if ended.returncode:
        name = " ".join(Path(str(part)).name for part in command[:4])
        raise Failed(f"`{name} …` ended with code {ended.returncode}:\n{(ended.stderr + ended.stdout).strip()[-2000:]}")
    return ended.stdout


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def build() -> Path:
    """The wheel."""
    DIST.mkdir(exist_ok=True)
    for old in DIST.iterdir():
        old.unlink()
    os.environ["SOURCE_DATE_EPOCH"] = run("git", "log", "-1", "--format=%ct").strip()
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST)
    (wheel,) = DIST.glob("*.whl")
    return wheel


def installed(wheel: Path, folder: Path) -> Path:
    """Python of an environment that has the wheel and what it needs, and nothing else; the wheel works there."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--disable-pip-version-check",
        "--only-binary",
        ":all:",
    )
    run(*pip, "-c", ROOT / "constraints.txt", wheel)
    command = folder / "bin" / "export-service"
    version = run(command, "--version", cwd=folder).strip()
    if f"-{version}-" not in wheel.name:
        raise Failed(f"{wheel.name} says that it is version {version}; change pyproject.toml or export_service/__init__.py")
    if "EXPORT_QUEUE_URL" not in json.loads(run(command, "config", "--json", cwd=folder)):
        raise Failed("`export-service config --json` does not list EXPORT_QUEUE_URL")
    return python


def bill_of_materials(python: Path, wheel: Path) -> int:
    """Writes it; how many components it has."""
    file = DIST / f"{'-'.join(wheel.name.split('-')[:2])}.cdx.json"
    bom = (sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--of", "JSON", "-o", file)
    run(*bom, "--pyproject", ROOT / "pyproject.toml", "--mc-type", "application", python)
    names = {each["name"] for each in json.loads(file.read_text())["components"]}
    if missing := {"faust-streaming", "aiokafka", "cryptography"} - names:
        raise Failed(f"{file.name} lacks {', '.join(sorted(missing))}")
    return len(names)


def audit(python: Path, folder: Path) -> int:
    """How many packages have no known vulnerability. Raises Failed if one has, or if that cannot be found out."""
    listed = run(sys.executable, "-m", "pip", "--python", python, "list", "--format", "freeze", "--exclude", "export-service")
    packages = folder / "audited.txt"
    packages.write_text(listed)
    # --strict: a package that the vulnerability service does not know is no package without vulnerabilities.
    try:
        run(
            sys.executable, "-m", "pip_audit", "--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off", "-r", packages
        )
    except Failed as failed:
        if "could not be audited" in str(failed) or "ConnectionError" in str(failed):
            raise Failed(f"nobody can be asked about vulnerabilities; without the audit: --no-audit.\n{failed}") from None
        raise
    return len(listed.splitlines())


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="./dev release", description="Build what is published, into dist/.")
    parser.add_argument("--no-audit", action="store_true", help="where the vulnerability service cannot be reached")
    options = parser.parse_args(arguments)
    wheel = build()
    say(f"built      {', '.join(sorted(path.name for path in DIST.iterdir()))}")
    with tempfile.TemporaryDirectory() as name:
        python = installed(wheel, Path(name) / "empty")
        say("installed  into an empty environment: --version and config work")
        say(f"materials  {bill_of_materials(python, wheel)} components")
        if options.no_audit:
            say("audit      left out, as told: NOT AUDITED")
        else:
            say(f"audit      {audit(python, Path(name))} packages without known vulnerabilities")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(DIST.iterdir())]
    (DIST / "SHA256SUMS").write_text("".join(sums))
    say("sums       SHA256SUMS")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failed as failed:
        sys.stderr.write(f"release: {failed}\n")
        raise SystemExit(1) from None
