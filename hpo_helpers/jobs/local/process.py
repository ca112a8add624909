"""What the operating system is asked for on behalf of a process."""

import contextlib
import ctypes
import os
import signal
import sys
from typing import IO

PR_SET_PDEATHSIG = 1  #: both of <linux/prctl.h>
PR_SET_CHILD_SUBREAPER = 36
OUTPUT_LINES = 10


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process once its parent, `parent`, is gone."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Ask Linux to make this process the parent of descendants that lose theirs."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def kill_group(pid: int) -> None:
    """Kill the process group that this process leads, if a member of it is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def describe_exit(exit_code: int) -> str:
    """Return how a process ended, from an exit code: below 0 for a signal."""
    if exit_code >= 0:
        return f"ended with exit status {exit_code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"was killed by signal {-exit_code} ({names.get(-exit_code, 'real-time')})"


def last_lines(output: IO[bytes]) -> str:
    """Return the end of what a process printed to a file, under a heading, or nothing."""
    size = os.fstat(output.fileno()).st_size
    text = os.pread(output.fileno(), 4096, max(0, size - 4096)).decode(errors="replace")
    lines = text.splitlines()[-OUTPUT_LINES:]
    return "\nLast lines of its output:\n" + "\n".join(lines) if lines else ""


def _prctl(option, value):
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)
