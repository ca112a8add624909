"""The process that LocalLauncher's jobs are forked from, where everything they need is imported already.

It has a single thread and answers one launcher over one socket. When the socket closes, or the launcher's
process is gone, it ends, after its jobs and everything that they started.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import operator
import os
import select
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Sequence

import psutil

from hpo_helpers.jobs.local.channel import COMMAND, FORK, KILL, send
from hpo_helpers.jobs.local.process import adopt_orphans, describe_exit, die_with_parent
from hpo_helpers.jobs.local.worker import run_job

PARENT_CHECK_SECONDS = 1.0
END_SECONDS = 5.0


def main(control_fd: int, preload: Sequence[str]) -> None:
    """Preload, then serve the launcher at the other end of `control_fd` until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to handle
    control = socket.socket(fileno=control_fd)
    server = ForkServer(control)
    try:
        with _ending_with(control):
            _preload(preload)
    except RuntimeError as error:
        send(control, ("unusable", str(error)))
        return
    sys.stdout.flush()  # or every job would print what the preloaded modules did
    send(control, ("ready",))
    exit_status = 1
    try:
        server.serve()
        exit_status = 0
    except ConnectionError:  # the launcher is gone
        exit_status = 0
    except BaseException:
        traceback.print_exc()  # shown by the launcher
    finally:
        server.end()
        os._exit(exit_status)  # nothing of what was preloaded has a say in when this ends


class ForkServer:
    """Forks, kills and reaps jobs."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._jobs: dict[int, int] = {}  # process id -> job id
        self._wake, self._waker = socket.socketpair()
        adopt_orphans()  # a job's grandchildren become children of this process when their parent ends
        self._pid = os.getpid()
        self._parent = os.getppid()

    def serve(self) -> None:
        """Obey commands and tell of deaths, until the launcher is gone."""
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ, self._obey)
            selector.register(self._wake, selectors.EVENT_READ, self._wake_up)
            serving = True
            # A forked copy of the launcher's process may hold the socket open after its death: ask for both.
            while serving and os.getppid() == self._parent:
                ready = selector.select(PARENT_CHECK_SECONDS)
                serving = all([key.data() for key, _ in ready])
                for pid, exit_code in _reap():
                    self._bury(pid, exit_code)

    def end(self) -> None:
        """Kill every job and all that the jobs started, and return once they are gone."""
        deadline = time.monotonic() + END_SECONDS  # another user's process cannot be killed
        while (processes := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            _reap()

    def _obey(self) -> bool:
        command, descriptors, _, _ = socket.recv_fds(self._control, COMMAND.size, 2)
        if not command:
            return False
        kind, job_id = COMMAND.unpack(command)
        if kind == FORK:
            self._fork(job_id, *descriptors)
        elif kind == KILL:
            self._kill(job_id)
        return True

    def _fork(self, job_id: int, channel: int, output: int) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            send(self._control, ("ended", job_id, f"it could not be started: {error}"))
            return
        if pid == 0:
            self._become_job(channel, output)
        os.close(channel)
        os.close(output)
        with contextlib.suppress(OSError):  # it does so itself as well: whoever is first
            os.setpgid(pid, pid)
        self._jobs[pid] = job_id

    def _become_job(self, channel: int, output: int) -> None:
        exit_status = 1
        try:
            os.setpgid(0, 0)
            die_with_parent(self._pid)
            self._leave_server()
            os.set_inheritable(channel, False)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            sys.stdout.reconfigure(line_buffering=True)
            with socket.socket(fileno=channel) as job_channel:
                run_job(job_channel)
            sys.stdout.flush()
            exit_status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(exit_status)

    def _leave_server(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for server_socket in (self._control, self._wake, self._waker):
            server_socket.close()

    def _kill(self, job_id: int) -> None:
        pids = [pid for pid, job in self._jobs.items() if job == job_id]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)  # forked this instant, it may have no group of its own yet
            _kill_group(pid)
        if not pids:  # it has just ended, or the launcher was interrupted before it had it forked
            send(self._control, ("ended", job_id, "it was never started"))

    def _wake_up(self) -> bool:
        self._wake.recv(1024)
        return True

    def _bury(self, pid: int, exit_code: int) -> None:
        if pid not in self._jobs:  # an orphan that a job left behind
            return
        _kill_group(pid)  # what the job started; a group keeps its number while it has a member
        ending = f"the process {describe_exit(exit_code)} before the end of training"
        send(self._control, ("ended", self._jobs.pop(pid), ending))


def _preload(names: Sequence[str]) -> None:
    for name in names:
        module, _, function = name.partition(":")
        try:
            imported = importlib.import_module(module)
            if function:
                operator.attrgetter(function)(imported)()
        except BaseException as error:  # a module may even exit
            raise RuntimeError(f"preloading {name!r} failed with {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _ending_with(control: socket.socket) -> Iterator[None]:
    """Inside the block, which may take long, let the system end this process when `control` closes."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    descriptor = control.fileno()
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)  # closing raises SIGIO, which kills
    if select.select([control], [], [], 0)[0]:  # it has closed before that
        os._exit(0)
    try:
        yield
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)


def _reap() -> list[tuple[int, int]]:
    """Return process id and exit code of every child that has ended."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append((found[0], os.waitstatus_to_exitcode(found[1])))
    return ended


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
