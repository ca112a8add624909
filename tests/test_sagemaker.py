"""SageMakerLauncher over HTTP, against the rehearsal: what jobs deliver, and what becomes of them."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import boto3
import optuna
import psutil
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from service_models import read_once

from hpo_helpers.jobs import JobStatus, sagemaker
from hpo_helpers.jobs.sagemaker import polling
from hpo_helpers.jobs.sagemaker.upload import program_name
from hpo_helpers.jobs.rehearsal import Rehearsal
from hpo_helpers.jobs.sagemaker import (
    SageMakerError,
    SageMakerLauncher,
    delete_created,
    jobs_from_logs,
    jobs_from_search,
    list_created,
)
from hpo_helpers.spaces import to_sagemaker
from hpo_helpers.tuning import tune

REPOSITORY = Path(__file__).parents[1]
ROLE = "arn:aws:iam::123456789012:role/rehearsal"
STATUS_SECONDS = polling.STATUS_SECONDS
PATIENCE = 60  # seconds, for what takes one on an idle machine

HALVING = """
    import argparse, time
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--learning_rate", type=float, default=0.5)
    parser.add_argument("--pause", type=float, default=0.0)
    options = parser.parse_args()
    for epoch in range(1, options.epochs + 1):
        time.sleep(options.pause)
        print(f"epoch={epoch} valid_error={options.learning_rate / epoch:.4f} test_error=0.5 kind=halving", flush=True)
"""
HANGING = """
    import time
    print("epoch=1 valid_error=0.5", flush=True)
    time.sleep(1000)
"""


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    with Rehearsal() as rehearsal, pytest.MonkeyPatch.context() as patch:
        read_once(patch)
        patch.setenv("HPO_HELPERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name, value in rehearsal.environment.items():
            patch.setenv(name, value)
        boto3.setup_default_session()  # it would remember another rehearsal's key
        yield rehearsal
    boto3.setup_default_session()


@pytest.fixture
def hurried(monkeypatch):
    """Ask more often than an account of AWS's should be asked; and no line is late here."""
    monkeypatch.setattr(polling, "STATUS_SECONDS", (0.1, 0.5))
    monkeypatch.setattr(polling, "LOG_SECONDS", 0.02)
    monkeypatch.setattr(sagemaker, "LOG_SECONDS_OF_A_JOB", (0.1, 0.5))
    monkeypatch.setattr(sagemaker, "LATE_SECONDS", 0.3)


@pytest.fixture
def launched(rehearsal, hurried, tmp_path, request):
    """Make launchers, closed at the end of the test."""
    launchers = []

    def launch(script=HALVING, n_workers=2, **settings):
        path = tmp_path / settings.pop("file", "train.py")
        path.write_text(textwrap.dedent(script), encoding="utf-8")
        name = "hpo-" + request.node.name.partition("[")[0].replace("_", "-")[5:34].strip("-")
        launchers.append(SageMakerLauncher(path, n_workers, role=ROLE, **{"name": name, **settings}))
        return launchers[-1]

    yield launch
    rehearsal.throttle()
    rehearsal.max_running_jobs = None
    for launcher in launchers:
        launcher.close()


def finish(launcher, *jobs):
    """Wait until all jobs have finished, and return the reports of each."""
    reports = {job.id: [] for job in jobs}
    deadline = time.monotonic() + PATIENCE
    while not all(job.finished for job in jobs):
        assert time.monotonic() < deadline, f"still running: {jobs}"
        launcher.wait(jobs, PATIENCE)
        for job in jobs:
            reports[job.id] += job.new_reports()
    return [reports[job.id] + job.new_reports() for job in jobs]


def status_on_aws(name):
    return boto3.client("sagemaker").describe_training_job(TrainingJobName=name)["TrainingJobStatus"]


def assert_stopped(names):
    deadline = time.monotonic() + PATIENCE
    while running := [
        name for name in names if status_on_aws(name) not in ("Stopped", "Completed", "Failed")
    ]:
        assert time.monotonic() < deadline, f"still running: {running}"
        time.sleep(0.1)


# What a job delivers.


def test_every_epoch_is_reported_with_all_that_was_printed_and_the_time_when_it_was(launched):
    launcher = launched()
    before = launcher.clock()
    first = launcher.submit({"learning_rate": 0.5}, 3)
    (reports,) = finish(launcher, first)
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert [report.value for report in reports] == [0.5, 0.25, 0.1667]
    assert reports[2].metrics == {"epoch": 3, "valid_error": 0.1667, "test_error": 0.5, "kind": "halving"}
    times = [report.time for report in reports]
    assert times == sorted(times) and before <= times[0] and times[-1] < launcher.clock()
    assert (first.status, first.error, first.finished) == (JobStatus.COMPLETED, None, True)
    assert (first.id, first.epochs, first.params) == (0, 3, {"learning_rate": 0.5})
    assert first.name == f"{launcher.run}-000" and first.new_reports() == []
    assert launcher.submit({"epochs": 2}, 5).epochs == 2


def test_the_time_of_a_report_is_when_it_was_made_not_when_it_was_read(launched):
    launcher = launched()
    job = launcher.submit({"pause": 0.5}, 3)
    time.sleep(3)  # it has ended by now, and nobody asked
    read = launcher.clock()
    (reports,) = finish(launcher, job)
    gaps = [later.time - earlier.time for earlier, later in zip(reports, reports[1:], strict=False)]
    assert reports[-1].time < read - 0.5
    assert gaps == pytest.approx([0.5, 0.5], abs=0.2)


def test_what_is_fixed_reaches_the_script_and_a_parameter_of_its_own_comes_first(launched):
    launcher = launched(fixed={"learning_rate": 0.4, "pause": 0.0})
    jobs = [launcher.submit({}, 1), launcher.submit({"learning_rate": 0.8}, 1)]
    assert [reports[0].value for reports in finish(launcher, *jobs)] == [0.4, 0.8]


def test_submit_refuses_more_than_it_may_and_wait_refuses_to_wait_for_nothing(launched):
    launcher = launched(n_workers=1)
    with pytest.raises(ValueError, match="no running job to wait for"):
        launcher.wait([])
    with pytest.raises(ValueError, match="epochs must be a positive whole number, got 0"):
        launcher.submit({}, 0)
    job = launcher.submit({}, 1)
    with pytest.raises(RuntimeError, match="all 1 workers are taken"):
        launcher.submit({}, 1)
    finish(launcher, job)
    with pytest.raises(ValueError, match="no running job to wait for"):
        for _ in range(2):  # the first time it has ended since
            launcher.wait([job], 1)
    launcher.close()
    with pytest.raises(RuntimeError, match="this launcher is closed"):
        launcher.submit({}, 1)


def test_a_stopped_job_delivers_nothing_and_its_worker_is_free_once_it_has_ended(launched):
    launcher = launched(HANGING, n_workers=1)
    job = launcher.submit({}, 3)
    launcher.wait([job], PATIENCE)
    job.stop()
    job.stop()
    assert job.new_reports() == []
    assert finish(launcher, job) == [[]]
    assert (job.status, job.error, status_on_aws(job.name)) == (JobStatus.STOPPED, None, "Stopped")
    launcher.submit({}, 1)
    job.stop()


def test_wait_returns_after_its_timeout_and_at_the_first_report(launched):
    launcher = launched(HANGING)
    job = launcher.submit({}, 3)
    launcher.wait([job], PATIENCE)
    assert [report.epoch for report in job.new_reports()] == [1]
    start = time.monotonic()
    launcher.wait([job], 0.7)
    assert 0.7 <= time.monotonic() - start < 1.7
    assert (job.finished, job.status) == (False, JobStatus.RUNNING)


def test_a_failed_job_says_why(launched):
    script = """
        import sys
        output = sys.argv[sys.argv.index("--output") + 1]
        print(output, flush=True)
        raise ValueError("learning_rate is too high")
    """
    errors = {
        "": "ValueError: learning_rate is too high",
        "valid_error=nan": "ValueError: 'valid_error' was nan after epoch 1",
        "valid_error=high": "ValueError: 'valid_error' must be a number, got 'high'",
        "epoch=0 valid_error=1": "ValueError: 'epoch' must be a whole number over 0, got 0",
    }
    launcher = launched(script, n_workers=4)
    jobs = {output: launcher.submit({"output": output}, 9) for output in errors}
    finish(launcher, *jobs.values())
    assert {job.status for job in jobs.values()} == {JobStatus.FAILED}
    assert [output for output, error in errors.items() if error not in jobs[output].error] == []


def test_a_job_that_reports_nonsense_is_stopped(launched):
    launcher = launched("import time; print('valid_error=nan', flush=True); time.sleep(1000)")
    job = launcher.submit({}, 9)
    finish(launcher, job)
    assert (job.status, status_on_aws(job.name)) == (JobStatus.FAILED, "Stopped")


def test_a_job_that_aws_could_not_start_fails_with_the_reason(launched, rehearsal):
    launcher = launched()
    rehearsal.fail_next("CapacityError: Unable to provision requested ML compute capacity.")
    job = launcher.submit({}, 3)
    finish(launcher, job)
    assert job.status is JobStatus.FAILED
    assert job.error == "CapacityError: Unable to provision requested ML compute capacity."


def test_a_job_that_takes_too_long_fails(launched):
    launcher = launched(HANGING, max_run=1)
    job = launcher.submit({}, 3)
    ((report,),) = finish(launcher, job)
    assert report.epoch == 1
    assert (job.status, job.error) == (JobStatus.FAILED, "it was not done after max_run=1 s")


# tune.


def test_tune_prunes_by_stopping_jobs_and_both_tables_agree(launched):
    launcher = launched(fixed={"pause": 0.4}, name="hpo-pruning", max_jobs=5)
    study = optuna.create_study(
        study_name="pruning",
        sampler=optuna.samplers.GridSampler({"learning_rate": [0.01, 0.02, 0.5, 0.6]}, seed=1),
        pruner=optuna.pruners.ThresholdPruner(upper=0.3),
    )
    tune(
        study, {"learning_rate": FloatDistribution(0.01, 1.0)}, launcher, epochs=6, n_trials=4, progress=False
    )
    states = {trial.params["learning_rate"]: trial.state for trial in study.trials}
    assert states == {
        0.01: TrialState.COMPLETE,
        0.02: TrialState.COMPLETE,
        0.5: TrialState.PRUNED,
        0.6: TrialState.PRUNED,
    }
    table = jobs_from_logs("hpo-pruning")
    assert list(table.columns) == [
        "name",
        "epochs",
        "learning_rate",
        "pause",
        "valid_error",
        "seconds",
        "billable_seconds",
        "status",
    ]
    assert dict(zip(table["learning_rate"], table["status"], strict=True)) == {
        0.01: "Completed",
        0.02: "Completed",
        0.5: "Stopped",
        0.6: "Stopped",
    }
    completed = table[table["status"] == "Completed"].set_index("learning_rate")["valid_error"]
    assert completed.to_dict() == {0.01: 0.0017, 0.02: 0.0033}
    assert table.equals(jobs_from_search("hpo-pruning"))


def test_the_packages_own_script_trains_where_no_other_is_given(rehearsal):
    with SageMakerLauncher(role=ROLE, fixed={"network": "mlp", "seed": 0}, name="hpo-default") as launcher:
        job = launcher.submit({"learning_rate": 0.1}, 2)
        (reports,) = finish(launcher, job)
    assert (job.status, job.error) == (JobStatus.COMPLETED, None)
    assert [sorted(report.metrics) for report in reports] == [
        ["epoch", "seconds", "test_error", "valid_error"]
    ] * 2
    assert 0 < reports[-1].value < 0.7


def test_spot_jobs_save_their_checkpoints_in_s3(launched):
    script = """
        import pathlib, sys
        folder = pathlib.Path(sys.argv[sys.argv.index("--checkpoint") + 1])
        (folder / "epoch 1.txt").write_text("saved")
        print("epoch=1 valid_error=0.5")
    """
    launcher = launched(script, spot=True)
    job = launcher.submit({}, 1)
    finish(launcher, job)
    assert (job.status, job.error) == (JobStatus.COMPLETED, None)
    place = {"Bucket": launcher.bucket, "Key": f"{launcher.name}/checkpoints/{job.name}/epoch 1.txt"}
    assert boto3.client("s3").get_object(**place)["Body"].read() == b"saved"
    (description,) = boto3.client("sagemaker").search(
        Resource="TrainingJob",
        SearchExpression={"Filters": [{"Name": "TrainingJobName", "Operator": "Equals", "Value": job.name}]},
    )["Results"]
    assert description["TrainingJob"]["EnableManagedSpotTraining"] is True


# Spending.


def test_the_ceiling_is_printed_before_the_first_job_and_kept(launched, capsys):
    launcher = launched(max_jobs=3, max_run=120, price_per_hour=0.115)
    study = optuna.create_study(study_name="ceiling", sampler=optuna.samplers.RandomSampler(seed=0))
    space = {"learning_rate": FloatDistribution(0.1, 1)}
    tune(study, space, launcher, epochs=1, n_trials=9, progress=False)
    assert len(study.trials) == 3 and launcher.n_workers == 0
    with pytest.raises(RuntimeError, match="max_jobs=3 jobs have been started"):
        launcher.submit({}, 1)
    assert capsys.readouterr().out == "at most 3 jobs x 120 s x 0.115 an hour = 0.01\n"


def test_without_a_price_the_ceiling_is_in_hours(launched, capsys):
    launcher = launched(max_jobs=30, max_run=1200)
    assert capsys.readouterr().out == ""
    launcher.submit({}, 1)
    assert capsys.readouterr().out == "at most 30 jobs x 1200 s = 10.00 instance-hours\n"


def test_quota_that_is_used_up_lowers_n_workers_and_no_job_is_lost(launched, rehearsal):
    launcher = launched(n_workers=3)
    rehearsal.max_running_jobs = 1
    first = launcher.submit({"pause": 0.3}, 2)
    with pytest.warns(
        UserWarning, match="n_workers is lowered from 3 to 1, and hpo-.*-001 waits. AWS said: "
    ):
        second = launcher.submit({}, 2)
    assert launcher.n_workers == 1
    with pytest.raises(RuntimeError, match="all 1 workers are taken"):
        launcher.submit({}, 2)
    assert [len(reports) for reports in finish(launcher, first, second)] == [2, 2]
    assert {first.status, second.status} == {JobStatus.COMPLETED}


def test_a_job_that_waits_for_quota_can_be_stopped(launched, rehearsal):
    launcher = launched(HANGING)
    rehearsal.max_running_jobs = 1
    running = launcher.submit({}, 2)
    with pytest.warns(UserWarning, match="n_workers is lowered"):
        waiting = launcher.submit({}, 2)
    waiting.stop()
    assert (waiting.finished, waiting.status, running.finished) == (True, JobStatus.STOPPED, False)
    launcher.close()
    jobs = boto3.client("sagemaker").list_training_jobs(NameContains=launcher.run)["TrainingJobSummaries"]
    assert [job["TrainingJobName"] for job in jobs] == [running.name]


# Many calls.


def test_throttled_calls_are_made_again(launched, rehearsal):
    launcher = launched()
    rehearsal.throttle(every=2)
    jobs = [launcher.submit({"pause": 0.2}, 3) for _ in range(2)]
    assert [len(reports) for reports in finish(launcher, *jobs)] == [3, 3]


def test_a_hundred_jobs_take_two_calls_a_second(launched, rehearsal, monkeypatch):
    script = "import time; time.sleep(3); print('epoch=1 valid_error=0.5', flush=True)"
    monkeypatch.setattr(polling, "STATUS_SECONDS", STATUS_SECONDS)  # AWS's quota
    launcher = launched(script, n_workers=100, max_jobs=100)
    jobs = [launcher.submit({"number": number}, 1) for number in range(100)]
    assert [len(reports) for reports in finish(launcher, *jobs)] == [1] * 100
    assert {job.status for job in jobs} == {JobStatus.COMPLETED}
    asked = [moment for moment, call in rehearsal.calls if call.startswith(("Describe", "List"))]
    asked = [moment for moment in asked if moment > launcher._start]
    assert len(asked) > 5
    busiest = max(sum(start <= moment < start + 1 for moment in asked) for start in asked)
    assert busiest <= 2


# Nothing is left running.


def test_leaving_the_block_by_an_exception_stops_what_runs(launched):
    with pytest.raises(KeyboardInterrupt), launched(HANGING) as launcher:
        jobs = [launcher.submit({}, 3), launcher.submit({}, 3)]
        raise KeyboardInterrupt
    assert_stopped([job.name for job in jobs])
    assert [job.status for job in jobs] == [JobStatus.STOPPED] * 2
    assert [job.finished for job in jobs] == [True] * 2
    launcher.close()


def test_a_launcher_that_nobody_holds_stops_its_jobs(launched, rehearsal, tmp_path):
    launched(HANGING).close()  # writes the script
    launcher = SageMakerLauncher(tmp_path / "train.py", role=ROLE, name="hpo-dropped")
    name = launcher.submit({}, 3).name
    del launcher
    import gc

    gc.collect()
    assert_stopped([name])


PROGRAM = """
    import os, signal, sys, time
    from hpo_helpers.jobs.sagemaker import SageMakerLauncher
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    script, name, role = sys.argv[1:]
    launcher = SageMakerLauncher(script, role=role, name=name)
    jobs = [launcher.submit({}, 3), launcher.submit({}, 3)]
    launcher.wait(jobs)
    print("running", flush=True)
    time.sleep(1000)
"""


def start_program(tmp_path, name, program=PROGRAM):
    """Start a program with two jobs that hang, and return it once they run."""
    script, path = tmp_path / "train.py", tmp_path / "program.py"
    script.write_text(textwrap.dedent(HANGING), encoding="utf-8")
    path.write_text(textwrap.dedent(program), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(path), str(script), name, ROLE],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    lines = iter(process.stdout.readline, "")
    assert "running\n" in lines
    return process


def jobs_named(name):
    jobs = boto3.client("sagemaker").list_training_jobs(NameContains=name)["TrainingJobSummaries"]
    return {job["TrainingJobName"]: job["TrainingJobStatus"] for job in jobs}


def test_the_next_run_stops_what_a_killed_one_left_and_nothing_else(launched, rehearsal, tmp_path, capsys):
    killed, alive = start_program(tmp_path, "hpo-orphans"), start_program(tmp_path, "hpo-alive")
    other = SageMakerLauncher(tmp_path / "train.py", role=ROLE, name="hpo-orphans-not")
    other.submit({}, 1)
    try:
        killed.kill()
        killed.wait()
        left = sorted(jobs_named("hpo-orphans-"))
        left = [name for name in left if not name.startswith("hpo-orphans-not")]
        assert len(left) == 2 and {jobs_named("hpo-orphans-")[name] for name in left} == {"InProgress"}
        launched(name="hpo-alive")
        capsys.readouterr()
        launched(name="hpo-orphans")
        assert capsys.readouterr().out == f"stopped what an earlier run left: {', '.join(left)}\n"
        assert_stopped(left)
        assert (
            set(jobs_named("hpo-alive").values())
            == set(jobs_named("hpo-orphans-not").values())
            == {"InProgress"}
        )
    finally:
        alive.kill()
        alive.wait()
        other.close()


def test_jobs_of_another_owner_are_left_alone(launched, rehearsal, tmp_path, monkeypatch):
    monkeypatch.setenv("HPO_HELPERS_CACHE", str(tmp_path / "another"))
    killed = start_program(tmp_path, "hpo-class")
    killed.kill()
    killed.wait()
    monkeypatch.setenv("HPO_HELPERS_CACHE", str(tmp_path / "mine"))
    launched(name="hpo-class")
    assert set(jobs_named("hpo-class").values()) == {"InProgress"}
    monkeypatch.setenv("HPO_HELPERS_CACHE", str(tmp_path / "another"))
    launched(name="hpo-class")
    assert_stopped(jobs_named("hpo-class"))


def test_an_interrupt_ends_the_program_and_its_jobs(rehearsal, tmp_path):
    process = start_program(tmp_path, "hpo-interrupt")
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) != 0
    assert_stopped(jobs_named("hpo-interrupt"))


REHEARSED = (
    """
    import os, sys
    from hpo_helpers.jobs.rehearsal import Rehearsal
    os.environ.update(Rehearsal().environment)
"""
    + PROGRAM
)


def test_a_killed_rehearsal_leaves_no_process(tmp_path):
    process = start_program(tmp_path, "hpo-killed", REHEARSED)
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("train.py" in " ".join(child.cmdline()) for child in family)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, PATIENCE)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


# Names, files and keys.


def test_a_name_that_is_taken_is_not_used_again(launched, monkeypatch):
    words = iter(["aaaaaaaa", "aaaaaaaa", "bbbb"])
    monkeypatch.setattr(sagemaker.secrets, "token_hex", lambda n_bytes: next(words))
    first, second = launched(HANGING), launched(file="another.py")
    taken, job = first.submit({}, 3), second.submit({}, 3)
    assert job.name == f"{taken.name.removesuffix('-000')}-bbbb-000"
    (reports,) = finish(second, job)
    assert len(reports) == 3 and status_on_aws(taken.name) == "InProgress"


ODD = [
    "a b",
    "it's",
    'say "x"',
    "$(touch /tmp/harm)",
    "../../etc/passwd",
    "Zürich 数据 🎲",
    "-rf",
    "a\nb",
    "; exit 1",
    "\\",
]


def test_odd_hyperparameters_arrive_as_they_are(launched):
    script = "import json, sys; print('epoch=1 valid_error=1'); print('argv', json.dumps(sys.argv[1:]))"
    launcher = launched(script)
    odd = {f"odd_{number}": value for number, value in enumerate(ODD)} | {"we ird; ' key": "x"}
    job = launcher.submit(odd, 1)
    finish(launcher, job)
    logs = boto3.client("logs")
    stream = logs.describe_log_streams(
        logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=job.name
    )
    name = stream["logStreams"][0]["logStreamName"]
    events = logs.get_log_events(logGroupName="/aws/sagemaker/TrainingJobs", logStreamName=name)["events"]
    (line,) = [event["message"] for event in events if event["message"].startswith("argv ")]
    arguments = json.loads(line.removeprefix("argv "))
    arrived = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert arrived == {f"--{name}": value for name, value in odd.items()} | {"--epochs": "1"}


def test_a_script_with_an_odd_name_runs(launched):
    launcher = launched(HALVING, file='-rf it\'s "Zürich" $(数据).py')
    job = launcher.submit({}, 1)
    assert len(finish(launcher, job)[0]) == 1


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("train.py", "train.py"),
        ("my train.py", "my_train.py"),
        ("Zürich.py", "Z_rich.py"),
        ("-rf.py", "rf.py"),
        ("../..train.py", "train.py"),
        ("数据.py", "__.py"),
    ],
)
def test_the_container_gets_a_name_that_it_takes(file, name):
    assert program_name(Path(file)) == name


def test_data_and_dependencies_arrive_whole_and_hidden_files_stay_here(launched, tmp_path):
    folder = tmp_path / "my data"
    names = ["a.txt", 'sub folder/it\'s "b".txt', "Zürich/数据 🎲.txt", "..c", "d..", "100%/e+f&g=h?.txt"]
    for name in [*names, ".aws/credentials", ".hidden"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")
    (tmp_path / "beside.py").write_text("ANSWER = 42", encoding="utf-8")
    script = """
        import os, pathlib
        from beside import ANSWER
        folder = pathlib.Path(os.environ["SM_CHANNEL_TRAINING"])
        paths = [path for path in folder.rglob("*") if path.is_file()]
        files = {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in paths}
        assert all(name == content for name, content in files.items()), files
        print(f"epoch=1 valid_error={ANSWER} files={len(files)}")
    """
    launcher = launched(script, data=folder, dependencies=[tmp_path / "beside.py"])
    job = launcher.submit({}, 1)
    ((report,),) = finish(launcher, job)
    assert (report.value, report.metrics["files"]) == (42, len(names) - 1)  # "..c" is hidden


def test_nothing_is_uploaded_twice_and_what_changed_is_uploaded_anew(launched, rehearsal, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("a")

    def stored():
        objects = boto3.client("s3").list_objects_v2(
            Bucket=launchers[0].bucket, Prefix=f"{launchers[0].name}/"
        )
        return {entry["Key"]: entry["LastModified"] for entry in objects["Contents"]}

    launchers = [launched(data=tmp_path / "data"), launched(data=tmp_path / "data")]
    finish(launchers[0], launchers[0].submit({}, 1))
    before = stored()
    requests = [launcher.training_job({}, 1, "hpo-x") for launcher in launchers]
    assert requests[0] == requests[1]
    assert stored() == before
    (tmp_path / "data" / "a.txt").write_text("b")
    launched("print('another')", data=tmp_path / "data").training_job({}, 1, "hpo-x")
    kinds = collections.Counter(key.split("/")[1] for key in stored())
    assert (kinds["code"], kinds["data"]) == (2, 2)


def test_no_credential_is_printed_or_stored(launched, rehearsal, capfd):
    secrets = [rehearsal.environment["AWS_SECRET_ACCESS_KEY"], rehearsal.environment["AWS_ACCESS_KEY_ID"]]
    script = "import os; print('epoch=1 valid_error=1 environment', dict(os.environ))"
    launcher = launched(script)
    job = launcher.submit({}, 1)
    (reports,) = finish(launcher, job)
    said = repr(launcher) + repr(vars(job)) + repr(reports) + str(capfd.readouterr())
    created = list_created(launcher.name)
    s3, logs = boto3.client("s3"), boto3.client("logs")
    for kind, name in zip(created["kind"], created["name"], strict=True):
        if kind == "S3 object":
            bucket, _, key = name.removeprefix("s3://").partition("/")
            said += str(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        elif kind == "log stream":
            said += str(logs.get_log_events(logGroupName="/aws/sagemaker/TrainingJobs", logStreamName=name))
        elif kind == "training job":
            said += str(boto3.client("sagemaker").describe_training_job(TrainingJobName=name))
    assert len(said) > 1000 and [secret for secret in secrets if secret in said] == []


# Cleaning up.


def test_what_is_listed_is_deleted_and_nothing_else(launched):
    kept, launcher = launched(name="hpo-kept"), launched(name="hpo-swept")
    for each in (kept, launcher):
        finish(each, each.submit({}, 1))
    before = without_bucket(list_created("hpo-kept"))
    tune_by_sagemaker(launcher, "hpo-swept-tuner")
    created = without_bucket(list_created("hpo-swept"))
    kinds = {"S3 object": 3, "log stream": 2, "tuning job": 1, "training job": 2}
    assert collections.Counter(created["kind"]) == kinds
    delete_created(created)
    assert len(list_created("hpo-swept")) == 0 and jobs_named("hpo-swept") == {}
    assert without_bucket(list_created("hpo-kept")).equals(before)


def without_bucket(created):
    """Leave out the bucket, which is listed once nothing else would be in it."""
    return created[created["kind"] != "bucket"]


def tune_by_sagemaker(launcher, name):
    """Let the built-in tuner make one job, with the launcher's code and the ranges of a space."""
    definition = launcher.training_job({}, 2, "x")
    static, tags = definition.pop("HyperParameters"), definition.pop("Tags")
    definition.pop("TrainingJobName")
    client = boto3.client("sagemaker")
    client.create_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name,
        HyperParameterTuningJobConfig={
            "Strategy": "Random",
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "valid_error"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 1, "MaxParallelTrainingJobs": 1},
            "ParameterRanges": to_sagemaker({"learning_rate": FloatDistribution(0.01, 1.0, log=True)}),
        },
        TrainingJobDefinition={**definition, "StaticHyperParameters": static},
        Tags=tags,
    )
    deadline = time.monotonic() + PATIENCE
    while status_of_tuning(name) == "InProgress":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)


def status_of_tuning(name):
    described = boto3.client("sagemaker").describe_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name
    )
    return described["HyperParameterTuningJobStatus"]


def test_the_built_in_tuner_takes_the_request_of_a_launcher_and_the_ranges_of_a_space(launched):
    tuned = tune_by_sagemaker(launched(name="hpo-tuned"), "hpo-tuned-tuner")
    assert tuned["HyperParameterTuningJobStatus"] == "Completed"
    best = tuned["BestTrainingJob"]
    (row,) = jobs_from_logs("hpo-tuned-tuner").to_dict("records")
    assert 0.01 <= row["learning_rate"] <= 1 and row["epochs"] == 2
    assert row["valid_error"] == pytest.approx(row["learning_rate"] / 2, abs=1e-4)
    assert best["TrainingJobName"] == row["name"]
    assert jobs_from_search("hpo-tuned-tuner").to_dict("records") == [row]


def test_a_bucket_that_will_be_empty_is_deleted_too(launched, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    bucket = "sagemaker-hpo-eu-west-1-123456789012"
    for name in ("hpo-first", "hpo-second"):
        launched(name=name).training_job({}, 1, "hpo-x")
    for name, kinds in [("hpo-first", ["S3 object"]), ("hpo-second", ["S3 object", "bucket"])]:
        created = list_created(name)
        assert list(created["kind"]) == kinds
        delete_created(created)
    assert bucket not in [entry["Name"] for entry in boto3.client("s3").list_buckets()["Buckets"]]
    assert len(list_created("hpo-second")) == 0


def test_an_own_bucket_is_used_and_neither_made_nor_deleted(launched):
    launcher = launched(bucket="my-own-bucket")
    with pytest.raises(
        SageMakerError, match="there is no bucket 'my-own-bucket': make it, or leave bucket= out"
    ):
        launcher.submit({}, 1)
    boto3.client("s3").create_bucket(Bucket="my-own-bucket")
    launcher.training_job({}, 1, "hpo-x")
    created = list_created(launcher.name, bucket="my-own-bucket")
    assert list(created["kind"]) == ["S3 object"] and created["name"][0].startswith("s3://my-own-bucket/hpo-")


def test_a_running_job_is_not_deleted(launched):
    launcher = launched(HANGING)
    launcher.submit({}, 3)
    created = list_created(launcher.name)
    with pytest.raises(SageMakerError, match="DeleteTrainingJob was refused"):
        delete_created(created[created["kind"] == "training job"])
