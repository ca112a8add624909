"""What lesson 10 says of parallel search and of storages: computed anew, or done again with real processes."""

import inspect
import re
import runpy
import shutil
import subprocess
import sys

import numpy as np
import optuna
import pandas as pd
import psutil
import pytest
import yaml
from claims import claimed, code_cells, define, lesson_text
from notebook_files import NOTEBOOKS
from optuna.pruners import NopPruner
from optuna.samplers import TPESampler
from optuna.storages import GrpcStorageProxy, JournalStorage, RDBStorage, run_grpc_proxy_server
from optuna.storages._heartbeat import BaseHeartbeat

from hpo_helpers import comparing
from hpo_helpers.curves import NoisyCurves, expected_errors
from hpo_helpers.datasets import load_curves, load_table
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.spaces import MNIST_CNN
from hpo_helpers.tuning import tune

LESSON = "10_parallel_and_distributed"
PATH = NOTEBOOKS.parent / "data" / "record_lesson_10.py"
SCRIPT = runpy.run_path(str(PATH))
SECONDS = load_curves().groupby("configuration")["seconds"].sum()
WORKERS = (1, 4, 16, 64)


@pytest.fixture(autouse=True)
def nothing_is_left():
    """See that every server and worker that a test has started is gone after it."""
    before = set(psutil.Process().children(recursive=True))
    yield
    left = set(psutil.Process().children(recursive=True)) - before
    psutil.wait_procs(left, timeout=10)
    assert not [process for process in left if process.is_running()]


@pytest.fixture(scope="module")
def found():
    """Return the incumbents at equal work, judged without noise."""
    table = load_table("lesson_10_workers")
    table["method"] += ", " + table["workers"].astype(str)
    ends = {n: 128 * SECONDS.mean() / n for n in WORKERS}
    parts = [table[table["workers"] == n].pipe(comparing.at_times, [ends[n]]) for n in WORKERS]
    return expected_errors(pd.concat(parts)).assign(time=0)


def compare(found, baseline, *methods):
    """Return the differences of methods from one of them, in per cent."""
    pairs = comparing.paired_differences(
        found[found["method"].isin([baseline, *methods])], baseline, value="expected_error"
    ).set_index("method")
    return pairs.assign(difference=100 * pairs["difference"], detectable=100 * pairs["detectable"])


def test_few_workers_cost_nothing_that_could_be_seen_and_many_make_tpe_a_random_search(found):
    pairs = compare(found, "TPE, 1", *(f"TPE, {n}" for n in WORKERS[1:]))
    assert list(pairs["verdict"]) == ["no difference", "no difference", "worse"]
    said = claimed(LESSON, r"could be seen \(([\d.]+) points would have been\)[^.]*\. 64 workers cost ([\d.]+) points")
    assert said == [pairs["detectable"].iloc[0].round(2), pairs["difference"].iloc[-1].round(2)]
    for n, verdict in {1: "better", 4: "better", 64: "no difference"}.items():
        assert compare(found, f"random search, {n}", f"TPE, {n}")["verdict"].item() == verdict
    pairs = compare(found, "random search, 1", *(f"random search, {n}" for n in WORKERS[1:]))
    assert (pairs["verdict"] == "no difference").all() and (pairs["detectable"] < 0.1).all()


def test_at_equal_wall_clock_the_error_stays_from_4_workers_on():
    table = load_table("lesson_10_workers").query("method == 'TPE'")
    found = expected_errors(comparing.at_times(table.assign(method=table["workers"]), [2 * SECONDS.mean()]).dropna(subset="trial"))
    means = found.groupby("method")["expected_error"].mean()
    assert means[1] > 0.1 and means[[4, 16, 64]].max() - means[[4, 16, 64]].min() < 0.001
    assert "From 4 to 64 workers the error stays" in lesson_text(LESSON)


def test_the_liar_keeps_workers_from_the_same_proposal_and_changes_no_error_that_could_be_seen(found):
    means = load_table("lesson_10_repeated").groupby("method")["in_training"].mean()
    said = claimed(LESSON, r"With the liar, ([\d.]+) of 128 .* without it (\d+), a third of the work")
    assert said == [means["TPE"].round(1), means["TPE, no liar"].round()] and 0.3 < means["TPE, no liar"] / 128 < 0.36
    assert abs(means["TPE"] - means["random search"]) < 0.5
    near = load_table("lesson_10_workers").query("workers == 16").drop_duplicates(["method", "seed"])
    near = near.groupby("method")["nearest_running"].mean().round(2)
    assert claimed(LESSON, r"is ([\d.]+) with it and ([\d.]+) without") == [near["TPE"], near["TPE, no liar"]]
    pairs = [compare(found, f"TPE, {n}", f"TPE, no liar, {n}").iloc[0] for n in (16, 64)]
    assert all(pair["verdict"] == "no difference" for pair in pairs)
    said = claimed(LESSON, r"one of ([\d.]+) points would have been with 16 workers, and of ([\d.]+) with 64")
    assert said == [pair["detectable"].round(2) for pair in pairs]


def test_batches_train_less_and_no_difference_in_error_could_be_seen(found):
    table = load_table("lesson_10_workers").drop_duplicates(["method", "workers", "seed"])
    ended = table.groupby(["workers", "method"])["trials"].mean().round()
    said = claimed(LESSON, r"16 workers end (\d+) trainings asynchronously and (\d+) in batches; 64 workers, (\d+) and (\d+)")
    assert said == [ended[n, method] for n in (16, 64) for method in ("TPE", "TPE, in batches")]
    pairs = [compare(found, f"TPE, {n}", f"TPE, in batches, {n}").iloc[0] for n in (16, 64)]
    assert all(pair["verdict"] == "no difference" for pair in pairs)
    said = claimed(LESSON, r"was seen \(([\d.]+) and ([\d.]+) points would have been\)\. A batch")
    assert said == [pair["detectable"].round(2) for pair in pairs]


def test_the_lesson_and_the_script_that_records_do_the_same():
    names = {used.__name__: used for used in (NopPruner, ReplayLauncher, NoisyCurves, tune)}
    names |= {"optuna": optuna, "MNIST_CNN": MNIST_CNN, "TRAINING": SECONDS.mean()}
    names |= {"np": np, "curves": load_curves(), "WORKERS": WORKERS}
    define(LESSON, names)
    recorded = load_table("lesson_10_workers").query("method == 'TPE' and workers == 16 and seed == 10007")
    trials = names["search"](TPESampler(seed=10_007), 16, seed=10_007)
    assert min(trial.value for trial in trials if trial.value is not None) == recorded["value"].min()
    assert sum(trial.state.name == "COMPLETE" for trial in trials) == recorded["trials"].iloc[0]


@pytest.mark.parametrize("name, method", [("workers", "TPE, in batches"), ("repeated", "TPE, no liar")])
def test_some_recorded_searches_come_out_again(name, method):
    run, _, _ = SCRIPT["EXPERIMENTS"][name]
    recorded = load_table(f"lesson_10_{name}").query("method == @method and seed == 10003")
    anew = run(method, 10_003).round(6)
    pd.testing.assert_frame_equal(anew.reset_index(drop=True), recorded[anew.columns].reset_index(drop=True), atol=2e-5, check_dtype=False)


STORAGES = load_table("lesson_10_storages")
FAULTS = load_table("lesson_10_faults").set_index(["storage", "fault"])


def test_sqlite_alone_trains_queued_trials_twice():
    harmed = STORAGES.groupby("storage")[["lost", "doubled", "errors"]].min() > 0
    assert list(harmed.index[harmed.all(axis=1)]) == ["SQLite"]
    others = STORAGES[STORAGES["storage"] != "SQLite"]
    assert (others[["lost", "doubled", "errors"]] == 0).all(axis=None) and set(STORAGES.groupby("storage").size()) == {3}
    assert "SQLite alone does harm" in lesson_text(LESSON)


def test_the_proxy_over_the_journal_is_fastest_and_databases_slower_than_journals():
    seconds = STORAGES.groupby("storage")["seconds"].agg(["min", "max"])
    journals = ["journal", "open_journal", "gRPC over journal"]
    assert seconds["max"]["gRPC over journal"] < seconds["min"].drop("gRPC over journal").min()
    assert seconds["max"][journals].max() < seconds["min"].drop(journals).min()
    assert "the proxy over the journal is fastest, and every database slower than any journal" in lesson_text(LESSON)


def test_nothing_told_is_lost_and_a_killed_worker_leaves_a_trial_in_training():
    assert (FAULTS["lost"] == 0).all()
    killed = FAULTS.drop("server", level="fault")
    assert (killed["workers_left"] == 3).all() and (killed["running"] == 1).all() and (killed["told"] == 79).all()
    assert (FAULTS.xs("server", level="fault")["workers_left"] == 0).all()
    pauses = FAULTS.xs("worker, writing", level="fault")["pause"]
    assert 30 < pauses["journal"] < 40 and 5 < pauses["open_journal"] < 12
    assert pauses.drop(["journal", "open_journal"]).max() < 3


def test_optunas_pages_and_code_are_as_the_lesson_says():
    assert "issues/6084" in run_grpc_proxy_server.__doc__ and "does not support" in run_grpc_proxy_server.__doc__
    assert "issues/6084" in inspect.getsource(JournalStorage.set_trial_state_values), "where the check is"
    assert "never recommend SQLite3 for parallel" in RDBStorage.__doc__
    assert not issubclass(GrpcStorageProxy, BaseHeartbeat) and not issubclass(JournalStorage, BaseHeartbeat)


@pytest.mark.parametrize("name", ["gRPC over journal", "gRPC over PostgreSQL"])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_recorded_storage_does_it_again(name):
    if "PostgreSQL" in name:
        pytest.importorskip("pgserver", reason="it has no package for this Python")
    row = SCRIPT["shared"](name, 0).iloc[0]
    assert (row[["lost", "doubled", "errors"]] == 0).all()


def test_a_server_of_the_script_ends_with_it_even_when_it_is_killed(tmp_path):
    code = f"import runpy, time; s = runpy.run_path({str(PATH)!r})\nwith s['grpc']('a.journal') as (port, pid): print(pid, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, stdout=subprocess.PIPE) as script:
        server = psutil.Process(int(script.stdout.readline()))
        script.kill()
    server.wait(20)


def blocks(language):
    """Return the lesson's blocks of code in a language that no cell runs."""
    return re.findall(rf"^```{language}\n(.*?)^```", lesson_text(LESSON), re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_worker_to_copy_works_and_two_of_them_share_a_study(tmp_path):
    worker = code_cells(LESSON)["own-project"].source
    (last,) = re.findall(r"one more line: `(.*)`", lesson_text(LESSON))
    assert sum(bool(line.strip()) for line in worker.splitlines()) <= 15
    with SCRIPT["grpc"](f"{tmp_path}/mine.journal") as (port, _):
        text = f"{worker}\n{last}".replace("13000", str(port)).replace("6 * 3600", "3")
        (tmp_path / "worker.py").write_text(text)
        command = [sys.executable, "-W", "ignore", "worker.py", "127.0.0.1"]
        workers = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) for _ in range(2)]
        assert [worker.wait(120) for worker in workers] == [0, 0]
        study = optuna.load_study(study_name="mine", storage=SCRIPT["open_storage"](f"{tmp_path}/mine.journal"))
    finished = [trial for trial in study.trials if trial.state.is_finished()]
    assert len(finished) == len(study.trials) > 4
    assert len({trial.params["learning_rate"] for trial in finished}) == len(finished), "no seed is shared"


def test_the_jobs_to_copy_are_whole():
    (slurm,), (kubernetes,) = blocks("bash"), blocks("yaml")
    job = yaml.safe_load(kubernetes)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert job["kind"] == "Job" and container["command"][:2] == ["python", "worker.py"]
    assert "#SBATCH --array=1-16" in slurm and job["spec"]["parallelism"] == 16
    if shutil.which("bash"):
        assert subprocess.run(["bash", "-n"], input=slurm, text=True).returncode == 0
