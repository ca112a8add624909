"""Jobs on a cluster of dask.distributed: on many machines, or in processes of this one."""

import collections
import contextlib
import ctypes
import dataclasses
import math
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import cloudpickle
import dask
import psutil
from distributed import Client, LocalCluster, get_worker

from hpo_helpers.jobs import Job, JobStatus, Launcher, positive
from hpo_helpers.jobs.training import describe, explain, pack, pack_job, reports

CHECK_SECONDS = 1.0  #: between two looks at whether the scheduler is still there
GRACE_SECONDS = 5.0  #: after which a training that does not stop is ended with its worker
STOP_SECONDS = 0.05  #: between two looks of a worker at whether its training is still wanted


class ClusterLauncher(Launcher):
    """Train on the workers of a dask.distributed cluster, one job a worker at a time, in a thread there.

    A worker must be able to import this package and the module of `train`; a notebook's function is
    sent to it. A job fails with its worker; on another, Dask may begin it anew for a moment. A stopped
    job ends at its next line of Python; where that takes over 5 s, its worker ends, for Dask's nanny
    to replace. What a job changes in its process, the next one there finds changed. A report's time
    is that of its arrival.

    Parameters
    ----------
    train, fixed, metric
        As in `LocalLauncher`.
    n_workers
        How many jobs may run at a time; by default, as many as the cluster has workers.
    cluster
        A ``distributed.Client`` or the address of a scheduler, such as ``"tcp://10.0.0.1:8786"``;
        OSError if it is silent for 10 s. dask-jobqueue starts workers on Slurm and its like,
        dask-kubernetes on Kubernetes, dask-cloudprovider on a cloud, ``dask worker`` anywhere. By
        default, one of processes on this machine, which may run Windows; `close` ends that alone.
    """

    def __init__(
        self,
        train: Callable[..., Iterable[Mapping[str, Any]]],
        n_workers: int | None = None,
        *,
        cluster: Client | str | None = None,
        fixed: Mapping[str, Any] | None = None,
        metric: str = "valid_error",
    ) -> None:
        super().__init__(metric)
        self._training = pack(train, fixed)
        self._limit = math.inf if n_workers is None else positive("n_workers", n_workers)
        self._name = f"hpo-{uuid.uuid4().hex}"
        self._inbox = collections.deque()  # filled by the client's thread, emptied by this one
        self._news = threading.Event()
        security = None
        if isinstance(cluster, Client):  # its own subscriptions are not to be touched
            cluster, security = cluster.scheduler.address, cluster.security
        with contextlib.ExitStack() as stack:
            address = cluster or stack.enter_context(_own_cluster(n_workers))
            client = Client(address, security=security, timeout=10, set_as_default=False)
            self._client = stack.enter_context(client)
            self._connection, self._lost = client.scheduler_comm, False
            for topic in (self._name, "all"):
                client.subscribe_topic(topic, self._hear)
            self._workers = set(client.nthreads())
            self._resources = stack.pop_all()
        self._start += self.clock()  # begin to count now that the cluster is up

    @property
    def n_workers(self) -> int:
        """How many jobs may run now: as many as the cluster has workers, but one where it has none."""
        return max(1, min(self._limit, len(self._workers)))

    def submit(self, params: Mapping[str, Any], epochs: int) -> "ClusterJob":
        """Start a job, once the cluster has a free worker; RuntimeError if the scheduler was lost."""
        self._check_free()
        if self._lost:
            raise RuntimeError("the connection to the scheduler was lost: make a new launcher")
        job = ClusterJob(self, next(self._ids), params, epochs)
        content = pack_job(job, self.metric, self._training, 0.0)
        job._future = self._client.submit(_train, content, self._name, key=f"{self._name}-{job.id}")
        self._running[job.id] = job
        return job

    def close(self) -> None:
        """Stop what still runs, and end a cluster of its own; another keeps a log of 1000 reports at most."""
        self._closed = True
        for job in list(self._running.values()):
            job._silent = True
            job._end(JobStatus.STOPPED)
        self._resources.close()

    def _hear(self, event):
        self._inbox.append((self.clock(), event[1]))
        self._news.set()

    def _poll(self, timeout=0):
        self._news.wait(CHECK_SECONDS if timeout is None else min(timeout, CHECK_SECONDS))
        self._news.clear()
        while self._inbox:
            self._take(*self._inbox[0])
            self._inbox.popleft()  # only now: after an interruption, it is taken again
        # A client that has found its scheduler again has missed what was told meanwhile.
        self._lost |= self._client.status != "running" or self._client.scheduler_comm is not self._connection
        for job in list(self._running.values()):
            if self._lost:
                job._end(JobStatus.FAILED, "the connection to the scheduler was lost")
            elif job._future.status in ("error", "cancelled"):
                why = job._future.exception() or "it was cancelled"
                job._end(JobStatus.FAILED, f"the cluster could not run it: {why!r}")

    def _take(self, time, message):
        if not isinstance(message, dict):
            job_id, kind, content = message
            if job_id in self._running:
                self._running[job_id]._take(time, kind, pickle.loads(content))
        elif message.get("action") == "add-worker":
            self._workers.add(message["worker"])
        elif message.get("action") == "remove-worker":
            self._workers.discard(worker := message["worker"])
            for job in [job for job in self._running.values() if job.worker == worker]:
                job._end(JobStatus.FAILED, f"its worker {worker} died, or was taken from the cluster")


class ClusterJob(Job):
    """A configuration in training; made by `ClusterLauncher.submit`."""

    worker: str | None = None  #: the address of its worker, once it has started

    def stop(self) -> None:
        """Have the job stopped. The next one may wait for that, a twentieth of a second as a rule."""
        self._silent = True
        if not self.finished:
            self._end(JobStatus.STOPPED)

    def _take(self, time, kind, content):
        if kind == "started":
            self.worker = content
        elif kind != "report":
            self._end(JobStatus(kind), explain(*content) if content else None)
        elif not self._reports or content.epoch > self._reports[-1].epoch:  # it is new
            self._reports.append(dataclasses.replace(content, time=time))

    def _end(self, status, error=None):
        if self._status is JobStatus.RUNNING:
            self._status, self.error = status, error
        self._future.release()  # by which Dask cancels what runs
        self._launcher._running.pop(self.id, None)


# What runs on the workers, which may have more threads, and jobs of other launchers.
_one_job = threading.Lock()


def _train(content, topic):
    """Train in a thread of its own: what ends it must not hit one of Dask's."""
    worker = get_worker()
    task = worker.state.tasks[worker.get_current_task()]
    job = pickle.loads(content)

    def tell(kind, content=None):
        worker.log_event(topic, (job["id"], kind, cloudpickle.dumps(content)))

    thread = threading.Thread(target=_report, args=(job, tell), daemon=True)
    with _one_job:
        tell("started", worker.address)
        thread.start()
        while thread.is_alive() and task.state != "cancelled":  # as it is when its client is gone, too
            thread.join(STOP_SECONDS)
        if thread.is_alive():
            _end_thread(thread)


def _report(job, tell):
    try:
        for report in reports(job):
            tell("report", report)
        tell("completed")
    except BaseException as error:  # SystemExit too: the launcher is told of all
        tell("failed", describe(error))


def _end_thread(thread):
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
    thread.join(GRACE_SECONDS)
    if thread.is_alive():
        os._exit(1)


@contextlib.contextmanager
def _own_cluster(n_workers: int | None) -> Iterator[str]:
    """Start a cluster in a process out of reach of Ctrl-C; yield its address, and end it."""
    command = [sys.executable, "-P", "-m", __name__, str(n_workers or 0)]
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    apart = {"start_new_session": True, "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
    with tempfile.TemporaryFile() as log:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
        with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **pipes, **apart) as process:
            if not (address := process.stdout.readline().decode().strip()):
                log.seek(0)
                raise RuntimeError(f"no cluster can be started: {log.read().decode(errors='replace')}")
            yield address


def _serve(n_workers):
    """Be a cluster until standard input ends, as it does when the launcher's process dies."""
    address = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what trainings print must not fill the pipe
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        dask.config.set({"temporary-directory": folder, "distributed.deploy.lost-worker-timeout": "99 days"})
        cluster = LocalCluster(None, n_workers, 1, memory_limit=None, dashboard_address="127.0.0.1:0")
        print(cluster.scheduler_address, file=address, flush=True)
        sys.stdin.read()
        for process in psutil.Process().children(recursive=True):  # seconds faster than to ask them
            with contextlib.suppress(psutil.Error):
                process.kill()
    os._exit(0)


if __name__ == "__main__":
    _serve(int(sys.argv[1]) or None)  # one worker a processor core
