"""Jobs in processes of this machine, forked from one that has imported everything already.

`multiprocessing` has a fork server too: one for the whole program, with a single preload list and the
environment of its first use. It imports ``__main__`` anew (scripts need their guard), ignores what it cannot
preload, and leaves a resource tracker behind. The one here belongs to its launcher and ends with it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import numbers
import os
import pickle
import selectors
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any

import cloudpickle

from hpo_helpers.jobs import JobStatus, Report, job_epochs
from hpo_helpers.jobs.local.channel import FORK, KILL, Inbox, pack
from hpo_helpers.jobs.local.preload import check_preload, find_preload
from hpo_helpers.jobs.local.script import run_script
from hpo_helpers.jobs.local.server import Server, last_lines
from hpo_helpers.jobs.local.worker import Frame


class LocalLauncher:
    """Train in worker processes of this machine.

    A job starts in milliseconds: it is forked from a process that has imported what training needs. That
    process and its jobs have the import path, the working directory and the environment that this one has
    when the launcher is made, and one thread each for linear algebra. Scripts need no
    ``if __name__ == "__main__"``.

    Parameters
    ----------
    train
        A generator function that yields a dict of metrics after each epoch. It is called as
        ``train(**fixed, **params, epochs=epochs)`` and may be defined anywhere, in a notebook's cell too.
    n_workers
        How many jobs may run at a time; by default, the number of processor cores this process may use.
    fixed
        Arguments that are the same for every job; a job's parameter of the same name comes first.
    metric
        The name of the metric that is tuned.
    preload
        What to have ready before the first job: names ``"module"``, or ``"module:function"`` for a function
        that is called once and remembers its result. By default the module of `train`, after what its
        constant ``PRELOAD`` lists; where `train` is written in a notebook or a script, the modules it names.
        It must start no thread: a job could wait forever for one that was not forked with it.
    memory_limit
        Bytes of address space that a job may take beyond what was preloaded; Linux only.

    Raises
    ------
    TypeError
        If `train` is no function, does not take ``epochs`` and the names in `fixed`, or cannot be pickled.
    ValueError
        If `n_workers` or `memory_limit` is no positive whole number, or `fixed` has ``epochs``.
    NotImplementedError
        On Windows, which cannot fork a process.

    Examples
    --------
    >>> def train(epochs, learning_rate):
    ...     for epoch in range(1, epochs + 1):
    ...         yield {"epoch": epoch, "valid_error": learning_rate / epoch}
    >>> with LocalLauncher(train, n_workers=2) as launcher:
    ...     job = launcher.submit({"learning_rate": 0.1}, epochs=2)
    ...     values = []
    ...     while len(values) < 2:
    ...         launcher.wait([job])
    ...         values += [report.value for report in job.new_reports()]
    >>> values
    [0.1, 0.05]
    """

    def __init__(
        self,
        train: Callable[..., Iterable[Mapping[str, Any]]],
        n_workers: int | None = None,
        *,
        fixed: Mapping[str, Any] | None = None,
        metric: str = "valid_error",
        preload: Sequence[str] | None = None,
        memory_limit: int | None = None,
    ) -> None:
        _check_platform(memory_limit)
        fixed = dict(fixed or {})
        _check_train(train, fixed)
        self.n_workers = _count_cores() if n_workers is None else _positive("n_workers", n_workers)
        self.metric = metric
        self._memory_limit = None if memory_limit is None else _positive("memory_limit", memory_limit)
        self._preload = find_preload(train) if preload is None else check_preload(preload)
        self._training = _pickle(train, fixed)
        self._ids = itertools.count()
        self._running: dict[int, LocalJob] = {}
        self._closed = False
        self._start = time.monotonic()
        self._server: Server | None = self._start_server()

    def clock(self) -> float:
        """Return the seconds since this launcher was made."""
        return time.monotonic() - self._start

    def submit(self, params: Mapping[str, Any], epochs: int) -> LocalJob:
        """Start a job; the first one waits for what is preloaded.

        Raises
        ------
        RuntimeError
            If all workers are taken, the launcher is closed, or preloading failed.
        ValueError
            If the job would have less than one epoch.
        """
        self._poll()
        if self._closed:
            raise RuntimeError("this launcher is closed: make a new one")
        if len(self._running) >= self.n_workers:
            raise RuntimeError(f"all {self.n_workers} workers are taken: wait until a job has finished")
        job = LocalJob(self, next(self._ids), params, _positive("epochs", job_epochs(params, epochs)))
        content = pack(self._describe(job))
        server = self._ready_server()
        try:
            self._running[job.id] = job
            self._send(server, job, content)
        except BaseException:
            job.stop()
            raise
        return job

    def wait(self, jobs: Sequence[LocalJob], timeout: float | None = None) -> None:
        """Return at the first unread report or change of status of `jobs`, or after `timeout` seconds.

        Returns at once if a report is unread (a loop must read them, or it never rests) or a change of status
        was not yet waited for. ValueError if nothing could ever end the wait: `jobs` is empty, or each has
        finished, was waited for and read.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._poll()
        while not any(job._has_news() for job in jobs):
            if all(job._is_gone() for job in jobs):
                raise ValueError(f"there is no running job to wait for, got {list(jobs)!r}")
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                return
            self._poll(remaining)
        for job in jobs:
            job._end_was_seen = job._is_gone()

    def close(self) -> None:
        """Stop what still runs, and leave no process and no open file. It may be called twice."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        for job in list(self._running.values()):
            job._silent = True
            job._status = JobStatus.STOPPED
            job._finish("the launcher was closed")
        self._running.clear()
        self._server = None

    def __enter__(self) -> LocalLauncher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start_server(self) -> Server:
        server = Server(self._preload)
        # Closes it at the end of the program, or once nobody can reach a launcher that was never closed.
        weakref.finalize(self, server.close)
        return server

    def _ready_server(self) -> Server:
        server = self._server = self._server or self._start_server()
        while not server.ready and self._server is server:
            self._poll(None)
        if self._server is not server:
            raise RuntimeError(f"{server.failure}\n(preload=[…] names what jobs need, preload=() nothing)")
        return server

    def _describe(self, job: LocalJob) -> dict[str, Any]:
        described = {"id": job.id, "params": job.params, "epochs": job.epochs, "metric": self.metric}
        return described | {
            "training": self._training,
            "memory_limit": self._memory_limit,
            "start": self._start,
        }

    def _send(self, server: Server, job: LocalJob, content: bytes) -> None:
        channel, channel_of_job = socket.socketpair()
        job._output = job._resources.enter_context(tempfile.TemporaryFile())
        job._inbox = Inbox(job._resources.enter_context(channel))
        # When a process dies before it has read everything, its end is told like any other.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            with channel_of_job:
                server.command(FORK, job.id, [channel_of_job.fileno(), job._output.fileno()])
            channel.sendall(content)

    def _kill(self, job: LocalJob) -> None:
        if self._server is not None:
            with contextlib.suppress(OSError):  # a dead server has no job; the next poll finds it dead
                self._server.command(KILL, job.id)

    def _wait_until_gone(self, job: LocalJob) -> None:
        while job.id in self._running:
            self._poll(None)

    def _poll(self, timeout: float | None = 0) -> None:
        """Take in what the jobs and the server have to say, waiting up to `timeout` seconds for something."""
        if self._server is None:
            return
        jobs = list(self._running.values())
        inboxes = [self._server.inbox] + [job._inbox for job in jobs if job._inbox is not None]
        with selectors.DefaultSelector() as selector:
            for inbox in inboxes:
                if not inbox.ended:
                    selector.register(inbox.channel, selectors.EVENT_READ)
            selector.select(timeout)
        for job in jobs:
            job._read()
        self._server.inbox.deliver(self._take)
        if self._server.inbox.ended:
            self._lose_server(self._server)

    def _take(self, message: bytes) -> None:
        kind, *content = pickle.loads(message)
        if kind == "ready":
            self._server.ready = True
        elif kind == "unusable":
            self._server.failure = content[0]
        elif content[0] in self._running:
            job_id, reason = content
            self._running[job_id]._finish(reason + self._memory_hint())
            self._running.pop(job_id)

    def _memory_hint(self) -> str:
        if self._memory_limit is None:
            return ""
        return f"; it may have lacked memory (memory_limit={self._memory_limit:,} bytes)"

    def _lose_server(self, server: Server) -> None:
        if server.failure is None:
            server.failure = server.describe_loss()
            if server.ready:
                warnings.warn(f"{server.failure}\nThe next job starts a new one.", RuntimeWarning, 2)
        for job in list(self._running.values()):
            job._kill_group()
            job._finish(server.failure)
        self._running.clear()
        server.close()
        self._server = None


class LocalJob:
    """A configuration in training; made by `LocalLauncher.submit`."""

    def __init__(self, launcher: LocalLauncher, id: int, params: Mapping[str, Any], epochs: int) -> None:
        self.id = id
        self.params = dict(params)
        self.epochs = epochs
        self.error: str | None = None
        self.pid: int | None = None  #: of its process, once that has started
        self._launcher = launcher
        self._resources = contextlib.ExitStack()
        self._output: IO[bytes] | None = None
        self._inbox: Inbox | None = None
        self._status = JobStatus.RUNNING
        self._ending: tuple[JobStatus, Any] | None = None  # as it told itself
        self._reports: dict[int, Report] = {}
        self._n_read = 0
        self._silent = False
        self._end_was_seen = False

    def __repr__(self) -> str:
        return f"<LocalJob {self.id}: {self._status.value}, {self.params}>"

    @property
    def status(self) -> JobStatus:
        """Where the job stands at this moment."""
        self._launcher._poll()
        return self._status

    @property
    def finished(self) -> bool:
        """Whether the job has ended and its process is gone."""
        self._launcher._poll()
        return self._is_gone()

    def new_reports(self) -> list[Report]:
        """Return the reports that were not returned before, oldest first."""
        self._launcher._poll()
        reports = self._unread()
        self._n_read = len(self._reports)
        return reports

    def stop(self) -> None:
        """Kill the job and wait until it is gone.

        What it started is killed with it; where that began a session of its own, with the launcher.
        """
        self._silent = True
        if self.finished:
            return
        self._status = JobStatus.STOPPED
        self._launcher._kill(self)
        self._launcher._wait_until_gone(self)

    def _unread(self) -> list[Report]:
        return [] if self._silent else list(self._reports.values())[self._n_read :]

    def _is_gone(self) -> bool:
        return self.id not in self._launcher._running

    def _has_news(self) -> bool:
        return bool(self._unread()) or (self._is_gone() and not self._end_was_seen)

    def _read(self) -> None:
        if self._inbox is not None:
            self._inbox.deliver(self._take)

    def _take(self, message: bytes) -> None:
        try:
            kind, content = pickle.loads(message)
        except Exception as error:
            kind = "failed"
            content = f"the metrics cannot be read here: {type(error).__name__}: {error}", []
            self._launcher._kill(self)
        if kind == "started":
            self.pid = content
        elif kind == "report":
            self._reports.setdefault(content.epoch, content)
        elif self._ending is None:
            self._ending = JobStatus(kind), content

    def _kill_group(self) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def _finish(self, reason: str) -> None:
        """Settle the status of a job whose process is gone, for `reason` unless the job told its own."""
        self._read()
        if self._status is JobStatus.RUNNING:
            status, content = self._ending or (JobStatus.FAILED, (reason, []))
            if status is JobStatus.FAILED:
                self.error = _explain(*content) + last_lines(self._output)
            self._status = status
        self._resources.close()


class LocalScript(LocalLauncher):
    """Train by running a command line per job, a script in any language.

    The parameters are appended under their own names: ``python train.py --learning_rate 0.1 --epochs 27``.
    Every line of output that names the tuned metric is a report, of all ``name=value`` pairs on it:
    ``epoch=3 valid_error=0.0412``. The script must flush each line (Python is told to), and a status other
    than 0 is a failure.

    Parameters
    ----------
    command
        The program and its first arguments, such as ``["Rscript", "train.R"]``.
    n_workers, fixed, metric, memory_limit
        As in `LocalLauncher`.

    Raises
    ------
    TypeError
        If `command` is no list of strings.
    """

    def __init__(
        self,
        command: Sequence[str],
        n_workers: int | None = None,
        *,
        fixed: Mapping[str, Any] | None = None,
        metric: str = "valid_error",
        memory_limit: int | None = None,
    ) -> None:
        if isinstance(command, str) or not command or not all(map(_is_text_or_path, command)):
            raise TypeError(f'command must be a list such as ["python", "train.py"], got {command!r}')
        train = functools.partial(run_script, tuple(map(os.fspath, command)), metric)
        super().__init__(train, n_workers, fixed=fixed, metric=metric, memory_limit=memory_limit)


def _is_text_or_path(part: Any) -> bool:
    return isinstance(part, (str, os.PathLike))


def _check_platform(memory_limit: int | None) -> None:
    if not hasattr(os, "fork"):
        raise NotImplementedError(
            f"jobs are forked processes, which {sys.platform} does not have: use WSL2 or Google Colab"
        )
    if memory_limit is not None and sys.platform != "linux":
        raise NotImplementedError(f"memory_limit works on Linux, not on {sys.platform}: leave it out")


def _check_train(train: Any, fixed: Mapping[str, Any]) -> None:
    if not callable(train):
        raise TypeError(f"train must be a function, not its result, got {train!r}")
    if "epochs" in fixed:
        raise ValueError(f"epochs is given to each job, not in fixed, got {dict(fixed)!r}")
    try:
        signature = inspect.signature(train)
    except ValueError:  # some functions written in C tell nothing of theirs
        return
    try:
        signature.bind_partial(**fixed, epochs=1)
    except TypeError as error:
        raise TypeError(f"train must accept {[*fixed, 'epochs']}, got {train!r}: {error}") from None


def _pickle(train: Any, fixed: Mapping[str, Any]) -> bytes:
    try:
        return cloudpickle.dumps((train, fixed))
    except Exception as error:
        raise TypeError(f"train and fixed cannot be sent to other processes: {error}") from error


def _positive(name: str, value: Any) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    return int(value)


def _count_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no such call
        return os.cpu_count() or 1


def _explain(error: str, frames: Sequence[Frame]) -> str:
    lines = traceback.format_list([traceback.FrameSummary(*frame) for frame in frames])
    return "\n".join([error, *"".join(lines).splitlines()])
