"""ClusterLauncher: a real scheduler, real workers, and what becomes of them."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import psutil
import pytest
from distributed import Client
from local_training import calling, forever, given, halving, hanging
from test_local import FAILURES, finish, first_report, values, wait_until

from hpo_helpers.jobs import JobStatus
from hpo_helpers.jobs.cluster import ClusterLauncher
from hpo_helpers.jobs.local import LocalLauncher
from hpo_helpers.tuning import tune

ROOT = Path(__file__).parents[1]
PATIENCE = 60  # seconds, for what takes one on an idle machine


def start_process(folder, *arguments):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(folder)}
    with (folder / "log").open("ab") as log:
        settings = {"env": environment, "stderr": log, "start_new_session": True, "text": True}
        return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, **settings)


@contextlib.contextmanager
def real_cluster(folder, n_workers):
    """Start a scheduler and workers as on any machine; yield a client, and the scheduler's process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    scheduler = f"scheduler --host 127.0.0.1 --port {port} --dashboard-address 127.0.0.1:0"
    worker = f"worker tcp://127.0.0.1:{port} --nthreads 1 --no-dashboard"
    commands = [scheduler] + n_workers * [worker]
    processes = [start_process(folder, "-m", "dask", *command.split()) for command in commands]
    try:
        with Client(worker.split()[1], set_as_default=False, timeout=PATIENCE) as client:
            client.wait_for_workers(n_workers, timeout=PATIENCE)
            yield client, processes[0]
    finally:
        for process in [*processes, *sum([psutil.Process(each.pid).children() for each in processes], [])]:
            process.kill()
        for process in processes:
            process.communicate()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Return the client of a cluster of two workers."""
    with real_cluster(tmp_path_factory.mktemp("cluster"), 2) as (client, _):
        yield client


@pytest.fixture
def launcher(cluster):
    cluster.wait_for_workers(2, timeout=PATIENCE)
    with ClusterLauncher(given, cluster=cluster) as launcher:
        yield launcher
    assert_left_as_it_was(cluster)


@pytest.fixture
def start(launcher):
    return lambda train, epochs=2, **params: launcher.submit({"train": train, **params}, epochs)


def assert_left_as_it_was(client):
    wait_until(lambda: not any(client.processing().values()))
    wait_until(lambda: client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.client_comms)) == 1)
    assert client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0


# What a job delivers.


def test_two_jobs_train_at_once_in_one_thread_each_and_every_report_arrives_whole(start, launcher, tmp_path):
    def train(epochs, me, other):
        (tmp_path / me).touch()
        while not (tmp_path / other).exists():
            time.sleep(0.001)
        for epoch in range(1, epochs + 1):
            yield {"valid_error": 1 / epoch, "name": me, "threads": os.environ["OMP_NUM_THREADS"]}

    before = launcher.clock()
    jobs = [start(train, 3, me="a", other="b"), start(train, 3, me="b", other="a")]
    with pytest.raises(RuntimeError, match="all 2 workers are taken"):
        start(halving)
    finish(*jobs)
    for job, name in zip(jobs, "ab", strict=True):
        assert (job.status, job.error) == (JobStatus.COMPLETED, None)
        reports = job.new_reports()
        assert [(report.epoch, report.value) for report in reports] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
        assert reports[1].metrics == {"valid_error": 0.5, "name": name, "threads": "1"}
        assert before < reports[0].time <= reports[2].time <= launcher.clock()


def test_a_seed_gives_what_it_gives_in_processes_of_its_own(cluster):
    def noisy(epochs, x):
        for _ in range(epochs):
            yield {"valid_error": x + random.random()}

    found = []
    for launcher in (LocalLauncher(noisy, 1), ClusterLauncher(noisy, 1, cluster=cluster.scheduler.address)):
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=3))
        with launcher:
            tune(study, {"x": optuna.distributions.FloatDistribution(0, 1)}, launcher, epochs=2, n_trials=8)
        found.append([(trial.params, trial.intermediate_values) for trial in study.trials])
    assert found[0] == found[1] and len(found[0]) == 8


def test_two_launchers_share_a_cluster_and_one_outlives_the_other(cluster):
    launchers = [ClusterLauncher(forever, 1, cluster=cluster) for _ in range(2)]
    with launchers[1]:
        with launchers[0]:
            jobs = [launcher.submit({}, 10**6) for launcher in launchers]
            assert first_report(jobs[0]).metrics["pid"] != first_report(jobs[1]).metrics["pid"]
        assert [job.status for job in jobs] == [JobStatus.STOPPED, JobStatus.RUNNING]
        epoch = jobs[1].new_reports()[-1].epoch
        wait_until(lambda: any(report.epoch > epoch for report in jobs[1].new_reports()))
    assert_left_as_it_was(cluster)


# Failures, and what is stopped.


def test_a_failed_job_says_why_with_the_lines_that_raised_it_and_keeps_its_reports(start):
    def train(epochs, second_epoch):
        yield {"valid_error": 1.0}
        yield second_epoch()

    for second_epoch, error in FAILURES[:6]:  # the others kill their process
        job = finish(start(train, 3, second_epoch=second_epoch))
        assert (job.status, values(job)) == (JobStatus.FAILED, [1.0])
        assert job.error.splitlines()[0].startswith(error)
    lines = finish(start(train, second_epoch=lambda: 1 / 0)).error.splitlines()
    assert lines[0] == "ZeroDivisionError: division by zero"
    assert lines[1].endswith("in train") and lines[2].strip() == "yield second_epoch()"
    assert lines[3].endswith("in <lambda>") and "finish(start(train" in lines[4] and len(lines) == 5


def test_what_a_worker_cannot_import_and_what_cannot_be_sent_is_told(start, launcher, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def train(epochs):\n    yield {'valid_error': 1.0}\n")
    monkeypatch.syspath_prepend(tmp_path)
    job = finish(start(__import__("only_here").train))
    assert job.status is JobStatus.FAILED and "No module named 'only_here'" in job.error
    with pytest.raises(TypeError, match="cannot pickle"):
        start(halving, learning_rate=threading.Lock())
    assert launcher._running == {}


def test_pruning_frees_the_worker_at_once(cluster):
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=0.5))
    with ClusterLauncher(forever, cluster=cluster) as launcher:
        tune(study, {}, launcher, epochs=10**6, n_trials=6)
    assert {trial.state for trial in study.trials} == {optuna.trial.TrialState.PRUNED}
    assert_left_as_it_was(cluster)


def test_nothing_is_delivered_after_stop_before_the_start_or_after_the_end(start):
    for _ in range(5):
        job = start(forever, 1000)
        job.stop()
        job.stop()
        assert (finish(job).status, job.new_reports()) == (JobStatus.STOPPED, [])
    job = finish(start(halving))
    job.stop()
    assert (job.status, job.new_reports()) == (JobStatus.COMPLETED, [])


@pytest.mark.parametrize("way", ["killed", "hung"])
def test_a_worker_that_dies_fails_its_job_alone_and_a_new_one_takes_the_next(start, launcher, way):
    other, job = start(forever, 10**6), start(hanging if way == "hung" else forever, 10**6)
    pids = {first_report(other).metrics["pid"], first_report(job).metrics.get("pid")}
    if way == "hung":
        job.stop()
    else:
        os.kill(first_report(job).metrics["pid"], signal.SIGKILL)
    assert finish(job).status is (JobStatus.STOPPED if way == "hung" else JobStatus.FAILED)
    assert way == "hung" or job.error == f"its worker {job.worker} died, or was taken from the cluster"
    assert other.status is JobStatus.RUNNING
    wait_until(lambda: launcher._poll() or launcher.n_workers == 2)
    job = finish(start(calling, 1, function=os.getpid))
    assert job.new_reports()[0].metrics["result"] not in pids and other.status is JobStatus.RUNNING


def test_a_scheduler_that_dies_is_an_error_within_seconds(tmp_path):
    with real_cluster(tmp_path, 1) as (client, scheduler):
        launcher = ClusterLauncher(forever, cluster=client)
        job = launcher.submit({}, 10**6)
        first_report(job).metrics
        scheduler.kill()
        before = time.monotonic()
        assert finish(job).status is JobStatus.FAILED
        assert job.error == "the connection to the scheduler was lost"
        with pytest.raises(RuntimeError, match="the connection to the scheduler was lost"):
            tune(optuna.create_study(), {}, launcher, epochs=1, n_trials=1)
        launcher.close()
        assert time.monotonic() - before < 10


# Whoever uses a cluster ends.

SCRIPT = """
import sys
from local_training import forever
from hpo_helpers.jobs.cluster import ClusterLauncher

def train(epochs):  # no module that a worker could import
    yield from forever(epochs)

with ClusterLauncher(train, 1, cluster=sys.argv[1] if len(sys.argv) > 1 else None) as launcher:
    job = launcher.submit({}, 10**6)
    launcher.wait([job])
    print("trains", flush=True)
    while True:
        launcher.wait([job])
        job.new_reports()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("own", [True, False])
def test_ctrl_c_and_death_leave_nothing_behind_but_a_cluster_that_was_given(own, number, cluster, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    workers = set(cluster.nthreads())
    arguments = [] if own else [cluster.scheduler.address]
    script = start_process(tmp_path, str(tmp_path / "script.py"), *arguments)
    assert script.stdout.readline() == "trains\n", (tmp_path / "log").read_text()
    processes = psutil.Process(script.pid).children(recursive=True)
    assert bool(processes) == own
    os.killpg(script.pid, number)  # as a terminal does
    script.communicate(timeout=PATIENCE)
    assert script.returncode == -number
    wait_until(lambda: not any(process.is_running() for process in processes))
    assert {path.name for path in tmp_path.iterdir()} == {"script.py", "log"}
    assert_left_as_it_was(cluster)
    assert workers == set(cluster.nthreads())
