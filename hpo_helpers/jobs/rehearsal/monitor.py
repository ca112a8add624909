"""The process between the rehearsal and a job's script: it ends the script and what that started.

It is run by its path and knows nothing of the package, so that it starts at once. A byte of its input
asks it to end the script gently (SIGTERM); the end of the input, which comes with the death of the
rehearsal too, to kill it. It ends as the script ended.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of <linux/prctl.h>


def main(command: list[str]) -> None:
    """Run a command to its end, and end as it did."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # it only has to wake `_watch`
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # who loses its parent becomes a child of this process
    rehearsal, monitor = os.getppid(), os.getpid()
    script = os.fork()
    if script == 0:
        _become(command, monitor)
    exit_code = _watch(script, woken, rehearsal)
    _end_descendants(script)
    if exit_code >= 0:
        os._exit(exit_code)
    os.kill(os.getpid(), -exit_code)


def _become(command, monitor):
    os.setsid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == monitor:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execv(command[0], command)
    os._exit(1)


def _watch(script, woken, rehearsal):
    """Do what the lifeline says until the script has ended; return its exit code."""
    while True:
        ended, status = os.waitpid(script, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        ready = select.select([0, woken], [], [], 1.0)[0]
        if woken in ready:
            os.read(woken, 4096)
        asked = os.read(0, 1) if 0 in ready else None
        # A forked copy of the rehearsal may hold the lifeline open after its death: ask for both.
        if asked == b"" or os.getppid() != rehearsal:
            os.kill(script, signal.SIGKILL)
            time.sleep(0.001)
        elif asked:
            os.kill(script, signal.SIGTERM)


def _end_descendants(script):
    """Kill what the script has left running; for seconds at most, as it may be another user's."""
    children = f"/proc/self/task/{os.getpid()}/children"
    for _ in range(1000):
        with contextlib.suppress(OSError):
            os.killpg(script, signal.SIGKILL)
        with contextlib.suppress(OSError), open(children) as file:  # there are such files on Linux
            for child in file.read().split():
                os.kill(int(child), signal.SIGKILL)
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.002)
        except ChildProcessError:
            return


def _prctl(option, value):
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    main(sys.argv[1:])
