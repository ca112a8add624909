"""The process that LocalLauncher's jobs are forked from, with all that they need imported.

It ends, after all that it has started, when the launcher closes its socket or is gone.
"""

import contextlib
import os
import select
import signal
import socket
import time
import traceback

import psutil

from hpo_helpers.jobs.local.channel import send
from hpo_helpers.jobs.local.preload import preload
from hpo_helpers.jobs.local.process import adopt_orphans, describe_exit, die_with_parent, kill_group
from hpo_helpers.jobs.local.server import COMMAND, FORK
from hpo_helpers.jobs.local.worker import run_job

PARENT_CHECK_SECONDS = 1.0
END_SECONDS = 5.0


def main(control_fd: int, names: list[str]) -> None:
    """Preload, then serve the launcher at the other end of `control_fd`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to handle
    control = socket.socket(fileno=control_fd)
    server = ForkServer(control)
    exit_status = 1
    try:
        preload(names)
        send(control, ("ready", None))
        with contextlib.suppress(ConnectionError):  # the launcher is gone
            server.serve()
        exit_status = 0
    except BaseException:  # a module may even exit
        traceback.print_exc()  # shown by the launcher
    finally:
        server.end()
        os._exit(exit_status)  # nothing of what was preloaded has a say in it


class ForkServer:
    """Forks, kills and reaps jobs."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._jobs = {}  # process id -> job id
        self._wake, self._waker = socket.socketpair()
        adopt_orphans()  # or it would not find what jobs have started
        self._pid = os.getpid()
        self._parent = os.getppid()

    def serve(self) -> None:
        """Obey commands and tell of deaths, until the launcher is gone."""
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # A fork of the launcher's process may hold the socket open: ask for both.
        while os.getppid() == self._parent:
            ready, _, _ = select.select([self._control, self._wake], [], [], PARENT_CHECK_SECONDS)
            if self._wake in ready:
                self._wake.recv(1024)
            if self._control in ready and not self._obey():
                return
            self._reap()

    def end(self) -> None:
        """Kill all jobs and what they started, and return once they are gone."""
        self._jobs.clear()  # there is nobody to tell of them
        deadline = time.monotonic() + END_SECONDS  # another user's process cannot be killed
        while (processes := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            self._reap()

    def _obey(self):
        command, descriptors, _, _ = socket.recv_fds(self._control, COMMAND.size, 2)
        if not command:
            return False
        kind, job_id = COMMAND.unpack(command)
        if kind == FORK:
            self._fork(job_id, *descriptors)
        else:
            self._kill(job_id)
        return True

    def _fork(self, job_id, channel, output):
        try:
            pid = os.fork()
        except OSError as error:
            self._tell_end(job_id, f"it could not be started: {error}")
            return
        if pid == 0:
            self._become_job(channel, output)
        os.close(channel)
        os.close(output)
        self._jobs[pid] = job_id

    def _become_job(self, channel, output):
        exit_status = 1
        try:
            os.setpgid(0, 0)
            die_with_parent(self._pid)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for server_socket in (self._control, self._wake, self._waker):
                server_socket.close()
            os.set_inheritable(channel, False)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            run_job(socket.socket(fileno=channel))
            exit_status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(exit_status)

    def _kill(self, job_id):
        pids = [pid for pid, job in self._jobs.items() if job == job_id]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)  # forked this instant, it may have no group yet
            kill_group(pid)
        if not pids:  # it has just ended, or the launcher was interrupted
            self._tell_end(job_id, "it was never started")

    def _reap(self):
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found
                if pid not in self._jobs:  # an orphan that a job left behind
                    continue
                kill_group(pid)  # what it started; a group with a member keeps its number
                ending = describe_exit(os.waitstatus_to_exitcode(status))
                self._tell_end(self._jobs.pop(pid), f"the process {ending} before the end of training")

    def _tell_end(self, job_id, reason):
        send(self._control, ("ended", (job_id, reason)))
