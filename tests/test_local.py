"""LocalLauncher and LocalScript: real processes, and what becomes of them."""

from __future__ import annotations

import doctest
import gc
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from local_training import (
    calling,
    exits,
    exits_at_once,
    goes_back,
    halving,
    hanging,
    kills_itself,
    misses_the_metric,
    raises,
    returns_nan,
    with_children,
    yields_a_lock,
    yields_garbage,
)

from hpo_helpers.jobs import JobStatus
from hpo_helpers.jobs.local import LocalLauncher, LocalScript, launcher

REPOSITORY = Path(__file__).parents[1]
PATIENCE = 30  # seconds, for what takes milliseconds on an idle machine


FAILURES = [
    (raises, "ValueError: learning_rate is too high"),
    (returns_nan, "ValueError: 'valid_error' was nan after epoch 2"),
    (yields_garbage, "ValueError: training must yield a dict of metrics once per epoch, got 'epoch 2: 0.5'"),
    (misses_the_metric, "ValueError: training must yield 'valid_error', got only ['loss']"),
    (goes_back, "ValueError: 'epoch' must be a whole number over 2, got 2"),
    (yields_a_lock, "TypeError: the metrics ['lock', 'valid_error'] cannot be sent to the launcher: "),
    (exits, "SystemExit: out of luck"),
    (exits_at_once, "the process ended with exit status 0 before the end of training"),
    (kills_itself, "the process was killed by signal 9 (SIGKILL)"),
]


# Helpers.


@pytest.fixture
def launched():
    """Make launchers, closed at the end of the test."""
    launchers = []

    def launch(train, n_workers=1, cls=LocalLauncher, **settings):
        if "<locals>" in getattr(train, "__qualname__", ""):  # it needs nothing of this module
            settings.setdefault("preload", ())
        launchers.append(cls(train, n_workers, **settings))
        return launchers[-1]

    yield launch
    for launcher in launchers:
        launcher.close()


def finish(*jobs):
    """Wait until all jobs have finished and return the first one."""
    deadline = time.monotonic() + PATIENCE
    while not all(job.finished for job in jobs):
        assert time.monotonic() < deadline, f"still running: {jobs}"
        time.sleep(0.002)  # not wait(), which would return at once for the reports that tests read later
    return jobs[0]


def values(job):
    return [report.value for report in job.new_reports()]


def first_report(launcher, job):
    launcher.wait([job], PATIENCE)
    return job.new_reports()[0]


def assert_gone(pids):
    deadline = time.monotonic() + PATIENCE
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"still there: {[psutil.Process(pid) for pid in alive]}"
        time.sleep(0.01)


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # a zombie of nobody's is not ours
    except psutil.NoSuchProcess:
        return False


def wait_for(path):
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.01)


def python(*arguments, **settings):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    settings = {"text": True, "env": environment, "start_new_session": True} | settings
    return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, **settings)


# What a job delivers.


def test_every_epoch_is_reported_with_the_whole_dict_and_the_time_when_it_was_made(launched):
    launcher = launched(halving)
    before = launcher.clock()
    job = finish(launcher.submit({"learning_rate": 0.5}, 3))
    reports = job.new_reports()
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert [report.value for report in reports] == [0.5, 0.25, 0.5 / 3]
    assert reports[2].metrics == {"epoch": 3, "valid_error": 0.5 / 3, "test_error": 0.5, "name": "halving"}
    times = [report.time for report in reports]
    assert times == sorted(times) and before < times[0] and times[-1] < launcher.clock()
    assert (job.status, job.error) == (JobStatus.COMPLETED, None)
    assert (job.epochs, job.params) == (3, {"learning_rate": 0.5})
    assert job.new_reports() == []


def test_the_time_of_a_report_is_when_it_was_made_not_when_it_was_read(launched):
    launcher = launched(halving)
    job = launcher.submit({}, 1)
    first = finish(job).new_reports()[0]
    made = launcher.clock()
    job = launcher.submit({}, 1)
    launcher.wait([job], PATIENCE)
    read = launcher.clock()
    assert first.time < made < job.new_reports()[0].time < read


def test_job_ids_count_up_and_params_come_before_what_is_fixed(launched):
    launcher = launched(halving, 2, fixed={"learning_rate": 8.0, "base": 1.0})
    jobs = [launcher.submit({}, 1), launcher.submit({"learning_rate": 2.0}, 1)]
    finish(*jobs)
    assert [job.id for job in jobs] == [0, 1]
    assert [values(job) for job in jobs] == [[9.0], [3.0]]


def test_a_searched_number_of_epochs_is_the_length_of_the_job(launched):
    launcher = launched(halving, 2)
    jobs = [launcher.submit({"epochs": 2}, 5), launcher.submit({"epochs": 9}, 5)]
    finish(*jobs)
    assert [job.epochs for job in jobs] == [2, 5]
    assert [len(values(job)) for job in jobs] == [2, 5]


def test_another_metric_may_be_tuned(launched):
    launcher = launched(halving, metric="test_error")
    assert launcher.metric == "test_error"
    assert values(finish(launcher.submit({}, 2))) == [0.5, 0.5]


def test_large_arguments_and_large_metrics_arrive_whole(launched):
    pixels = np.random.default_rng(0).random(1_000_000)
    launcher = launched(calling, fixed={"function": lambda pixels: pixels * 2, "pixels": pixels})
    job = finish(launcher.submit({}, 2))
    results = [report.metrics["result"] for report in job.new_reports()]
    assert [np.array_equal(result, pixels * 2) for result in results] == [True, True]


def test_training_that_ends_early_is_complete(launched):
    def lazy(epochs):
        yield {"valid_error": 1.0}

    launcher = launched(lazy)
    job = finish(launcher.submit({}, 5))
    assert (job.status, values(job)) == (JobStatus.COMPLETED, [1.0])


def test_code_after_the_last_epoch_runs_and_further_epochs_are_not_delivered(launched, tmp_path):
    def endless(epochs):
        try:
            for epoch in range(1000):
                (tmp_path / f"before-{epoch}").touch()
                yield {"valid_error": float(epoch)}
        finally:
            (tmp_path / "finally").touch()

    launcher = launched(endless)
    job = finish(launcher.submit({}, 2))
    assert (job.status, values(job)) == (JobStatus.COMPLETED, [0.0, 1.0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before-0", "before-1", "before-2", "finally"]


def test_an_error_in_closing_the_generator_fails_the_job(launched):
    def endless(epochs):
        try:
            while True:
                yield {"valid_error": 1.0}
        finally:
            raise OSError("the model could not be saved")

    launcher = launched(endless)
    job = finish(launcher.submit({}, 2))
    assert job.status is JobStatus.FAILED
    assert job.error.startswith("OSError: the model could not be saved")


def test_the_example_in_the_documentation_runs():
    assert doctest.testmod(launcher) == (0, 3)


def test_any_iterable_of_dicts_will_do(launched):
    launcher = launched(lambda epochs: [{"valid_error": 1}, {"valid_error": np.float32(0.5)}])
    assert values(finish(launcher.submit({}, 2))) == [1.0, 0.5]


# Failures.


@pytest.mark.parametrize(("train", "error"), FAILURES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_failed_job_says_why_and_keeps_its_reports(launched, train, error):
    launcher = launched(train)
    job = finish(launcher.submit({}, 3))
    assert job.status is JobStatus.FAILED
    assert job.error.splitlines()[0].startswith(error)
    assert values(job) == [1.0]
    assert_gone([job.pid])
    assert finish(launcher.submit({}, 3)).id == 1, "the launcher does not work any more"


def test_an_exception_is_told_with_where_it_was_raised_and_what_was_printed(launched):
    launcher = launched(raises)
    lines = finish(launcher.submit({}, 2)).error.splitlines()
    assert "local_training.py" in lines[1] and "in raises" in lines[1]
    assert lines[2].strip() == 'raise ValueError("learning_rate is too high")'
    assert len(lines) == 5
    assert lines[-2:] == ["Last lines of its output:", "something printed"]


def test_an_exception_deep_in_a_library_is_told_with_the_line_of_the_training_function(launched):
    def deep(depth):
        return deep(depth - 1) if depth else 1 / 0

    def train(epochs):
        yield {"valid_error": deep(100)}

    launcher = launched(train)
    lines = finish(launcher.submit({}, 1)).error.splitlines()
    assert lines[0] == "ZeroDivisionError: division by zero"
    assert lines[1].endswith("in train") and lines[2].strip() == 'yield {"valid_error": deep(100)}'
    assert lines[-1].strip() == "return deep(depth - 1) if depth else 1 / 0"
    assert len(lines) == 7


def test_training_without_a_report_fails(launched):
    launcher = launched(lambda epochs: iter([]))
    assert "ended without a report" in finish(launcher.submit({}, 1)).error


def test_a_function_that_yields_nothing_fails_saying_what_it_returned(launched):
    launcher = launched(lambda epochs: None)
    error = finish(launcher.submit({}, 1)).error
    assert "must yield a dict of metrics once per epoch, but it returned None" in error


def test_an_unknown_parameter_fails_by_name(launched):
    launcher = launched(halving)
    job = finish(launcher.submit({"lerning_rate": 1.0}, 1))
    assert job.error.startswith("TypeError: halving() got an unexpected keyword argument 'lerning_rate'")


def test_the_generator_is_closed_when_what_it_yields_is_refused(launched, tmp_path):
    def untidy(epochs):
        try:
            yield "garbage"
        finally:
            (tmp_path / "tidied").touch()

    launcher = launched(untidy)
    assert finish(launcher.submit({}, 1)).status is JobStatus.FAILED
    assert (tmp_path / "tidied").exists()


def test_metrics_that_cannot_be_read_here_fail_the_job_and_end_its_process(launched):
    here = os.getpid()

    class OnlyThere:
        def __reduce__(self):
            return exec, (f"import os\nif os.getpid() == {here}: raise OSError('not here')",)

    def train(epochs):
        yield {"valid_error": 1.0, "object": OnlyThere()}
        time.sleep(3600)

    launcher = launched(train)
    job = finish(launcher.submit({}, 2))
    assert job.error.startswith("the metrics cannot be read here: OSError: not here")
    assert_gone([job.pid])


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not hold to RLIMIT_AS")
def test_a_job_that_exhausts_its_memory_fails_and_the_next_one_runs(launched):
    def greedy(epochs, megabytes):
        block = bytearray(megabytes << 20)
        yield {"valid_error": float(len(block))}

    launcher = launched(greedy, memory_limit=100 << 20)
    job = finish(launcher.submit({"megabytes": 1000}, 1))
    assert job.error.startswith("MemoryError")
    assert "A job may take 104,857,600 bytes beyond what was preloaded (memory_limit)." in job.error
    assert finish(launcher.submit({"megabytes": 50}, 1)).status is JobStatus.COMPLETED


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not hold to RLIMIT_AS")
def test_a_death_under_a_memory_limit_may_be_for_lack_of_memory(launched):
    launcher = launched(kills_itself, memory_limit=100 << 20)
    error = finish(launcher.submit({}, 2)).error
    assert error.endswith("; it may have lacked memory (memory_limit=104,857,600 bytes)")


# Waiting and stopping.


def test_wait_returns_at_once_for_what_is_unread_and_once_for_the_end(launched):
    launcher = launched(hanging)
    job = launcher.submit({}, 2)
    launcher.wait([job])
    launcher.wait([job])  # the report is still unread
    assert values(job) == [1.0]
    start = time.monotonic()
    launcher.wait([job], timeout=0.05)
    assert time.monotonic() - start >= 0.05
    job.stop()
    launcher.wait([job])
    with pytest.raises(ValueError, match="no running job to wait for"):
        launcher.wait([job])


def test_waiting_for_nothing_raises(launched):
    with pytest.raises(ValueError, match=r"no running job to wait for, got \[\]"):
        launched(halving).wait([])


def test_wait_hears_of_the_other_jobs_too(launched):
    launcher = launched(calling, 2, fixed={"function": lambda seconds: time.sleep(seconds)})
    long, short = launcher.submit({"seconds": 3600}, 1), launcher.submit({"seconds": 0}, 1)
    launcher.wait([long, short], PATIENCE)
    assert (long.finished, len(values(short))) == (False, 1)


def test_stopping_a_job_frees_its_worker_at_once(launched):
    launcher = launched(hanging)
    job = launcher.submit({}, 2)
    launcher.wait([job])
    job.stop()
    job.stop()
    assert (job.status, job.finished, job.error, job.new_reports()) == (JobStatus.STOPPED, True, None, [])
    assert_gone([job.pid])
    launcher.submit({}, 2)


def test_a_job_may_be_stopped_before_it_has_started(launched):
    launcher = launched(halving)
    for _ in range(20):
        job = launcher.submit({}, 1000)
        job.stop()
        assert (job.status, job.new_reports()) == (JobStatus.STOPPED, [])


def test_nothing_is_delivered_after_stop_even_of_a_finished_job(launched):
    launcher = launched(halving)
    job = finish(launcher.submit({}, 3))
    job.stop()
    assert (job.status, job.new_reports()) == (JobStatus.COMPLETED, [])


def test_what_a_job_started_ends_with_it(launched):
    launcher = launched(with_children)
    job = launcher.submit({}, 2)
    pids = first_report(launcher, job).metrics["pids"]
    assert all(map(is_alive, pids))
    job.stop()
    assert_gone(pids)


def test_what_a_job_left_behind_ends_when_it_completes(launched):
    def careless(epochs):
        yield {"valid_error": 1.0, "pid": subprocess.Popen(["sleep", "3600"]).pid}

    launcher = launched(careless)
    assert_gone([finish(launcher.submit({}, 1)).new_reports()[0].metrics["pid"]])


def test_no_more_jobs_than_workers_and_the_number_may_change(launched):
    launcher = launched(hanging, 2)
    jobs = [launcher.submit({}, 1) for _ in range(2)]
    with pytest.raises(RuntimeError, match="all 2 workers are taken"):
        launcher.submit({}, 1)
    launcher.n_workers = 1
    jobs[0].stop()
    with pytest.raises(RuntimeError, match="all 1 workers are taken"):
        launcher.submit({}, 1)
    jobs[1].stop()
    launcher.submit({}, 1)


# Bad arguments.


@pytest.mark.parametrize("n_workers", [0, -1, 1.5, "2", True])
def test_a_bad_number_of_workers_is_refused_with_its_value(n_workers):
    with pytest.raises(ValueError, match=f"n_workers must be a positive whole number, got {n_workers!r}"):
        LocalLauncher(halving, n_workers)


def test_by_default_there_is_a_worker_per_usable_core(launched):
    assert launched(halving, None).n_workers == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("epochs", [0, -3])
def test_a_job_of_no_epochs_is_refused(launched, epochs):
    launcher = launched(halving)
    with pytest.raises(ValueError, match=f"epochs must be a positive whole number, got {epochs}"):
        launcher.submit({}, epochs)
    launcher.submit({}, 1)


@pytest.mark.parametrize(
    ("train", "settings", "error", "message"),
    [
        (halving(1), {}, TypeError, "train must be a function, not its result, got <generator"),
        (lambda learning_rate: None, {}, TypeError, r"train must accept \['epochs'\]"),
        (halving, {"fixed": {"depth": 3}}, TypeError, r"train must accept \['depth', 'epochs'\].*'depth'"),
        (halving, {"fixed": {"epochs": 3}}, ValueError, "epochs is given to each job, not in fixed"),
        (halving, {"fixed": {"base": threading.Lock()}}, TypeError, "cannot be sent to other processes"),
        (halving, {"preload": "numpy"}, TypeError, "preload must be a list .* got 'numpy'"),
        (halving, {"memory_limit": 0}, ValueError, "memory_limit must be a positive whole number, got 0"),
    ],
)
def test_bad_arguments_are_refused_when_the_launcher_is_made(train, settings, error, message):
    with pytest.raises(error, match=message):
        LocalLauncher(train, 1, **settings)


def test_parameters_that_cannot_be_sent_raise_and_take_no_worker(launched):
    launcher = launched(halving)
    with pytest.raises(TypeError, match="cannot pickle"):
        launcher.submit({"learning_rate": threading.Lock()}, 1)
    launcher.submit({}, 1)


def test_the_module_can_be_imported_on_windows():
    """Other launchers and their jobs are useful there."""
    without = "import sys; sys.modules.update(fcntl=None, resource=None)"
    program = python("-c", f"{without}; import hpo_helpers.jobs.local; print('imported')")
    assert program.communicate(timeout=PATIENCE)[0] == "imported\n"


def test_a_system_that_cannot_fork_is_told_the_ways_out(monkeypatch):
    monkeypatch.delattr(os, "fork")
    with pytest.raises(NotImplementedError, match="use WSL2 or Google Colab"):
        LocalLauncher(halving)


# Preloading, and the surroundings of a job.


def test_what_is_preloaded_is_there_in_every_job_and_was_loaded_once(launched):
    def where():
        return sys.modules["local_training"].PRELOADED, "colorsys" in sys.modules

    preload = ["colorsys", "local_training:preload_here"]
    launcher = launched(calling, 2, fixed={"function": where}, preload=preload)
    jobs = [launcher.submit({}, 1) for _ in range(2)]
    finish(*jobs)
    results = [report.metrics["result"] for job in jobs for report in job.new_reports()]
    assert results[0] == results[1] == ([launcher._server.process.pid], True)


def test_the_module_of_the_training_function_says_what_to_preload(launched, tmp_path, monkeypatch):
    (tmp_path / "my_training.py").write_text(
        "import sys\nPRELOAD = ('colorsys',)\n"
        "def train(epochs):\n    yield {'valid_error': float('colorsys' in sys.modules)}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from my_training import train

    launcher = launched(train)
    assert values(finish(launcher.submit({}, 1))) == [1.0]
    launcher = launched(train, preload=())
    assert values(finish(launcher.submit({}, 1))) == [0.0]


def test_the_modules_that_a_function_of_a_notebook_names_are_preloaded():
    """Its module, which no other process can import, is none of them."""
    script = """
import colorsys, json, sys, types
import wave as waves
from hpo_helpers.jobs.local import LocalLauncher
made_here = types.ModuleType("made_here")
colorsys.PRELOAD = ("this",)

def train(epochs):
    for module in (colorsys, waves, made_here):
        yield {"valid_error": 1.0}

with LocalLauncher(train, 1) as launcher:
    print(launcher._preload)
"""
    assert python("-c", script).communicate(timeout=PATIENCE)[0] == "['this', 'colorsys', 'wave']\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module", "^preloading 'no_such_module' failed with ModuleNotFoundError: No module named"),
        ("local_training:preload_badly", "'local_training:preload_badly' failed with OSError: no such data"),
        ("os:abort", r"was killed by signal 6 \(SIGABRT\) while it preloaded \['os:abort'\]"),
    ],
)
def test_a_failed_preload_raises_at_the_first_job(launched, name, message):
    launcher = launched(halving, preload=[name])
    for _ in range(2):
        with pytest.raises(RuntimeError, match=message):
            launcher.submit({}, 1)


def test_jobs_have_one_thread_no_input_and_the_surroundings_of_the_launcher(launched, tmp_path, monkeypatch):
    def surroundings():
        threads = {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")}
        return threads, sys.stdin.read(), os.getcwd(), sys.path[0], os.environ["OF_THE_TEST"], sys.argv[1:]

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("somewhere else")
    monkeypatch.setenv("OF_THE_TEST", "yes")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    launcher = launched(calling, fixed={"function": surroundings})
    monkeypatch.chdir("/")
    result = finish(launcher.submit({}, 1)).new_reports()[0].metrics["result"]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    assert result == (one_thread, "", str(tmp_path), "somewhere else", "yes", [])
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_jobs_without_a_seed_draw_different_numbers_the_same_every_time(launched):
    def draw():
        return random.random(), float(np.random.random())

    draws = []
    for _ in range(2):
        launcher = launched(calling, fixed={"function": draw})
        jobs = [finish(launcher.submit({}, 1)) for _ in range(2)]
        draws.append([job.new_reports()[0].metrics["result"] for job in jobs])
    assert draws[0] == draws[1]
    assert draws[0][0][0] != draws[0][1][0] and draws[0][0][1] != draws[0][1][1]


def test_launchers_with_different_preloads_work_side_by_side(launched):
    def loaded():
        return [name for name in ("colorsys", "wave") if name in sys.modules]

    fixed = {"function": loaded}
    launchers = [launched(calling, fixed=fixed, preload=[name]) for name in ("colorsys", "wave")]
    jobs = [finish(launcher.submit({}, 1)) for launcher in launchers]
    assert [job.new_reports()[0].metrics["result"] for job in jobs] == [["colorsys"], ["wave"]]


# Nothing is left.


def test_close_ends_everything_and_may_be_called_twice():
    launcher = LocalLauncher(with_children, 2)
    jobs = [launcher.submit({}, 2) for _ in range(2)]
    pids = [pid for job in jobs for pid in first_report(launcher, job).metrics["pids"]]
    launcher.close()
    launcher.close()
    assert_gone(pids)
    for job in jobs:
        assert (job.status, job.finished, job.new_reports()) == (JobStatus.STOPPED, True, [])
    with pytest.raises(RuntimeError, match="this launcher is closed"):
        launcher.submit({}, 1)


def test_close_ends_even_what_a_job_hid_in_a_session_of_its_own():
    def hiding(epochs):
        daemon = ["sh", "-c", "setsid sleep 3600 >/dev/null & echo $!"]
        yield {"valid_error": 1.0, "pid": int(subprocess.run(daemon, stdout=subprocess.PIPE).stdout)}

    with LocalLauncher(hiding, 1) as launcher:
        pid = finish(launcher.submit({}, 1)).new_reports()[0].metrics["pid"]
        assert is_alive(pid)
    assert not is_alive(pid)


def test_an_exception_in_the_block_closes_the_launcher():
    with pytest.raises(ZeroDivisionError), LocalLauncher(with_children, 1) as launcher:
        pids = first_report(launcher, launcher.submit({}, 2)).metrics["pids"]
        raise ZeroDivisionError
    assert_gone(pids)


def test_fifty_jobs_leave_no_file_open_no_process_and_no_thread(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    this = psutil.Process()
    before = this.num_fds(), set(this.children(recursive=True)), this.num_threads()
    with LocalLauncher(halving, 2) as launcher:
        for _ in range(25):
            jobs = [launcher.submit({}, 2), launcher.submit({"unknown": 1}, 2)]
            finish(*jobs)
        assert this.num_fds() <= before[0] + 3, "of the server: its socket and its output"
        assert launcher._server.process.pid in [child.pid for child in this.children()]
        assert psutil.Process(launcher._server.process.pid).children() == []
    assert (this.num_fds(), set(this.children(recursive=True)), this.num_threads()) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_launcher_that_nobody_closed_ends_when_nobody_can_reach_it():
    launcher = LocalLauncher(with_children, 1)
    pids = first_report(launcher, launcher.submit({}, 2)).metrics["pids"]
    server = launcher._server.process.pid
    del launcher
    gc.collect()
    assert not psutil.pid_exists(server)
    assert_gone(pids)


def test_the_death_of_the_fork_server_fails_its_jobs_and_the_next_job_gets_a_new_one(launched):
    launcher = launched(with_children, 2)
    job = launcher.submit({}, 2)
    pids = first_report(launcher, job).metrics["pids"]
    os.kill(launcher._server.process.pid, signal.SIGKILL)
    with pytest.warns(RuntimeWarning, match=r"the fork server was killed by signal 9 \(SIGKILL\)"):
        finish(job)
    assert (job.status, job.error.splitlines()[0]) == (
        JobStatus.FAILED,
        "the fork server was killed by signal 9 (SIGKILL)",
    )
    assert_gone(pids)
    assert first_report(launcher, launcher.submit({}, 2)).value == 1.0


# Deaths of the launcher's own process.

PARENT = """
import os, signal, subprocess, sys, time
from hpo_helpers.jobs.local import LocalLauncher

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored

def train(epochs):
    child = subprocess.Popen(["sleep", "3600"])
    yield {"valid_error": 1.0, "pids": [os.getpid(), child.pid]}
    time.sleep(3600)

def start():
    launcher = LocalLauncher(train, 2)
    jobs = [launcher.submit({}, 2) for _ in range(2)]
    for job in jobs:
        launcher.wait([job])
    pids = [pid for job in jobs for pid in job.new_reports()[0].metrics["pids"]]
    print(launcher._server.process.pid, *pids, flush=True)
    return launcher, jobs

"""


def started(ending, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(PARENT + textwrap.dedent(ending))
    parent = python(script, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 5 and all(map(is_alive, pids)), parent.communicate()[1]
    return parent, pids


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_killed_parent_takes_everything_along(death, tmp_path):
    parent, pids = started("launcher, jobs = start(); time.sleep(3600)", tmp_path)
    parent.send_signal(death)
    parent.communicate(timeout=PATIENCE)
    assert_gone(pids)


def test_a_killed_parent_takes_everything_along_although_a_fork_of_it_lives_on(tmp_path):
    ending = """
    launcher, jobs = start()
    if os.fork() == 0:
        os.close(1), os.close(2)
        time.sleep(3600)
    time.sleep(3600)
    """
    parent, pids = started(ending, tmp_path)
    while len(forks := [p for p in psutil.Process(parent.pid).children() if p.pid not in pids]) != 1:
        time.sleep(0.01)
    try:
        parent.kill()
        parent.communicate(timeout=PATIENCE)
        assert_gone(pids)
        assert forks[0].is_running()
    finally:
        forks[0].kill()


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no PR_SET_PDEATHSIG")
def test_jobs_end_even_when_parent_and_fork_server_are_killed_at_once(tmp_path):
    parent, (server, *pids) = started("launcher, jobs = start(); time.sleep(3600)", tmp_path)
    try:
        os.kill(server, signal.SIGSTOP)  # it must not be the one that kills them
        parent.kill()
        os.kill(server, signal.SIGKILL)
        parent.communicate(timeout=PATIENCE)
        assert_gone([server, *pids[::2]])
    finally:
        for child in pids[1::2]:  # nobody is left to end these, which the jobs started
            os.kill(child, signal.SIGKILL)


def test_close_does_not_wait_for_a_fork_of_the_parent(tmp_path):
    ending = """
    launcher, jobs = start()
    if os.fork() == 0:
        os.close(1), os.close(2)
        time.sleep(3600)
    server = launcher._server.process
    launcher.close()
    print(server.returncode)
    """
    parent, pids = started(ending, tmp_path)
    forks = []
    while len(forks) != 1:
        forks = [child for child in psutil.Process(parent.pid).children() if child.pid not in pids]
    try:
        assert parent.communicate(timeout=PATIENCE)[0] == "0\n", "it had to be killed after a long wait"
        assert_gone(pids)
    finally:
        forks[0].kill()


@pytest.mark.parametrize("use", ["with launcher:", "if True:"])
def test_ctrl_c_ends_everything_and_the_parent_is_told_once(use, tmp_path):
    parent, pids = started(f"launcher, jobs = start()\n{use}\n    launcher.wait(jobs)", tmp_path)
    time.sleep(0.1)  # it is in wait() by then, though it need not be
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
    errors = parent.communicate(timeout=PATIENCE)[1]
    assert errors.count("KeyboardInterrupt") == 1
    assert parent.returncode == -signal.SIGINT
    assert_gone(pids)


def test_a_program_that_ends_without_closing_leaves_nothing(tmp_path):
    parent, pids = started("launcher, jobs = start(); input()", tmp_path)
    assert parent.communicate("go on\n", timeout=PATIENCE)[1] == ""
    assert parent.returncode == 0
    assert_gone(pids)


def test_a_fork_of_the_parent_ends_nothing_when_it_ends(tmp_path):
    ending = """
    import gc
    launcher, jobs = start()
    if os.fork() == 0:
        launcher.close()
        del launcher, jobs
        gc.collect()
        sys.exit()
    os.wait()
    launcher.wait(jobs, timeout=0.2)
    print(*(job.status.value for job in jobs))
    launcher.close()
    """
    parent, pids = started(ending, tmp_path)
    out, errors = parent.communicate(timeout=PATIENCE)
    assert (out, errors) == ("running running\n", "")
    assert_gone(pids)


SLOW_MODULE = """
import pathlib, time
pathlib.Path(__file__).with_name("reached").touch()
time.sleep(3600)
"""


def test_a_parent_that_dies_while_it_preloads_leaves_nothing(tmp_path):
    (tmp_path / "slow_module.py").write_text(SLOW_MODULE)
    script = f"""
import sys, time
sys.path.insert(0, {str(tmp_path)!r})
from hpo_helpers.jobs.local import LocalLauncher
launcher = LocalLauncher(lambda epochs: None, 1, preload=["slow_module"])
print(launcher._server.process.pid, flush=True)
time.sleep(3600)
"""
    parent = python("-c", script)
    server = int(parent.stdout.readline())
    wait_for(tmp_path / "reached")
    parent.kill()
    parent.communicate(timeout=PATIENCE)
    assert_gone([server])


def test_closing_does_not_wait_for_what_is_still_preloading(tmp_path, monkeypatch):
    (tmp_path / "slow_module.py").write_text(SLOW_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    launcher = LocalLauncher(halving, 1, preload=["slow_module"])
    server = launcher._server.process
    wait_for(tmp_path / "reached")
    launcher.close()
    assert server.returncode == -signal.SIGIO, "it had to be killed after a long wait"


# Interruptions at any instruction.


def interrupted(n, function):
    """Call `function` with a KeyboardInterrupt at its n-th instruction; return whether it came so far."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if not frame.f_code.co_filename.startswith(str(REPOSITORY / "hpo_helpers")):
            return None
        frame.f_trace_opcodes = True
        count += event == "opcode"
        if count == n:
            count += 1
            raise KeyboardInterrupt
        return trace

    tracer = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(tracer)
    return False


def test_no_report_is_lost_or_doubled_wherever_waiting_is_interrupted(launched):
    def quick(epochs):
        for _ in range(epochs):
            time.sleep(0.001)
            yield {"valid_error": 1.0}

    launcher = launched(quick)
    job = launcher.submit({}, 1000)
    n_interrupted = 0
    for n in range(1, 600, 2):
        n_interrupted += interrupted(n, lambda: launcher.wait([job], 1))
        launcher.wait([job], 1)
    finish(job)
    assert [report.epoch for report in job.new_reports()] == list(range(1, 1001))
    assert n_interrupted > 150


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_worker_is_lost_wherever_submit_and_stop_are_interrupted(launched):
    launcher = launched(halving)
    finish(launcher.submit({}, 1))
    n, step = 1, 13
    while interrupted(n, lambda: launcher.submit({}, 3).stop()):
        for job in list(launcher._running.values()):
            job.stop()
        assert launcher._running == {}
        n += step
    gc.collect()  # sockets that were not yet in anybody's hands
    assert n > 500
    assert values(finish(launcher.submit({}, 3))) == [1.0, 0.5, 1 / 3]
    assert psutil.Process(launcher._server.process.pid).children() == []


def test_closing_again_finishes_what_an_interrupted_close_began():
    n, step = 1, 41
    while True:
        launcher = LocalLauncher(hanging, 1, preload=())
        job = launcher.submit({}, 2)
        launcher.wait([job])
        server = launcher._server.process
        was_interrupted = interrupted(n, launcher.close)
        launcher.close()
        assert server.returncode == 0
        assert (job.status, is_alive(job.pid)) == (JobStatus.STOPPED, False)
        if not was_interrupted:
            break
        n += step
    assert n > 50


# Where the training function is written.

CELL = """
from hpo_helpers.jobs.local import LocalLauncher

class Score:
    def __init__(self, value):
        self.value = value

def helper(epoch):
    return Score(1 / epoch)

def train(epochs):
    print("not for the reader's eyes")
    for epoch in range(1, epochs + 1):
        yield {"valid_error": helper(epoch).value, "score": helper(epoch)}

with LocalLauncher(train, 2) as launcher:
    jobs = [launcher.submit({}, 2) for _ in range(2)]
    while not all(job.finished for job in jobs):
        launcher.wait(jobs, timeout=0.1)
    for job in jobs:
        print(*((report.value, isinstance(report.metrics["score"], Score)) for report in job.new_reports()))
"""


def test_a_script_needs_no_guard_and_a_folder_with_spaces_is_no_trouble(tmp_path):
    folder = tmp_path / "a folder, with spaces"
    folder.mkdir()
    (folder / "hpo_helpers").symlink_to(REPOSITORY / "hpo_helpers")
    (folder / "script.py").write_text(CELL)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = python(folder / "script.py", stderr=subprocess.STDOUT, env=environment)
    assert script.communicate(timeout=PATIENCE)[0] == "(1.0, True) (0.5, True)\n" * 2


def test_functions_typed_at_a_prompt_work(tmp_path):
    prompt = python("-i", "-q", stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert "(1.0, True) (0.5, True)\n" * 2 in prompt.communicate(CELL + "\n\n", timeout=PATIENCE)[0]


# Command lines.

SCRIPT = """
import argparse, sys
parser = argparse.ArgumentParser()
parser.add_argument("--learning_rate", type=float)
parser.add_argument("--epochs", type=int)
parser.add_argument("--network")
arguments = parser.parse_args()
print("training", arguments.network)
for epoch in range(1, arguments.epochs + 1):
    print(f"INFO epoch={epoch}, valid_error={arguments.learning_rate / epoch:.3f} seconds=1e-3 phase=train")
print("accuracy=0.9")
if arguments.learning_rate > 1:
    sys.exit("learning_rate is too high")
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "a script.py"
    path.write_text(SCRIPT)
    return [sys.executable, path]


def test_a_command_line_reports_by_the_lines_it_prints(launched, script):
    launcher = launched(script, 2, cls=LocalScript, fixed={"network": "cnn"})
    job = finish(launcher.submit({"learning_rate": 0.5}, 2))
    assert (job.status, job.error) == (JobStatus.COMPLETED, None)
    assert [report.metrics for report in job.new_reports()] == [
        {"epoch": 1, "valid_error": 0.5, "seconds": 0.001, "phase": "train"},
        {"epoch": 2, "valid_error": 0.25, "seconds": 0.001, "phase": "train"},
    ]


def test_the_lines_of_a_python_script_arrive_while_it_runs(launched, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    code = "import time; print('valid_error=1.0'); time.sleep(3600)"
    launcher = launched([sys.executable, "-c", code], cls=LocalScript)
    assert first_report(launcher, launcher.submit({}, 2)).value == 1.0


def test_a_command_line_with_another_status_than_0_fails_with_its_last_lines(launched, script):
    launcher = launched(script, cls=LocalScript)
    job = finish(launcher.submit({"learning_rate": 2.0}, 1))
    assert job.status is JobStatus.FAILED
    assert job.error.splitlines()[0] == f"RuntimeError: {sys.executable} ended with exit status 1"
    assert job.error.splitlines()[-2:] == ["accuracy=0.9", "learning_rate is too high"]
    assert values(job) == [2.0]


@pytest.mark.parametrize(
    ("commands", "error"),
    [
        ("echo valid_error=nan", "ValueError: 'valid_error' was nan after epoch 1"),
        ("echo valid_error=high", "ValueError: 'valid_error' must be a number, got 'high'"),
        ("echo nothing of interest", "RuntimeError: training ended without a report"),
        ("kill -9 $$", "RuntimeError: sh was killed by signal 9 (SIGKILL)"),
    ],
)
def test_what_a_command_line_does_wrong_is_said(launched, commands, error):
    launcher = launched(["sh", "-c", commands], cls=LocalScript)
    assert finish(launcher.submit({}, 2)).error.startswith(error)


def test_a_program_that_does_not_exist_is_named(launched):
    launcher = launched(["no-such-program"], cls=LocalScript)
    assert "No such file or directory: 'no-such-program'" in finish(launcher.submit({}, 1)).error


@pytest.mark.parametrize("command", ["python train.py", ["python", 3], []])
def test_a_command_that_is_no_list_of_strings_is_refused(command):
    with pytest.raises(TypeError, match="command must be a list such as"):
        LocalScript(command, 1)


def test_stopping_a_command_line_ends_all_its_processes_and_close_does_too(launched):
    commands = "sleep 3600 & echo valid_error=1 shell=$$ sleep=$!; sleep 3600"
    launcher = launched(["sh", "-c", commands], 2, cls=LocalScript)
    jobs = [launcher.submit({}, 2) for _ in range(2)]
    metrics = [first_report(launcher, job).metrics for job in jobs]
    jobs[0].stop()
    assert_gone([jobs[0].pid, metrics[0]["shell"], metrics[0]["sleep"]])
    assert is_alive(metrics[1]["shell"])
    launcher.close()
    assert_gone([jobs[1].pid, metrics[1]["shell"], metrics[1]["sleep"]])


def test_a_command_line_runs_on_after_its_last_epoch_unless_it_trains_on(launched, tmp_path):
    commands = f"for i in 1 2 3 4; do echo valid_error=$i; echo $i > '{tmp_path}/epochs'; done; sleep 3600"
    launcher = launched(["sh", "-c", commands], cls=LocalScript)
    job = finish(launcher.submit({}, 2))
    assert (job.status, values(job)) == (JobStatus.COMPLETED, [1.0, 2.0])


# The real thing.


def test_a_real_network_trains_to_the_bit_as_in_a_process_of_its_own(launched):
    from hpo_helpers.train_mnist import train

    settings = {"fixed": {"n_channels": 4, "batch_size": 256}}
    launcher = launched(train, 2, **settings)
    script = launched([sys.executable, "-m", "hpo_helpers.train_mnist"], 1, cls=LocalScript, **settings)
    jobs = [launcher.submit({"learning_rate": learning_rate}, 2) for learning_rate in (0.1, 0.01)]
    alone = finish(script.submit({"learning_rate": 0.1}, 2))
    finish(*jobs)
    assert [job.error for job in (*jobs, alone)] == [None, None, None]
    errors = [[report.metrics["valid_error"] for report in job.new_reports()] for job in (*jobs, alone)]
    assert errors[0] == errors[2] != errors[1]
    assert len(errors[0]) == 2
