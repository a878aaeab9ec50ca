"""Child processes of the embedded stack: started so that they end with us, or on purpose live on; stopped with a deadline."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from export_service.failures import ExportError

_PR_SET_PDEATHSIG = 1


class DevstackError(ExportError):
    """The embedded stack cannot start; the message says what to do."""


def _die_with_parent() -> None:
    # Also when the parent is killed with -9 and can no longer clean up. Linux only; elsewhere Ctrl-C and exit still stop children.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start(
    command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, *, detached: bool = False
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own (Ctrl-C in a terminal reaches only us), its output appended to `log`.

    Args:
        detached: live on when we end; otherwise die with us.
    """
    bound = sys.platform == "linux" and not detached
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            preexec_fn=_die_with_parent if bound else None,
        )


def alive(pid: int, marker: str) -> bool:
    """Whether `pid` runs and is ours: its command line has `marker`. A reused pid of somebody else's is not."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        return marker in command.replace("\0", " ") and state != "Z"
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return False
    except (OSError, IndexError):
        return False
    listing = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return marker in listing.stdout


def stop(pid: int, marker: str, seconds: float = 15) -> bool:
    """SIGTERM, then SIGKILL after the deadline. False if it did not run."""
    if not alive(pid, marker):
        return False
    for number, wait in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return True
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            _reap(pid)
            if not alive(pid, marker):
                return True
            time.sleep(0.05)
    return True


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody does on that port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def claim_port(port: int | None, option: str) -> int:
    """A free port, or the given one if nobody has it. Raises DevstackError naming the option."""
    if port is None:
        return free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise DevstackError(f"port {port} is taken by another program; choose another {option}, or leave it out") from None
    return port


def tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""
