"""What happens inside the process of one job: train, report, and say how it ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hpo_helpers.jobs import Report, make_report
from hpo_helpers.jobs._channel import receive, send

TRACEBACK_LINES = 6
PR_SET_PDEATHSIG = 1  #: of Linux, in <linux/prctl.h>
PR_SET_CHILD_SUBREAPER = 36


def run_job(channel: socket.socket) -> None:
    """Receive a job, train, and send its reports and then ``("completed", None)`` or ``("failed", why)``."""
    try:
        job = receive(channel)
        with memory_limited(job["memory_limit"]):
            for report in reports(job):
                _send_report(channel, report)
        ending = ("completed", None)
    except BaseException as error:  # whatever the reader's code raises, SystemExit too, is told to the launcher
        ending = ("failed", describe(error))
    send(channel, ending)


def reports(job: Mapping[str, Any]) -> Iterator[Report]:
    """Train and yield a report for each epoch of the job."""
    train, fixed = pickle.loads(job["training"])
    _seed(job["id"])
    training = _call(train, {**fixed, **job["params"], "epochs": job["epochs"]})
    epoch = 0
    with contextlib.ExitStack() as stack:
        if hasattr(training, "close"):
            stack.callback(training.close)  # a generator's `finally` runs, whatever went wrong outside it
        for metrics in training:
            if epoch >= job["epochs"]:  # it was told when to end, and the code after its loop had its turn
                return
            report = make_report(metrics, job["metric"], epoch, time.monotonic() - job["start"])
            epoch = report.epoch
            yield report
    if epoch == 0:
        raise RuntimeError("training ended without a report: it must yield a dict of metrics once per epoch")


def describe_exit(exit_code: int) -> str:
    """Return how a process ended, from an exit code as `subprocess` counts: below 0 for a signal."""
    if exit_code >= 0:
        return f"ended with exit status {exit_code}"
    try:
        return f"was killed by signal {-exit_code} ({signal.Signals(-exit_code).name})"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-exit_code}"


def describe(error: BaseException) -> str:
    """Return type and message of an exception, then the last lines of its traceback outside this package."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).parent != Path(__file__).parent
    ]
    first = "".join(traceback.format_exception_only(error)).strip()
    lines = "".join(traceback.format_list(frames)).splitlines()
    return "\n".join([first, *lines[-TRACEBACK_LINES:]])


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process once its parent, `parent`, is gone."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Ask Linux to make this process the parent of descendants that lose theirs."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


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


def _call(train: Any, arguments: dict[str, Any]) -> Any:
    training = train(**arguments)
    if hasattr(training, "__iter__"):
        return training
    raise TypeError(f"train must yield a dict of metrics once per epoch, but it returned {training!r}")


def _seed(job_id: int) -> None:
    # Every job is forked from one process, and would draw the same numbers where it sets no seed.
    random.seed(job_id)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(job_id)


def _send_report(channel: socket.socket, report: Report) -> None:
    try:
        send(channel, ("report", report))
    except OSError:
        raise
    except Exception as error:
        names = sorted(map(str, report.metrics))
        raise TypeError(f"the metrics {names} cannot be sent to the launcher: {error}") from None
