"""Jobs in processes of this machine, forked from one that has imported everything already.

The fork server of `multiprocessing` imports ``__main__`` anew and ignores what it cannot preload.
"""

import contextlib
import multiprocessing.connection
import os
import socket
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hpo_helpers.jobs import Job, JobStatus, Launcher, positive
from hpo_helpers.jobs.local.channel import Inbox
from hpo_helpers.jobs.local.preload import find_preload
from hpo_helpers.jobs.local.process import kill_group, last_lines
from hpo_helpers.jobs.local.server import FORK, KILL, Server
from hpo_helpers.jobs.training import explain, pack, pack_job


class LocalLauncher(Launcher):
    """Train in worker processes of this machine.

    A job is forked, in milliseconds, from a process that has imported what training needs, in
    the surroundings in which the launcher was made. It has one thread for linear algebra.
    Scripts need no ``if __name__ == "__main__"``.

    Parameters
    ----------
    train
        A generator function that yields a dict of metrics after each epoch, called as
        ``train(**fixed, **params, epochs=epochs)``. A notebook's cell may define it.
    n_workers
        How many jobs may run at a time; by default, one a processor core.
    fixed
        Arguments of every job; a job's own of the same name comes first.
    metric
        The name of the metric that is tuned.
    preload
        What to have ready before the first job: names ``"module"``, or ``"module:function"``
        to call once. By default what the constant ``PRELOAD`` of the module of `train`
        lists, and that module; in a notebook or a script, the modules that `train` names.
        It must start no thread, for which a job would wait forever.
    """

    def __init__(
        self,
        train: Callable[..., Iterable[Mapping[str, Any]]],
        n_workers: int | None = None,
        *,
        fixed: Mapping[str, Any] | None = None,
        metric: str = "valid_error",
        preload: Sequence[str] | None = None,
    ) -> None:
        from joblib import cpu_count  # also what a container leaves

        if not hasattr(os, "fork"):
            raise NotImplementedError(f"{sys.platform} cannot fork a process: use ClusterLauncher")
        super().__init__(metric)
        self._training = pack(train, fixed)
        self.n_workers = positive("n_workers", cpu_count() if n_workers is None else n_workers)
        self._preload = find_preload(train) if preload is None else list(preload)
        self._server = self._start_server()

    def submit(self, params: Mapping[str, Any], epochs: int) -> "LocalJob":
        """Start a job; the first one waits for what is preloaded."""
        self._check_free()
        server = self._ready_server()
        job = LocalJob(self, next(self._ids), params, epochs)
        content = pack_job(job, self.metric, self._training, self._start)
        try:
            job._begin(server, content)
        except BaseException:
            job.stop()
            raise
        return job

    def close(self) -> None:
        """Stop what still runs, and leave no process and no open file."""
        self._closed = True
        for job in self._running.values():
            job._silent = True
            job._status = JobStatus.STOPPED
        if self._server is not None:
            self._end_server("the launcher was closed")

    def _start_server(self):
        server = Server(self._preload)
        weakref.finalize(self, server.close)  # for a launcher that is never closed
        return server

    def _ready_server(self):
        server = self._server = self._server or self._start_server()
        while not server.ready and self._server is server:
            self._poll(None)
        if self._server is not server:
            raise RuntimeError(server.failure)
        return server

    def _poll(self, timeout=0):
        if self._server is None:
            return
        jobs = list(self._running.values())
        inboxes = [self._server.inbox] + [job._inbox for job in jobs]
        multiprocessing.connection.wait([inbox.channel for inbox in inboxes if not inbox.ended], timeout)
        for job in jobs:
            job._inbox.deliver(job._take)
        self._server.inbox.deliver(self._take)
        if self._server.inbox.ended:
            self._lose_server(self._server)

    def _take(self, message):
        kind, content = message
        if kind == "ready":
            self._server.ready = True
            return
        job_id, reason = content
        if job_id in self._running:
            self._running[job_id]._finish(reason)
            self._running.pop(job_id)

    def _lose_server(self, server):
        """Fail its jobs; the next job starts a new one."""
        server.failure = server.failure or server.describe_loss()
        for job in self._running.values():
            if job.pid is not None:
                kill_group(job.pid)
        self._end_server(server.failure)

    def _end_server(self, reason):
        self._server.close()
        for job in list(self._running.values()):
            job._finish(reason)
        self._running.clear()
        self._server = None


class LocalJob(Job):
    """A configuration in training; made by `LocalLauncher.submit`."""

    pid: int | None = None  #: of its process, once that has started
    _ending = None  # as it told itself

    def stop(self) -> None:
        """Kill the job with what it started, and wait until it is gone."""
        self._silent = True
        if self.finished:
            return
        self._status = JobStatus.STOPPED
        with contextlib.suppress(OSError):  # a dead server: the next poll finds that
            self._launcher._server.command(KILL, self.id)
        while not self._is_gone():
            self._launcher._poll(None)

    def _begin(self, server, content):
        channel, channel_of_job = socket.socketpair()
        self._inbox = Inbox(channel)
        self._output = tempfile.TemporaryFile()
        self._launcher._running[self.id] = self
        # If it dies before it has read everything, that is told like any other end.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            with channel_of_job:
                server.command(FORK, self.id, [channel_of_job.fileno(), self._output.fileno()])
            channel.sendall(content)

    def _take(self, message):
        kind, content = message
        if kind == "started":
            self.pid = content
        elif kind != "report":
            self._ending = JobStatus(kind), content
        elif not self._reports or content.epoch > self._reports[-1].epoch:  # it is new
            self._reports.append(content)

    def _finish(self, reason):
        """Settle how a job ended whose process is gone: for `reason` if it told none."""
        self._inbox.deliver(self._take)
        if self._status is JobStatus.RUNNING:
            status, content = self._ending or (JobStatus.FAILED, (reason, []))
            if status is JobStatus.FAILED:
                self.error = explain(*content) + last_lines(self._output)
            self._status = status
        self._inbox.close()
        self._output.close()
