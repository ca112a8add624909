"""LocalLauncher and LocalScript: real processes, and what becomes of them."""

import gc
import math
import os
import random
import re
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
from local_training import calling, given, halving, hanging, with_children

from hpo_helpers.datasets import save_npz
from hpo_helpers.jobs import JobStatus
from hpo_helpers.jobs.local import LocalLauncher, LocalScript
from hpo_helpers.jobs.local.preload import find_preload
from hpo_helpers.jobs.log_metrics import expression, parse_line
from hpo_helpers.train_mnist import PRELOAD, train

REPOSITORY = Path(__file__).parents[1]
PATIENCE = 30  # seconds, for what takes milliseconds on an idle machine

#: What training does in its second epoch, and what the launcher says to that.
FAILURES = [
    (lambda: sys.exit("out of luck"), "SystemExit: out of luck"),
    (lambda: {"valid_error": float("nan")}, "ValueError: 'valid_error' was nan after epoch 2"),
    (lambda: "0.5", "ValueError: training must yield a dict of metrics once per epoch, got '0.5'"),
    (lambda: {"loss": 0.5}, "ValueError: training must yield 'valid_error', got only ['loss']"),
    (lambda: {"valid_error": 1, "epoch": 1}, "ValueError: 'epoch' must be a whole number over 1, got 1"),
    (lambda: {"valid_error": 1, "lock": threading.Lock()}, "TypeError: cannot pickle '_thread.lock' object"),
    (lambda: os._exit(0), "the process ended with exit status 0 before the end of training"),
    (lambda: os.kill(os.getpid(), signal.SIGKILL), "the process was killed by signal 9 (SIGKILL)"),
]


# Helpers.


@pytest.fixture(scope="module")
def shared():
    preload = ["local_training", "local_training:preload_here", "numpy"]
    with LocalLauncher(given, 2, preload=preload) as launcher:
        yield launcher


@pytest.fixture
def start(shared):
    """Start a job of a training function in a launcher that the tests share."""
    yield lambda train, epochs=2, **params: shared.submit({"train": train, **params}, epochs)
    stop_all(shared)


@pytest.fixture(scope="module")
def shared_shell():
    with LocalScript(["sh", "-c", 'eval "${0#*=}"'], 2) as launcher:
        yield launcher


@pytest.fixture
def shell(shared_shell):
    """Start a job of shell commands in a launcher that the tests share."""
    yield lambda commands, epochs=2: shared_shell.submit({"commands": commands}, epochs)
    stop_all(shared_shell)


def stop_all(launcher):
    for job in list(launcher._running.values()):
        job.stop()


def finish(*jobs):
    """Wait until all jobs have finished and return the first one; what they reported stays unread."""
    deadline = time.monotonic() + PATIENCE
    while not all(job.finished for job in jobs):
        assert time.monotonic() < deadline, f"still running: {jobs}"
        jobs[0]._launcher._poll(PATIENCE)
    return jobs[0]


def values(job):
    return [report.value for report in job.new_reports()]


def first_report(job):
    job._launcher.wait([job], PATIENCE)
    return job.new_reports()[0]


def assert_gone(pids):
    wait_until(lambda: not any(map(is_alive, pids)))


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # a zombie of nobody's is not ours
    except psutil.NoSuchProcess:
        return False


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def python(*arguments, **settings):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    settings = {"text": True, "env": environment, "start_new_session": True} | settings
    return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, **settings)


# What a job delivers.


def test_every_epoch_is_reported_with_the_whole_dict_and_the_time_when_it_was_made(shared, start):
    before = shared.clock()
    job = finish(start(halving, 3, learning_rate=0.5))
    after = shared.clock()
    assert (job.status, job.error, job.epochs) == (JobStatus.COMPLETED, None, 3)
    reports = job.new_reports()
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert [report.value for report in reports] == [0.5, 0.25, 0.5 / 3]
    assert reports[2].metrics == {"epoch": 3, "valid_error": 0.5 / 3, "test_error": 0.5, "name": "halving"}
    times = [report.time for report in reports]
    assert times == sorted(times) and before < times[0] and times[-1] < after
    assert job.new_reports() == []


def test_params_come_before_what_is_fixed_and_a_searched_number_of_epochs_is_the_length_of_the_job():
    with LocalLauncher(halving, 2, fixed={"base": 1.0}, metric="test_error") as launcher:
        jobs = [launcher.submit(params, 5) for params in ({"base": 3.0, "epochs": 2}, {"epochs": 9})]
        finish(*jobs)
    assert [(job.id, job.epochs) for job in jobs] == [(0, 2), (1, 5)]
    reports = [job.new_reports() for job in jobs]
    assert [len(reports[0]), len(reports[1])] == [2, 5]
    assert [job[0].metrics["valid_error"] for job in reports] == [4.0, 2.0]
    assert {report.value for job in reports for report in job} == {0.5}


def test_large_arguments_and_large_metrics_arrive_whole(start):
    pixels = np.random.default_rng(0).random(1_000_000)
    job = finish(start(calling, function=lambda pixels: pixels * 2, pixels=pixels))
    results = [report.metrics["result"] for report in job.new_reports()]
    assert [np.array_equal(result, pixels * 2) for result in results] == [True, True]


def test_training_may_end_early_and_is_ended_after_its_last_epoch_where_it_would_go_on(start, tmp_path):
    def endless(epochs):
        try:
            for epoch in range(1000):
                (tmp_path / f"before-{epoch}").touch()
                yield {"valid_error": float(epoch)}
        finally:
            (tmp_path / "finally").touch()

    job, early = start(endless), start(lambda epochs: halving(1))
    finish(job, early)
    assert (early.status, values(early)) == (JobStatus.COMPLETED, [1.0])
    assert (job.status, values(job)) == (JobStatus.COMPLETED, [0.0, 1.0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before-0", "before-1", "before-2", "finally"]


# Failures.


@pytest.mark.parametrize(("second_epoch", "error"), FAILURES)
def test_a_failed_job_says_why_and_keeps_its_reports(start, second_epoch, error):
    def train(epochs):
        yield {"valid_error": 1.0}
        yield second_epoch()

    job = finish(start(train, 3))
    assert job.status is JobStatus.FAILED
    assert job.error.splitlines()[0].startswith(error)
    assert values(job) == [1.0]
    assert_gone([job.pid])


def test_an_exception_is_told_with_the_lines_that_raised_it_and_what_was_printed(start):
    def deep(depth):
        return deep(depth - 1) if depth else 1 / 0

    def train(epochs):
        print("something printed")
        yield {"valid_error": deep(100)}

    lines = finish(start(train)).error.splitlines()
    assert lines[0] == "ZeroDivisionError: division by zero" and len(lines) == 9
    assert lines[1].endswith("in train") and lines[2].strip() == 'yield {"valid_error": deep(100)}'
    assert lines[-3].strip() == "return deep(depth - 1) if depth else 1 / 0"
    assert lines[-2:] == ["Last lines of its output:", "something printed"]


@pytest.mark.parametrize(
    ("train", "error"),
    [
        (lambda epochs: halving(0), "training ended without a report"),
        (lambda epochs: None, "must yield a dict of metrics once per epoch, but it returned None"),
        (lambda epochs: halving(epochs, lerning_rate=1), "got an unexpected keyword argument 'lerning_rate'"),
    ],
)
def test_what_is_no_training_is_told(start, train, error):
    assert error in finish(start(train)).error


# Waiting and stopping.


def test_wait_returns_at_once_for_what_is_unread_and_once_for_the_end(shared, start):
    silent, job = start(calling, function=lambda: time.sleep(3600)), start(hanging)
    shared.wait([silent, job])
    shared.wait([silent, job])  # the report is still unread
    assert values(job) == [1.0]
    before = time.monotonic()
    shared.wait([job], timeout=0.05)
    assert time.monotonic() - before >= 0.05
    job.stop()
    shared.wait([job])  # for its end
    for jobs in ([job], []):
        with pytest.raises(ValueError, match="no running job to wait for"):
            shared.wait(jobs)


def test_stopping_a_job_ends_what_it_started_and_frees_its_worker_at_once(start):
    jobs = [start(with_children) for _ in range(2)]
    pids = [first_report(job).metrics["pids"] for job in jobs]
    assert all(map(is_alive, sum(pids, [])))
    jobs[0].stop()
    jobs[0].stop()
    assert (jobs[0].status, jobs[0].error, jobs[0].new_reports()) == (JobStatus.STOPPED, None, [])
    assert_gone(pids[0])
    assert all(map(is_alive, pids[1]))
    finish(start(halving))


def test_nothing_is_delivered_after_stop_before_the_start_or_after_the_end(start):
    for _ in range(10):
        job = start(halving, 1000)
        job.stop()
        assert (job.status, job.new_reports()) == (JobStatus.STOPPED, [])
    job = finish(start(halving))
    job.stop()
    assert (job.status, job.new_reports()) == (JobStatus.COMPLETED, [])


def test_no_more_jobs_than_workers_and_the_number_may_change(shared, start, monkeypatch):
    jobs = [start(hanging) for _ in range(2)]
    with pytest.raises(RuntimeError, match="all 2 workers are taken"):
        start(hanging)
    monkeypatch.setattr(shared, "n_workers", 1)
    jobs[0].stop()
    with pytest.raises(RuntimeError, match="all 1 workers are taken"):
        start(hanging)
    jobs[1].stop()
    start(hanging)


# Bad arguments.


@pytest.mark.parametrize(
    ("cls", "train", "settings", "error", "message"),
    [
        (LocalLauncher, halving(1), {}, TypeError, "must be a function, not its result, got <generator"),
        (LocalLauncher, halving, {"fixed": {"epochs": 3}}, ValueError, "epochs is given to each job, not in"),
        (LocalLauncher, halving, {"fixed": {"base": threading.Lock()}}, TypeError, "cannot pickle"),
        (LocalLauncher, halving, {"n_workers": "2"}, ValueError, "must be a positive whole number, got '2'"),
        (LocalScript, "python train.py", {}, TypeError, "command must be a list .* got 'python train.py'"),
        (LocalScript, [], {}, TypeError, "command must be a list"),
    ],
)
def test_bad_arguments_are_refused_when_the_launcher_is_made(cls, train, settings, error, message):
    with pytest.raises(error, match=message):
        cls(train, **settings)


def test_a_job_that_cannot_be_sent_or_has_no_epoch_is_refused_and_takes_no_worker(shared, start):
    with pytest.raises(TypeError, match="cannot pickle"):
        start(halving, learning_rate=threading.Lock())
    with pytest.raises(ValueError, match="epochs must be a positive whole number, got -3"):
        start(halving, -3)
    assert shared._running == {}


def test_the_module_can_be_imported_on_windows():
    """Other launchers and their jobs are useful there."""
    without = "import sys; sys.modules.update(fcntl=None, resource=None)"
    program = python("-c", f"{without}; import hpo_helpers.jobs.local; print('imported')")
    assert program.communicate(timeout=PATIENCE)[0] == "imported\n"


def test_a_system_that_cannot_fork_is_told_the_way_out(monkeypatch):
    monkeypatch.delattr(os, "fork")
    with pytest.raises(NotImplementedError, match="use ClusterLauncher"):
        LocalLauncher(halving)


# Preloading, and the surroundings of a job.


def test_what_is_preloaded_is_there_in_every_job_and_was_loaded_once(shared, start):
    jobs = [start(calling, 1, function=lambda: sys.modules["local_training"].PRELOADED) for _ in range(2)]
    finish(*jobs)
    results = [report.metrics["result"] for job in jobs for report in job.new_reports()]
    assert results == [[shared._server.process.pid]] * 2


CELL_OF_MODULES = """
import types
import wave as waves
from hpo_helpers import train_mnist
made_here = types.ModuleType("made_here")

def train(epochs):
    for module in (waves, train_mnist, made_here):
        yield {"valid_error": 1.0}
"""


def test_the_module_of_the_training_function_or_those_that_one_of_a_notebook_names_are_preloaded():
    preload = [*PRELOAD, "hpo_helpers.train_mnist"]
    assert find_preload(train) == preload
    notebook = {"__name__": "__main__"}
    exec(CELL_OF_MODULES, notebook)
    assert find_preload(notebook["train"]) == ["wave", *preload]


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "No module named 'missing'"), ("os:abort", r"was killed by signal 6 \(SIGABRT\) while it")],
)
def test_a_failed_preload_raises_at_the_first_job(name, message):
    with LocalLauncher(halving, preload=[name]) as launcher:
        for _ in range(2):
            with pytest.raises(RuntimeError, match=message):
                launcher.submit({}, 1)


def test_jobs_have_one_thread_no_input_and_the_surroundings_of_the_launcher(tmp_path, monkeypatch):
    def surroundings():
        threads = {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")}
        return threads, sys.stdin.read(), os.getcwd(), sys.path[0], os.environ["OF_THE_TEST"], sys.argv[1:]

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("somewhere else")
    monkeypatch.setenv("OF_THE_TEST", "yes")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with LocalLauncher(calling, fixed={"function": surroundings}) as launcher:
        assert launcher.n_workers == len(os.sched_getaffinity(0))
        monkeypatch.chdir("/")
        result = finish(launcher.submit({}, 1)).new_reports()[0].metrics["result"]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    assert result == (one_thread, "", str(tmp_path), "somewhere else", "yes", [])


def test_a_job_that_sets_no_seed_draws_the_numbers_of_its_id(start):
    jobs = [start(calling, 1, function=lambda: (random.random(), np.random.random())) for _ in range(2)]
    finish(*jobs)
    drawn = [job.new_reports()[0].metrics["result"] for job in jobs]
    assert drawn == [(random.Random(job.id).random(), np.random.RandomState(job.id).random()) for job in jobs]


# Nothing is left.


def test_what_a_job_leaves_ends_with_it_and_an_exception_in_the_block_ends_everything():
    def careless(epochs):
        daemon = ["sh", "-c", "setsid sleep 3600 >/dev/null & echo $!"]
        hidden = int(subprocess.run(daemon, stdout=subprocess.PIPE).stdout)
        yield {"valid_error": 1.0, "pids": (subprocess.Popen(["sleep", "3600"]).pid, hidden)}

    with pytest.raises(ZeroDivisionError), LocalLauncher(given, 2) as launcher:
        job = finish(launcher.submit({"train": careless}, 1))
        left_behind, hidden = job.new_reports()[0].metrics["pids"]
        assert_gone([left_behind])
        assert is_alive(hidden), "what has a session of its own ends with the launcher"
        job = launcher.submit({"train": with_children}, 2)
        pids = first_report(job).metrics["pids"]
        raise ZeroDivisionError
    assert not is_alive(hidden)
    assert_gone(pids)
    launcher.close()
    assert (job.status, job.finished, job.new_reports()) == (JobStatus.STOPPED, True, [])
    with pytest.raises(RuntimeError, match="this launcher is closed"):
        launcher.submit({}, 1)


def test_jobs_leave_no_file_open_no_process_and_no_thread(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    this = psutil.Process()
    before = this.num_fds(), set(this.children(recursive=True)), this.num_threads()
    with LocalLauncher(halving, 2) as launcher:
        for _ in range(5):
            finish(launcher.submit({}, 2), launcher.submit({"unknown": 1}, 2))
        assert this.num_fds() <= before[0] + 3, "of the server: its socket and its output"
        assert launcher._server.process.pid in [child.pid for child in this.children()]
        assert psutil.Process(launcher._server.process.pid).children() == []
    assert (this.num_fds(), set(this.children(recursive=True)), this.num_threads()) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_launcher_that_nobody_closed_ends_when_nobody_can_reach_it():
    launcher = LocalLauncher(with_children, 1)
    pids = first_report(launcher.submit({}, 2)).metrics["pids"]
    server = launcher._server.process.pid
    del launcher
    gc.collect()
    assert not psutil.pid_exists(server)
    assert_gone(pids)


def test_the_death_of_the_fork_server_fails_its_jobs_and_the_next_job_gets_a_new_one():
    with LocalLauncher(with_children, 2) as launcher:
        job = launcher.submit({}, 2)
        pids = first_report(job).metrics["pids"]
        os.kill(launcher._server.process.pid, signal.SIGKILL)
        finish(job)
        assert job.status is JobStatus.FAILED
        assert job.error.splitlines()[0] == "the fork server was killed by signal 9 (SIGKILL)"
        assert_gone(pids)
        assert first_report(launcher.submit({}, 2)).value == 1.0


# Deaths of the launcher's own process.

PARENT = """
import gc, os, signal, subprocess, sys, time
from hpo_helpers.jobs.local import LocalLauncher

def train(epochs):
    child = subprocess.Popen(["sleep", "3600"])
    yield {"valid_error": 1.0, "pids": [os.getpid(), child.pid]}
    time.sleep(3600)

def fork():
    if pid := os.fork():
        print(pid, flush=True)
    else:
        os.close(1), os.close(2)
        time.sleep(3600)

def start():
    launcher = LocalLauncher(train, 2, preload=())
    jobs = [launcher.submit({}, 2) for _ in range(2)]
    for job in jobs:
        launcher.wait([job])
    pids = [pid for job in jobs for pid in job.new_reports()[0].metrics["pids"]]
    print(launcher._server.process.pid, *pids, flush=True)
    return launcher, jobs

launcher, jobs = start()
"""


def started(ending, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(PARENT + textwrap.dedent(ending))
    parent = python(script, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 5 and all(map(is_alive, pids)), parent.communicate()[1]
    return parent, pids


@pytest.mark.parametrize("end", [subprocess.Popen.terminate, lambda parent: parent.stdin.write("go on\n")])
def test_a_parent_that_is_terminated_or_ends_without_closing_takes_everything_along(end, tmp_path):
    parent, pids = started("input()", tmp_path)
    end(parent)
    assert parent.communicate(timeout=PATIENCE)[1] == ""
    assert_gone(pids)


def test_a_killed_parent_takes_everything_along_although_a_fork_of_it_lives_on(tmp_path):
    parent, pids = started("fork(); time.sleep(3600)", tmp_path)
    fork = psutil.Process(int(parent.stdout.readline()))
    try:
        parent.kill()
        parent.communicate(timeout=PATIENCE)
        assert_gone(pids)
        assert fork.is_running()
    finally:
        fork.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no PR_SET_PDEATHSIG")
def test_jobs_end_even_when_parent_and_fork_server_are_killed_at_once(tmp_path):
    parent, (server, *pids) = started("time.sleep(3600)", tmp_path)
    try:
        os.kill(server, signal.SIGSTOP)  # it must not be the one that kills them
        parent.kill()
        os.kill(server, signal.SIGKILL)
        parent.communicate(timeout=PATIENCE)
        assert_gone([server, *pids[::2]])
    finally:
        for child in pids[1::2]:  # nobody is left to end these, which the jobs started
            os.kill(child, signal.SIGKILL)


def test_ctrl_c_ends_everything_and_the_parent_is_told_once(tmp_path):
    parent, pids = started("with launcher: launcher.wait(jobs)", tmp_path)
    wait_until(lambda: psutil.Process(parent.pid).status() == psutil.STATUS_SLEEPING)
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
    errors = parent.communicate(timeout=PATIENCE)[1]
    assert errors.count("KeyboardInterrupt") == 1
    assert parent.returncode == -signal.SIGINT
    assert_gone(pids)


def test_closing_waits_for_nothing_that_is_still_preloading(tmp_path, monkeypatch):
    reached = tmp_path / "reached"
    slow = "import pathlib, time\npathlib.Path(__file__).with_name('reached').touch()\ntime.sleep(3600)\n"
    (tmp_path / "slow_module.py").write_text(slow)
    monkeypatch.syspath_prepend(tmp_path)
    launcher = LocalLauncher(halving, 1, preload=["slow_module"])
    wait_until(reached.exists)
    server = launcher._server.process
    before = time.monotonic()
    launcher.close()
    assert server.returncode is not None and time.monotonic() - before < 5


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


def test_no_report_is_lost_or_doubled_wherever_waiting_is_interrupted(shared, start):
    def quick(epochs):
        for _ in range(epochs):
            time.sleep(0.001)
            yield {"valid_error": 1.0}

    job = start(quick, 500)
    n_interrupted = 0
    for n in range(1, 600, 5):
        n_interrupted += interrupted(n, lambda: shared.wait([job], 1))
        shared.wait([job], 1)
    finish(job)
    assert [report.epoch for report in job.new_reports()] == list(range(1, 501))
    assert n_interrupted > 50


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_worker_is_lost_wherever_submit_and_stop_are_interrupted(shared, start):
    n, step = 1, 29
    while interrupted(n, lambda: shared.submit({"train": halving}, 3).stop()):
        stop_all(shared)
        assert shared._running == {}
        n += step
    gc.collect()  # sockets that were not yet in anybody's hands
    assert n > 400
    assert values(finish(start(halving, 3))) == [1.0, 0.5, 1 / 3]
    assert psutil.Process(shared._server.process.pid).children() == []


def test_closing_again_finishes_what_an_interrupted_close_began():
    n, step = 1, 83
    was_interrupted = True
    while was_interrupted:
        launcher = LocalLauncher(hanging, 1, preload=())
        job = launcher.submit({}, 2)
        launcher.wait([job])
        server = launcher._server.process
        was_interrupted = interrupted(n, launcher.close)
        launcher.close()
        assert server.returncode == 0
        assert (job.status, is_alive(job.pid)) == (JobStatus.STOPPED, False)
        n += step
    assert n > 200


# Where the training function is written.

CELL = """
from hpo_helpers.jobs.local import LocalLauncher

class Score:
    def __init__(self, value):
        self.value = value

def train(epochs):
    print("not for the reader's eyes")
    for epoch in range(1, epochs + 1):
        yield {"valid_error": 1 / epoch, "score": Score(1 / epoch)}

with LocalLauncher(train, 2) as launcher:
    jobs = [launcher.submit({}, 2) for _ in range(2)]
    while not all(job.finished for job in jobs):
        launcher.wait(jobs, timeout=0.01)
    for job in jobs:
        print(*(isinstance(report.metrics["score"], Score) for report in job.new_reports()))
"""


def test_a_script_needs_no_guard_and_a_folder_with_spaces_is_no_trouble(tmp_path):
    folder = tmp_path / "a folder, with spaces"
    folder.mkdir()
    (folder / "hpo_helpers").symlink_to(REPOSITORY / "hpo_helpers")
    (folder / "script.py").write_text(CELL)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = python(folder / "script.py", stderr=subprocess.STDOUT, env=environment)
    assert script.communicate(timeout=PATIENCE)[0] == "True True\n" * 2


def test_functions_typed_at_a_prompt_work():
    prompt = python("-i", "-q", stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert "True True\n" * 2 in prompt.communicate(CELL + "\n\n", timeout=PATIENCE)[0]


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


def test_a_command_line_reports_by_the_lines_it_prints_and_fails_with_the_last_ones(tmp_path):
    path = tmp_path / "a script.py"
    path.write_text(SCRIPT)
    with LocalScript([sys.executable, path], 3, fixed={"network": "cnn"}) as launcher:
        # Argparse takes a -1e-05 by itself for an option.
        jobs = [launcher.submit({"learning_rate": learning_rate}, 2) for learning_rate in (0.5, 2.0, -1e-05)]
        finish(*jobs)
    good, bad, negative = jobs
    assert (negative.status, values(negative)) == (JobStatus.COMPLETED, [0.0, 0.0])
    assert (good.status, good.error) == (JobStatus.COMPLETED, None)
    assert [report.metrics for report in good.new_reports()] == [
        {"epoch": 1, "valid_error": 0.5, "seconds": 0.001, "phase": "train"},
        {"epoch": 2, "valid_error": 0.25, "seconds": 0.001, "phase": "train"},
    ]
    assert (bad.status, values(bad)) == (JobStatus.FAILED, [2.0, 1.0])
    assert bad.error.splitlines()[0] == f"RuntimeError: {sys.executable} ended with exit status 1"
    assert bad.error.splitlines()[-2:] == ["accuracy=0.9", "learning_rate is too high"]


BAR = "\r 33%|███   | 1/3 [00:00<00:01, 9.1it/s, lr=1, error=0.5]"

THREE = {"val/acc": 0.5, "test-multi_logloss": 1.0, "validation:rmse": 1000.0}

#: A printed line, and the pairs that it has.
LINES = [
    ("epoch=3, error=0.0412, lr=0.1\r\n", {"epoch": 3, "error": 0.0412, "lr": 0.1}),
    ("epoch=3;error=-1e-05;phase=train", {"epoch": 3, "error": -1e-05, "phase": "train"}),
    ("val/acc=.5 test-multi_logloss=1. validation:rmse=1E+3", THREE),
    ("my_error=inf error=-inf", {"my_error": math.inf, "error": -math.inf}),
    ("INFO:root:Epoch[0] Validation-error=0.95", {"Validation-error": 0.95}),
    ("12:00 INFO:a.b:error=0.5", {"error": 0.5}),
    ("\x1b[32mINFO\x1b[0m | epoch=1 error=0.5 [best: 0.4]", {"epoch": 1, "error": 0.5}),
    ("epoch=3/27 error=2", {"error": 2}),
    ("error=0,0412 error: 0.5 error=1_0 error=0.5% (error=1) best/error=0.1.ckpt", {}),
    (BAR, {}),
    (f"{BAR}{BAR}\n", {}),
    (f"{BAR}epoch=1 error=0.2", {"epoch": 1, "error": 0.2}),
    (f"{BAR}\r       \repoch=1 error=0.2", {"epoch": 1, "error": 0.2}),
    (f"{BAR}\r       \x1b[Aepoch=1 error=0.2", {"epoch": 1, "error": 0.2}),
    (f"{BAR}\r       \x1b[AINFO:root:error=0.2", {"error": 0.2}),
    ("epoch=1, error=0.5, lr=1: 3it [00:00, 9.1it/s]", {}),
    ("\rstep 1 error=0.5\rstep 2 error=0.4\n", {"error": 0.4}),  # what a terminal shows in the end
    ("step 1 error=0.5\rstep 2 error=0.4\repoch=1 error=0.2", {"epoch": 1, "error": 0.2}),
]


@pytest.mark.parametrize("line", [line for line, _ in LINES])
def test_the_pairs_of_a_line_are_the_same_here_and_on_sagemaker(line):
    pairs = dict(LINES)[line]
    for text in (line, line.replace("\r", "#015").replace("\x1b", "#033")):
        assert parse_line(text) == pairs
        found = {name: re.search(expression(name), text) for name in ("error", "acc", *pairs)}
        assert {name: match[1] for name, match in found.items() if match}.keys() == pairs.keys()
    assert re.compile(expression("x")).groups == 1 and len(expression("x" * 100)) <= 500  # SageMaker's limit


@pytest.mark.parametrize("options", ["", "leave=False", "file=sys.stdout"])
def test_a_progress_bar_is_no_report(shell, tmp_path, options):
    (tmp_path / "script.py").write_text(f"""
import logging, sys, tqdm
for epoch in tqdm.tqdm([1, 2], mininterval=0):
    with tqdm.tqdm(range(3), mininterval=0, {options}) as bar:
        for _ in bar:
            bar.set_postfix(valid_error=0.5)
    print(f"epoch={{epoch}} valid_error={{epoch / 100}}")
""")
    job = finish(shell(f'"{sys.executable}" "{tmp_path / "script.py"}"'))
    assert (job.status, values(job)) == (JobStatus.COMPLETED, [0.01, 0.02])


def test_the_lines_of_a_python_script_arrive_while_it_runs(shell):
    code = "import time; print('valid_error=1.0'); time.sleep(3600)"
    assert first_report(shell(f'"{sys.executable}" -c "{code}"')).value == 1.0


@pytest.mark.parametrize(
    ("commands", "error"),
    [
        ("echo valid_error=nan", "ValueError: 'valid_error' was nan after epoch 1"),
        ("echo valid_error=high", "ValueError: 'valid_error' must be a number, got 'high'"),
        ("echo nothing of interest", "RuntimeError: training ended without a report"),
        ("kill -9 $$", "RuntimeError: sh was killed by signal 9 (SIGKILL)"),
    ],
)
def test_what_a_command_line_does_wrong_is_said(shell, commands, error):
    assert finish(shell(commands)).error.startswith(error)


def test_a_program_that_does_not_exist_is_named():
    with LocalScript(["no-such-program"], 1) as launcher:
        assert "No such file or directory: 'no-such-program'" in finish(launcher.submit({}, 1)).error


def test_stopping_a_command_line_ends_all_its_processes_and_no_other(shell):
    jobs = [shell("sleep 3600 & echo valid_error=1 shell=$$ sleep=$!; sleep 3600") for _ in range(2)]
    metrics = [first_report(job).metrics for job in jobs]
    jobs[0].stop()
    assert_gone([jobs[0].pid, metrics[0]["shell"], metrics[0]["sleep"]])
    assert is_alive(metrics[1]["shell"]) and is_alive(metrics[1]["sleep"])


def test_a_command_line_that_trains_on_after_its_last_epoch_is_complete(shell):
    job = finish(shell("for i in 1 2 3 4; do echo valid_error=$i; done; sleep 3600"))
    assert (job.status, values(job)) == (JobStatus.COMPLETED, [1.0, 2.0])


# The real thing.


def test_a_real_network_trains_to_the_bit_as_in_a_process_of_its_own(tmp_path):
    draw = np.random.default_rng(0)
    part = draw.random((500, 1, 28, 28), dtype=np.float32), draw.integers(10, size=500)
    save_npz(tmp_path / "mnist.npz", (part, part, part))
    fixed = {"n_channels": 4, "data": str(tmp_path)}
    command = [sys.executable, "-m", "hpo_helpers.train_mnist"]
    with (
        LocalLauncher(train, 2, fixed=fixed, preload=["hpo_helpers.mxnet_compat"]) as launcher,
        LocalScript(command, 1, fixed=fixed) as script,
    ):
        jobs = [script.submit({"learning_rate": 0.1}, 2)]
        jobs += [launcher.submit({"learning_rate": learning_rate}, 2) for learning_rate in (0.1, 0.01)]
        for job in jobs:
            finish(job)
    assert [job.error for job in jobs] == [None, None, None]
    alone, same, other = [[report.metrics["valid_error"] for report in job.new_reports()] for job in jobs]
    assert len(alone) == 2 and alone == same != other
