"""What the operating system is asked for on behalf of a process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

PR_SET_PDEATHSIG = 1  #: both of <linux/prctl.h>
PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process once its parent, `parent`, is gone."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Ask Linux to make this process the parent of descendants that lose theirs."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


@contextlib.contextmanager
def memory_limited(allowance: int | None) -> Iterator[None]:
    """Let this process take `allowance` more bytes of address space than it has, inside the block."""
    if allowance is None:
        yield
        return
    import resource  # Windows has none, and must be able to import this module

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + allowance
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
    try:
        yield
    except MemoryError as error:
        error.add_note(f"A job may take {allowance:,} bytes beyond what was preloaded (memory_limit).")
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))  # room to say what happened


def describe_exit(exit_code: int) -> str:
    """Return how a process ended, from an exit code as `subprocess` counts: below 0 for a signal."""
    if exit_code >= 0:
        return f"ended with exit status {exit_code}"
    try:
        return f"was killed by signal {-exit_code} ({signal.Signals(-exit_code).name})"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-exit_code}"


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)
