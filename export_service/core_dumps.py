"""A worker's memory has task tokens, seal keys and credentials: it must not get into a file when the process is aborted."""

import ctypes
import sys

_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """For this process, for good."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # The limit does not hold for a core that the kernel pipes to a program (systemd-coredump). This does, and it also keeps other
        # processes of the same user from reading our memory and environment.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
