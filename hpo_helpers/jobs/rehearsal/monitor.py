"""The process between the rehearsal and a job's script: it ends the script and whatever that started.

It is run by its path, so that it starts at once, and knows nothing of the package but `_process` beside it.
Its standard input is its lifeline: a byte asks it to end the script gently (SIGTERM), and the end of the
input, which comes with the death of the rehearsal too, to kill it. It ends as the script ended.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import subprocess
import sys
import threading
import time

from _process import adopt_orphans, die_with_parent

PARENT_CHECK_SECONDS = 1.0
END_SECONDS = 5.0


def main(command: list[str]) -> None:
    """Run a command to its end, and end as it did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the rehearsal's to handle
    parent = os.getppid()
    adopt_orphans()
    script = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=functools.partial(die_with_parent, os.getpid()),
    )
    threading.Thread(target=_obey, args=(script, parent), daemon=True).start()
    exit_code = script.wait()
    _end_descendants()
    _end_like(exit_code)


def _obey(script: subprocess.Popen, parent: int) -> None:
    # A forked copy of the rehearsal's process may hold the lifeline open after its death: ask for both.
    while os.getppid() == parent:
        if not select.select([0], [], [], PARENT_CHECK_SECONDS)[0]:
            continue
        if not os.read(0, 1):
            break
        script.terminate()
    script.kill()


def _end_descendants() -> None:
    """Kill all that the script has left running; the system made this process their parent."""
    deadline = time.monotonic() + END_SECONDS  # another user's process cannot be killed
    while _has_children() and time.monotonic() < deadline:
        import psutil  # it takes a while, and few scripts leave anything

        with contextlib.suppress(psutil.Error, OSError):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        time.sleep(0.005)


def _has_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _end_like(exit_code: int) -> None:
    if exit_code >= 0:
        os._exit(exit_code)
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the script has left its own, if any
    if -exit_code != signal.SIGKILL:
        signal.signal(-exit_code, signal.SIG_DFL)
    os.kill(os.getpid(), -exit_code)


if __name__ == "__main__":
    main(sys.argv[1:])
