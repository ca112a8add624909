"""What goes wrong under tune(): the study tells what happened, nothing is lost, and no process is left."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import optuna
import psutil
import pytest
from jupyter_client.manager import start_new_kernel
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from virtual import VirtualLauncher

from hpo_helpers import resuming
from hpo_helpers.comparing import reports
from hpo_helpers.jobs.local import LocalLauncher
from hpo_helpers.journal import open_journal
from hpo_helpers.tuning import tune

PATIENCE = 120  # seconds until a test gives up; none needs more than a few


# Faults of a job


def faulty(fault, epochs):
    yield {"valid_error": 0.5, "pid": os.getpid()}
    if fault == "raises":
        raise ZeroDivisionError("no luck")
    if fault == "nan":
        yield {"valid_error": float("nan")}
    if fault == "garbage":
        yield "garbage"
    if fault == "hangs":
        time.sleep(PATIENCE)
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "exits":
        os._exit(0)
    if fault == "exhausts memory":
        bytearray(1 << 62)
    yield {"valid_error": 0.25, "pid": os.getpid()}


EXPECTED = {
    "raises": "ZeroDivisionError: no luck",
    "nan": "'valid_error' was nan after epoch 2",
    "garbage": "training must yield a dict of metrics once per epoch, got 'garbage'",
    "hangs": "no end after 3 s (trial_timeout)",
    "killed": "SIGKILL",
    "exits": "exit status 0",
    "exhausts memory": "emory",
    "none": None,
}


@pytest.fixture(scope="module")
def study_of_faults():
    faults = list(EXPECTED)
    sampler = optuna.samplers.GridSampler({"fault": faults}, seed=0)
    study = optuna.create_study(study_name="faults", sampler=sampler)
    with LocalLauncher(faulty, n_workers=2) as launcher:
        first = launcher.submit({"fault": "none"}, 2)
        while not first.finished:  # the start of the workers takes none of a trial's seconds
            launcher.wait([first])
        space = {"fault": CategoricalDistribution(faults)}
        limits = {"n_trials": len(faults), "trial_timeout": 3, "max_failures": len(faults)}
        tune(study, space, launcher, epochs=2, progress=False, **limits)
    return study


@pytest.mark.parametrize("fault", EXPECTED)
def test_the_study_tells_what_happened_to_a_job_and_its_process_is_gone(study_of_faults, fault):
    (trial,) = [trial for trial in study_of_faults.trials if trial.params["fault"] == fault]
    if fault == "none":
        assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.25)
    else:
        assert trial.state == TrialState.FAIL
        assert EXPECTED[fault] in trial.user_attrs["error"]
    assert trial.intermediate_values[1] == 0.5  # what came before the fault is kept
    assert not is_running(trial.user_attrs["report 1"]["pid"])


# Faults of the process that tunes: a script as a reader would write it, with no guard around it

SCRIPT = """
import os, sys, time
import optuna
from optuna.distributions import FloatDistribution
from hpo_helpers.journal import open_journal
from hpo_helpers.jobs.local import LocalLauncher
from hpo_helpers.tuning import tune

def train(x, epochs):
    for epoch in range(1, epochs + 1):
        time.sleep(0.05)
        with open("pids", "a") as file:
            print(os.getpid(), file=file)
        yield {{"valid_error": x / epoch}}

study = optuna.create_study(
    study_name="s",
    storage=open_journal("study.journal"),
    sampler=optuna.samplers.RandomSampler(),
    pruner=optuna.pruners.NopPruner(),
    load_if_exists=True,
)
{before}
with LocalLauncher(train, n_workers=2) as launcher:
    tune(study, {{"x": FloatDistribution(0, 1)}}, launcher, epochs=4, n_trials={n_trials}, progress=False)
"""

CHECKOUT = {"PYTHONPATH": str(Path(__file__).parents[1])}


class Tuning:
    """A process that tunes a study which lies in a folder."""

    def __init__(self, folder, n_trials=8, before=""):
        text = SCRIPT.format(n_trials=n_trials, before=textwrap.dedent(before))
        # Each has a file of its own: another's could be read while it is written.
        script = folder / f"tuning_{len(list(folder.glob('tuning_*.py')))}.py"
        script.write_text(text)
        self.folder = folder
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        settings = {"cwd": folder, "env": os.environ | CHECKOUT, "start_new_session": True}
        self.process = subprocess.Popen([sys.executable, script.name], **settings, **output)

    def study(self):
        return optuna.load_study(study_name="s", storage=open_journal(self.folder / "study.journal"))

    def wait_for_epochs(self, n_epochs):
        def there():
            assert self.process.poll() is None, self.end()[1]
            return (self.folder / "pids").exists() and len(self.read_pids()) >= n_epochs

        wait_until(there)

    def read_pids(self):
        return (self.folder / "pids").read_text().split()

    def pids(self):
        return {int(pid) for pid in self.read_pids()} | {self.process.pid}

    def end(self):
        output, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, output


def resume(folder):
    """Go on in a new process, to the end, and return the study and the process."""
    tuning = Tuning(folder)
    assert tuning.end()[0] == 0
    return tuning.study(), tuning.process.pid


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def assert_whole(study):
    """Every trial ended, and every configuration that was cut off was trained after all."""
    done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert len(done) == 8
    assert all(len(resuming.reports_of(trial)) == 4 for trial in done)
    cut_off = [trial for trial in study.trials if trial.state != TrialState.COMPLETE]
    assert {trial.state for trial in cut_off} <= {TrialState.FAIL}
    retried = {trial.user_attrs.get("retry_of"): trial.params for trial in done}
    for trial in cut_off:
        assert retried.get(trial.number, {}) == trial.params
    return cut_off


def test_a_trial_that_a_dead_process_had_asked_for_but_not_signed_is_closed(tmp_path):
    tuning = Tuning(tmp_path, before="optuna.Trial.set_user_attr = lambda *_: os._exit(9)")
    assert tuning.end()[0] == 9
    (trial,) = tuning.study().trials
    assert trial.state == TrialState.RUNNING and trial.user_attrs == {}

    states = {trial.number: trial.state for trial in resume(tmp_path)[0].trials}
    assert states[trial.number] == TrialState.FAIL
    assert list(states.values()).count(TrialState.COMPLETE) == 8


def test_a_dead_process_that_nobody_has_buried_is_dead():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(process.pid).create_time()
    owner = {"host": socket.gethostname(), "pid": process.pid, "started": started}
    assert not resuming._is_dead(owner)
    process.kill()
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    assert resuming._is_dead(owner)
    process.communicate()
    assert resuming._is_dead(owner)


def test_a_killed_kernel_leaves_no_process_and_the_study_goes_on(tmp_path):
    tuning = Tuning(tmp_path)
    tuning.wait_for_epochs(10)
    tuning.process.kill()
    tuning.end()
    pids = tuning.pids()
    wait_until(lambda: not any(map(is_running, pids)))
    seconds_before = reports(tuning.study())["time"].max()

    study, pid = resume(tmp_path)
    cut_off = assert_whole(study)
    assert {trial.user_attrs["error"] for trial in cut_off} <= {"its process ended before the trial did"}
    restarted = [trial for trial in study.trials if trial.user_attrs.get("owner", {}).get("pid") == pid]
    assert min(trial.user_attrs["started"] for trial in restarted) >= seconds_before


def test_a_terminated_process_leaves_none_of_its_jobs(tmp_path):
    numbers = (signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        (tmp_path / number.name).mkdir()
    tunings = [Tuning(tmp_path / number.name) for number in numbers]
    for number, tuning in zip(numbers, tunings, strict=True):
        tuning.wait_for_epochs(1)
        tuning.process.send_signal(number)
        tuning.end()
        wait_until(lambda: not any(map(is_running, tuning.pids())))


def test_a_kernel_that_is_shut_down_leaves_none_of_its_jobs(tmp_path):
    text = SCRIPT.format(n_trials=8, before="")
    manager, client = start_new_kernel(cwd=str(tmp_path), env=os.environ | CHECKOUT)
    try:
        client.execute(text)
        pids = tmp_path / "pids"
        wait_until(lambda: pids.exists() and len(pids.read_text().split()) >= 6)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    jobs = {int(pid) for pid in pids.read_text().split()}
    wait_until(lambda: not any(map(is_running, jobs)))


def test_an_interrupt_closes_the_trials_and_leaves_no_process(tmp_path):
    tuning = Tuning(tmp_path)
    tuning.wait_for_epochs(6)
    os.killpg(tuning.process.pid, signal.SIGINT)  # as Ctrl-C at a prompt does: to the whole group
    returncode, output = tuning.end()
    assert returncode != 0 and "KeyboardInterrupt" in output
    assert not any(map(is_running, tuning.pids()))
    assert TrialState.RUNNING not in {trial.state for trial in tuning.study().trials}

    cut_off = assert_whole(resume(tmp_path)[0])
    assert {trial.user_attrs["error"] for trial in cut_off} <= {"interrupted by KeyboardInterrupt"}


def test_a_full_disk_under_the_journal_ends_tuning_and_loses_no_trial(tmp_path):
    # A limit on the size of files stands for the full disk, since a test may run as root.
    full_disk = """
    import resource
    size = os.path.getsize("study.journal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 6007, resource.RLIM_INFINITY))
    """
    tuning = Tuning(tmp_path, before=full_disk)
    returncode, output = tuning.end()
    assert returncode != 0 and "File too large" in output
    study = tuning.study()
    assert not any(map(is_running, tuning.pids()))
    finished = [trial.number for trial in study.trials if trial.state == TrialState.COMPLETE]

    # What was cut off is trained anew, unless the last bytes held that it ended and not that it is queued again.
    after = {trial.number: trial.state for trial in resume(tmp_path)[0].trials}
    assert all(after[number] == TrialState.COMPLETE for number in finished)
    assert list(after.values()).count(TrialState.COMPLETE) == 8
    assert set(after.values()) <= {TrialState.COMPLETE, TrialState.FAIL}


def test_several_processes_share_a_study_and_no_trial_is_lost(tmp_path):
    optuna.create_study(study_name="s", storage=open_journal(tmp_path / "study.journal"))
    begin_together = """
    open(f"ready-{os.getpid()}", "w").close()
    while sum(name.startswith("ready-") for name in os.listdir()) < 3:
        time.sleep(0.01)
    """
    tunings = [Tuning(tmp_path, n_trials=12, before=begin_together) for _ in range(3)]
    assert [tuning.end()[0] for tuning in tunings] == [0, 0, 0]
    trials = tunings[0].study().trials
    # Each may have asked in the instant in which another asked for the last.
    assert len(trials) in (12, 13, 14) and {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len({trial.user_attrs["owner"]["pid"] for trial in trials}) == 3
    assert all([report["epoch"] for report in resuming.reports_of(t)] == [1, 2, 3, 4] for t in trials)


def test_processes_share_a_grid(tmp_path):
    cells = [i / 16 for i in range(12)]
    grid = f"study.sampler = optuna.samplers.GridSampler({{'x': {cells}}})"
    optuna.create_study(study_name="s", storage=open_journal(tmp_path / "study.journal"))
    tunings = [Tuning(tmp_path, n_trials=None, before=grid) for _ in range(3)]
    assert [tuning.end()[0] for tuning in tunings] == [0, 0, 0]
    trials = tunings[0].study().trials
    assert {trial.params["x"] for trial in trials} == set(cells) and len(trials) < 12 + 3
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}


# Other storages


def test_a_journal_holds_each_report_once(tmp_path):
    sizes = []
    for epochs in (50, 150):
        path = tmp_path / f"{epochs}.journal"
        study = optuna.create_study(storage=open_journal(path), pruner=optuna.pruners.NopPruner())
        launcher = VirtualLauncher(lambda params: iter([(1.0, 0.5)] * epochs), 1)
        tune(study, {"x": FloatDistribution(0, 1)}, launcher, epochs=epochs, n_trials=1, progress=False)
        assert len(reports(study)) == epochs
        sizes.append(path.stat().st_size)
    assert sizes[1] < 3.2 * sizes[0]


def test_a_journal_lies_also_where_no_symbolic_link_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "symlink", None)
    study = optuna.create_study(storage=open_journal(tmp_path / "study.journal"))
    study.enqueue_trial({"x": 1})
    assert len(study.trials) == 1


def test_half_a_line_is_cut_off_and_the_rest_of_the_journal_is_read(tmp_path):
    path = tmp_path / "study.journal"
    path.write_bytes(b'{"op_code":')  # all of the journal is half a line
    study = optuna.create_study(study_name="s", storage=open_journal(path))
    study.enqueue_trial({"x": 1})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"worker_id"')
    reopened = optuna.load_study(study_name="s", storage=open_journal(path))
    assert path.read_bytes() == whole
    with open(path, "ab") as file:  # by another process, while this one is at work
        file.write(b'{"op_code":4,')
    reopened.enqueue_trial({"x": 2})
    assert len(optuna.load_study(study_name="s", storage=open_journal(path)).trials) == 2
