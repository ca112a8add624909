"""Jobs on a cluster of dask.distributed: on many machines, or in processes of this one.

A training runs in a thread of its own, in a worker process that has other trainings after it.
"""

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
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
from distributed import Client, LocalCluster, get_worker

from hpo_helpers.jobs import Job, JobStatus, Launcher, positive
from hpo_helpers.jobs.training import describe, explain, pack, pack_job, reports

CONNECT_SECONDS = 10.0
WORKER_SECONDS = 60.0  #: within which a cluster without a free worker must have one again
CHECK_SECONDS = 1.0  #: between two looks at whether the scheduler is still there
STOP_SECONDS = 0.02  #: between two looks of a worker at whether its training is still wanted
GRACE_SECONDS = 5.0  #: after which a training that does not stop is ended with its worker
CLOSE_SECONDS = 10.0

#: Training has the processor to itself, and a worker that dies is replaced however often.
SETTINGS = {
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "10000 days",
}


class ClusterLauncher(Launcher):
    """Train on the workers of a dask.distributed cluster, one training a worker at a time.

    The workers are given the training function and its arguments. They must be able to import
    this package and the module of the function; one of a notebook's cell needs no module.
    A job whose worker dies has failed, and another worker takes the next. A stopped job ends at
    its next line of Python. Where that takes over 5 s, its worker is ended, for Dask's nanny to
    replace. What a training changes in its process, the next one there finds changed.

    Parameters
    ----------
    train, fixed, metric
        As in `LocalLauncher`.
    n_workers
        How many jobs may run at a time; by default, as many as the cluster has workers.
    cluster
        A ``distributed.Client``, or the address of a scheduler, such as ``"tcp://10.0.0.1:8786"``.
        ``dask worker`` starts a worker on any machine, dask-jobqueue on Slurm and its like,
        dask-kubernetes on Kubernetes, dask-cloudprovider on a cloud. It is left running.
        Without it, a cluster of processes on this machine, on Windows too, that `close` ends.

    Raises
    ------
    OSError
        If the scheduler does not answer within 10 s.
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
        self._topic = f"hpo-{uuid.uuid4().hex}"
        self._inbox = collections.deque()  # filled by the client's thread, emptied by this one
        self._news = threading.Event()
        self._is_own = cluster is None
        with contextlib.ExitStack() as stack:
            if cluster is None:
                cluster = stack.enter_context(_own_cluster(n_workers))
            self._connect(cluster, stack)
            self._resources = stack.pop_all()

    @property
    def n_workers(self) -> int:
        """How many jobs may run now: no more than the cluster has workers."""
        return max(1, min(self._limit, len(self._workers)))

    def submit(self, params: Mapping[str, Any], epochs: int) -> "ClusterJob":
        """Start a job; RuntimeError if the scheduler is lost, or for a minute no worker is free."""
        self._check_free()
        job = ClusterJob(self, next(self._ids), params, epochs)
        content = pack_job(job, self.metric, self._training, 0.0)
        job.worker = self._free_worker()
        # Tied to its worker, Dask never trains it again elsewhere.
        key = f"{self._topic}-{job.id}"
        job._future = self._client.submit(_train, content, self._topic, key=key, workers=[job.worker])
        self._running[job.id] = job
        return job

    def close(self) -> None:
        """Stop what still runs. A cluster that was given has no task, no client of this launcher then."""
        self._closed = True
        jobs = list(self._running.values())
        for job in jobs:
            job._cancel()
        deadline = time.monotonic() + CLOSE_SECONDS
        while not self._is_own and any(job._started for job in self._running.values()):
            self._poll(max(0.0, deadline - time.monotonic()))
            if time.monotonic() > deadline:
                break
        for job in jobs:
            job._end(JobStatus.STOPPED)
        self._resources.close()

    def _connect(self, cluster, stack):
        security = None
        if isinstance(cluster, Client):  # whose own subscriptions are not to be touched
            cluster, security = cluster.scheduler.address, cluster.security
        client = Client(cluster, security=security, timeout=CONNECT_SECONDS, set_as_default=False)
        self._client = stack.enter_context(client)
        self._connection = client.scheduler_comm
        self._lost = False
        for topic in (self._topic, "all"):
            client.subscribe_topic(topic, self._hear)
            stack.callback(self._unsubscribe, topic)
        self._workers = set(client.nthreads())

    def _unsubscribe(self, topic):
        if self._client.status == "running":
            self._client.unsubscribe_topic(topic)

    def _hear(self, event):
        self._inbox.append((self.clock(), event[1]))
        self._news.set()

    def _poll(self, timeout=0):
        self._news.wait(CHECK_SECONDS if timeout is None else min(timeout, CHECK_SECONDS))
        self._news.clear()
        while self._inbox:
            self._take(*self._inbox[0])
            self._inbox.popleft()  # only now: after an interruption, it is taken again
        # A client that has found its scheduler again has lost what was told meanwhile.
        is_same = self._client.status == "running" and self._client.scheduler_comm is self._connection
        self._lost = self._lost or not is_same
        for job in list(self._running.values()):
            if self._lost:
                job._end(JobStatus.FAILED, "the connection to the scheduler was lost")
            elif job._future.status == "error":  # before the training began
                job._end(JobStatus.FAILED, f"its worker could not start it: {job._future.exception()!r}")

    def _take(self, time, message):
        if isinstance(message, dict):
            return self._take_change(message.get("action"), message.get("worker"))
        job_id, kind, content = message
        if job_id in self._running:
            self._running[job_id]._take(time, kind, pickle.loads(content))

    def _take_change(self, action, worker):
        if action == "add-worker":
            self._workers.add(worker)
        elif action == "remove-worker":
            self._workers.discard(worker)
            for job in [job for job in self._running.values() if job.worker == worker]:
                job._end(JobStatus.FAILED, f"its worker {worker} died, or was taken from the cluster")

    def _free_worker(self):
        """Return the address of a worker without a job, of those with the fewest tasks of others."""
        deadline = time.monotonic() + WORKER_SECONDS
        while not self._lost and time.monotonic() < deadline:
            tasks = self._client.processing()
            self._workers = set(tasks)
            free = self._workers - {job.worker for job in self._running.values()}
            if free:
                return min(free, key=lambda worker: (len(tasks[worker]), worker))
            self._poll(CHECK_SECONDS)
        if self._lost:
            raise RuntimeError("the connection to the scheduler was lost: make a new launcher")
        raise RuntimeError(f"the cluster had no free worker for {WORKER_SECONDS:g} s")


class ClusterJob(Job):
    """A configuration in training; made by `ClusterLauncher.submit`.

    The `time` of its reports is when they arrived.
    """

    worker: str  #: the address of its worker
    _started = False

    def stop(self) -> None:
        """Have the job stopped; `finished` says when its worker is free."""
        self._silent = True
        if not self.finished:
            self._status = JobStatus.STOPPED
            if self._started:  # or Dask would drop it without a word
                self._future.cancel()

    def _cancel(self):
        self._silent = True
        if not self._launcher._lost:
            self._future.cancel()

    def _take(self, time, kind, content):
        if kind == "started":
            self._started = True
            if self._status is JobStatus.STOPPED:
                self._future.cancel()
        elif kind != "report":
            self._end(JobStatus(kind), explain(*content) if content else None)
        elif not self._reports or content.epoch > self._reports[-1].epoch:  # it is new
            self._reports.append(dataclasses.replace(content, time=time))

    def _end(self, status, error=None):
        if self._status is JobStatus.RUNNING:
            self._status, self.error = status, error
        self._future.release()
        self._launcher._running.pop(self.id, None)


# What runs on the workers.

_one_training = threading.Lock()  # a worker may have more threads, another launcher more jobs


def _train(content, topic):
    """Train in a thread of its own: what ends it must not hit one of Dask's."""
    worker = get_worker()
    task = worker.state.tasks[worker.get_current_task()]
    job = pickle.loads(content)

    def tell(kind, content=None):
        worker.log_event(topic, (job["id"], kind, cloudpickle.dumps(content)))

    with _one_training:
        thread = threading.Thread(target=_report, args=(job, tell), daemon=True)
        tell("started")
        thread.start()
        while thread.is_alive() and task.state != "cancelled":  # as it is once its client is gone
            thread.join(STOP_SECONDS)
        if task.state == "cancelled":
            _end_thread(thread)
            tell("stopped")


def _report(job, tell):
    try:
        for report in reports(job):
            tell("report", report)
    except BaseException as error:  # SystemExit too: the launcher is told of all
        tell("failed", describe(error))
    else:
        tell("completed")


def _end_thread(thread):
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
    thread.join(GRACE_SECONDS)
    if thread.is_alive():
        os._exit(1)


# A cluster of a launcher's own.


@contextlib.contextmanager
def _own_cluster(n_workers: int | None) -> Iterator[str]:
    """Start a cluster in a process that Ctrl-C does not reach; yield its address, and end it."""
    from joblib import cpu_count  # also what a container leaves

    path = os.pathsep.join([*map(os.path.abspath, sys.path), str(Path(__file__).parents[2])])
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(n_workers or cpu_count())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **SETTINGS, "PYTHONPATH": path},
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
        )
        try:
            address = process.stdout.readline().decode().strip()
            if not address:
                log.seek(0)
                raise RuntimeError(f"no cluster could be started here:\n{log.read().decode(errors='replace')}")
            yield address
        finally:
            process.stdin.close()
            process.stdout.close()
            try:
                process.wait(CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()  # its workers end by themselves
                process.wait()


def _serve(n_workers):
    """Be a cluster until standard input ends, as it does when the launcher's process dies."""
    address = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what trainings print must not fill the pipe
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        settings = {"threads_per_worker": 1, "memory_limit": None, "dashboard_address": None}
        with LocalCluster(n_workers=n_workers, local_directory=folder, **settings) as cluster:
            print(cluster.scheduler_address, file=address, flush=True)
            sys.stdin.read()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
