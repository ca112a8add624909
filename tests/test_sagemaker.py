"""SageMakerLauncher over HTTP, against the rehearsal: what jobs deliver, and what becomes of them."""

import collections
import gc
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from pathlib import Path

import boto3
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from service_models import read_once

from hpo_helpers.jobs import JobStatus
from hpo_helpers.jobs.rehearsal import Rehearsal
from hpo_helpers.jobs.sagemaker import (
    SageMakerError,
    SageMakerLauncher,
    delete_created,
    jobs_from_logs,
    jobs_from_search,
    launcher,
    list_created,
)
from hpo_helpers.spaces import to_sagemaker
from hpo_helpers.tuning import tune

REPOSITORY = Path(__file__).parents[1]
ROLE = "arn:aws:iam::123456789012:role/rehearsal"
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
        error = f"valid_error={options.learning_rate / epoch:.4f}"
        print(f"epoch={epoch} {error} test_error=0.5 kind=halving", flush=True)
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
def launched(rehearsal, monkeypatch, tmp_path, request):
    """Make launchers that ask more often than AWS should be asked, closed at the end of the test."""
    monkeypatch.setattr(launcher, "ASK_SECONDS", 0.02)
    monkeypatch.setattr(launcher, "LATE_SECONDS", 0.3)  # no line is late here
    launchers = []

    def launch(script=HALVING, n_workers=2, **settings):
        (tmp_path / "train.py").write_text(textwrap.dedent(script), encoding="utf-8")
        name = "hpo-" + request.node.name.partition("[")[0].replace("_", "-")[5:34].strip("-")
        settings = {"name": name, "role": ROLE, **settings}
        launchers.append(SageMakerLauncher(tmp_path / "train.py", n_workers, **settings))
        return launchers[-1]

    yield launch
    rehearsal.throttle()
    rehearsal.max_running_jobs = None
    for each in launchers:
        each.close()


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


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_stopped(names):
    wait_until(lambda: {status_on_aws(name) for name in names} == {"Stopped"})


# What a job delivers.


def test_every_epoch_is_reported_with_all_that_was_printed_and_the_time_when_it_was(launched):
    launcher = launched()
    before = launcher.clock()
    job = launcher.submit({"learning_rate": 0.5}, 3)
    wait_until(lambda: status_on_aws(job.name) == "Completed")  # and nobody asked
    read = launcher.clock()
    (reports,) = finish(launcher, job)
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert [report.value for report in reports] == [0.5, 0.25, 0.1667]
    assert reports[2].metrics == {"epoch": 3, "valid_error": 0.1667, "test_error": 0.5, "kind": "halving"}
    times = [report.time for report in reports]
    assert before <= times[0] and times == sorted(times) and times[2] <= read
    assert (job.status, job.error, job.finished) == (JobStatus.COMPLETED, None, True)
    assert (job.id, job.epochs, job.name) == (0, 3, f"{launcher.run}-000") and job.new_reports() == []
    assert launcher.submit({"epochs": 2}, 5).epochs == 2


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


def test_a_running_job_is_waited_for_not_deleted_and_delivers_nothing_once_stopped(launched):
    launcher = launched(HANGING, n_workers=1)
    job = launcher.submit({}, 3)
    launcher.wait([job], PATIENCE)
    assert [report.epoch for report in job.new_reports()] == [1]
    start = time.monotonic()
    launcher.wait([job], 0.3)
    assert 0.3 <= time.monotonic() - start < 1.3
    assert (job.finished, job.status) == (False, JobStatus.RUNNING)
    created = list_created(launcher.name)
    with pytest.raises(SageMakerError, match=f"stop first what still runs, and list again: {job.name}"):
        delete_created(created)
    assert list_created(launcher.name).equals(created)
    job.stop()
    job.stop()
    assert finish(launcher, job) == [[]]
    assert (job.status, job.error, status_on_aws(job.name)) == (JobStatus.STOPPED, None, "Stopped")
    launcher.submit({}, 1)  # its worker is free
    job.stop()
    assert job.status == JobStatus.STOPPED


def test_a_failed_job_says_why(launched, rehearsal):
    script = """
        import sys, time
        output = sys.argv[sys.argv.index("--output") + 1]
        print(output, flush=True)
        if output:
            time.sleep(1000 * ("=" in output))
            sys.exit(2)
        raise ValueError("learning_rate is too high")
    """
    errors = {
        "": "ValueError: learning_rate is too high",
        "unrecognized arguments": "\nLast lines of its output:\nunrecognized arguments",
        "valid_error=nan": "ValueError: 'valid_error' was nan after epoch 1",
        "valid_error=high": "ValueError: 'valid_error' must be a number, got 'high'",
        "epoch=0 valid_error=1": "ValueError: 'epoch' must be a whole number over 0, got 0",
    }
    launcher = launched(script, n_workers=6)
    rehearsal.fail_next("CapacityError: Unable to provision requested ML compute capacity.")
    sold_out = launcher.submit({}, 3)
    jobs = {output: launcher.submit({"output": output}, 9) for output in errors}
    finish(launcher, sold_out, *jobs.values())
    assert sold_out.error == "CapacityError: Unable to provision requested ML compute capacity."
    assert {job.status for job in [sold_out, *jobs.values()]} == {JobStatus.FAILED}
    assert [output for output, error in errors.items() if error not in jobs[output].error] == []
    assert [status_on_aws(job.name) for job in jobs.values()] == ["Failed"] * 2 + ["Stopped"] * 3


def test_a_job_that_takes_too_long_fails(launched):
    launcher = launched(HANGING, max_run=1)
    job = launcher.submit({}, 3)
    finish(launcher, job)
    assert job.status == JobStatus.FAILED
    assert job.error.splitlines()[0] == "SageMaker has ended it: MaxRuntimeExceeded"


# tune.


def test_tune_prunes_by_stopping_jobs_and_both_tables_agree(launched):
    hanging = "        time.sleep(1000 * (options.learning_rate > 0.3))\n"  # until it is pruned
    launcher = launched(HALVING + hanging, fixed={"pause": 0.0}, name="hpo-pruning", max_jobs=5)
    rates = [0.01, 0.02, 0.5, 0.6]
    study = optuna.create_study(
        study_name="pruning",
        sampler=optuna.samplers.GridSampler({"learning_rate": rates}, seed=1),
        pruner=optuna.pruners.ThresholdPruner(upper=0.3),
    )
    space = {"learning_rate": FloatDistribution(0.01, 1.0)}
    tune(study, space, launcher, epochs=3, n_trials=4, progress=False)
    states = {trial.params["learning_rate"]: trial.state for trial in study.trials}
    assert [states[rate] for rate in rates] == [TrialState.COMPLETE] * 2 + [TrialState.PRUNED] * 2
    table = jobs_from_logs("hpo-pruning")
    names = "name epochs learning_rate pause valid_error start end billable_seconds status"
    assert list(table.columns) == names.split()
    assert ((table["end"] - table["start"] - table["billable_seconds"]).between(-1, 0)).all()
    table = table.set_index("learning_rate").loc[rates]
    assert list(table["status"]) == ["Completed"] * 2 + ["Stopped"] * 2
    assert list(table["valid_error"]) == [0.0033, 0.0067, 0.5, 0.6]
    assert table.equals(jobs_from_search("hpo-pruning").set_index("learning_rate").loc[rates])


def test_the_packages_own_script_goes_with_its_data_where_no_other_is_given(rehearsal, monkeypatch):
    monkeypatch.setattr("hpo_helpers.datasets.load_mnist", lambda: b"the images")
    monkeypatch.setattr("hpo_helpers.datasets.save_npz", lambda path, data: path.write_bytes(data))
    with SageMakerLauncher(role=ROLE, name="hpo-default") as launcher:
        request = launcher.training_job({}, 1, "hpo-default-x")
    (channel,) = request["InputDataConfig"]
    code = json.loads(request["HyperParameters"]["sagemaker_submit_directory"])
    data = channel["DataSource"]["S3DataSource"]["S3Uri"]
    assert list(list_created("hpo-default")["name"]) == [code, f"{data}mnist.npz"]
    packed = boto3.client("s3").get_object(Bucket=launcher.bucket, Key=code.split("/", 3)[3])["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.getnames() == ["train_mnist.py", "mxnet_compat.py"]


# Spending.


def test_the_ceiling_is_printed_before_the_first_job_and_kept(launched, capsys):
    launcher = launched(max_jobs=3, max_run=120, price_per_hour=0.115)
    assert capsys.readouterr().out == ""
    study = optuna.create_study(study_name="ceiling", sampler=optuna.samplers.RandomSampler(seed=0))
    space = {"learning_rate": FloatDistribution(0.1, 1)}
    tune(study, space, launcher, epochs=1, n_trials=9, progress=False)
    assert len(study.trials) == 3 and launcher.n_workers == 0
    with pytest.raises(RuntimeError, match="max_jobs=3 were started"):
        launcher.submit({}, 1)
    assert capsys.readouterr().out == "at most 3 jobs x (120 + 120) s x 0.115 an hour = 0.02\n"


def test_quota_that_is_used_up_lowers_n_workers_and_no_job_is_lost(launched, rehearsal, capsys):
    launcher = launched(n_workers=3, max_jobs=30, max_run=1200)
    rehearsal.max_running_jobs = 1
    first = launcher.submit({"pause": 1.0}, 2)
    assert capsys.readouterr().out == "at most 30 jobs x (1200 + 120) s = 11.00 instance-hours\n"
    with pytest.warns(UserWarning, match="lowered from 3 to 1, and hpo-.*-001 waits: .*quota") as caught:
        second = launcher.submit({}, 2)
    assert launcher.n_workers == 1 and caught[0].filename == __file__
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
    assert list(jobs_named(launcher.run)) == [running.name]


def test_throttled_calls_are_made_again(launched, rehearsal):
    launcher = launched()
    rehearsal.throttle(calls=2)
    assert len(finish(launcher, launcher.submit({"pause": 0.2}, 3))[0]) == 3


# Nothing is left running.


def test_leaving_the_block_by_an_exception_stops_what_runs(launched):
    with pytest.raises(KeyboardInterrupt), launched(HANGING) as launcher:
        jobs = [launcher.submit({}, 3), launcher.submit({}, 3)]
        raise KeyboardInterrupt
    assert_stopped([job.name for job in jobs])
    assert [(job.status, job.finished) for job in jobs] == [(JobStatus.STOPPED, True)] * 2
    launcher.close()


def test_a_launcher_that_nobody_holds_stops_its_jobs(launched, tmp_path):
    launched(HANGING).close()  # writes the script
    launcher = SageMakerLauncher(tmp_path / "train.py", role=ROLE, name="hpo-dropped")
    name = launcher.submit({}, 3).name
    del launcher
    gc.collect()
    assert_stopped([name])


PROGRAM = """
    import signal, sys, time
    from hpo_helpers.jobs.sagemaker import SageMakerLauncher
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    script, name, role = sys.argv[1:]
    launcher = SageMakerLauncher(script, role=role, name=name)
    jobs = [launcher.submit({}, 3), launcher.submit({}, 3)]
    print("running", flush=True)
    time.sleep(1000)
"""


def start_program(tmp_path, name):
    """Start a program with two jobs that hang, and return it."""
    script, path = tmp_path / "train.py", tmp_path / "program.py"
    script.write_text(textwrap.dedent(HANGING), encoding="utf-8")
    path.write_text(textwrap.dedent(PROGRAM), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, str(path), str(script), name, ROLE],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def jobs_named(name):
    jobs = boto3.client("sagemaker").list_training_jobs(NameContains=f"{name}-")["TrainingJobSummaries"]
    return {job["TrainingJobName"]: job["TrainingJobStatus"] for job in jobs}


def test_an_interrupted_program_stops_its_jobs_and_the_next_run_what_a_killed_one_left(
    launched, tmp_path, monkeypatch, capsys
):
    killed, interrupted = start_program(tmp_path, "hpo-killed"), start_program(tmp_path, "hpo-interrupted")
    for program, end in [(killed, signal.SIGKILL), (interrupted, signal.SIGINT)]:
        assert "running\n" in iter(program.stdout.readline, "")
        program.send_signal(end)
        assert program.wait(PATIENCE) != 0
    assert_stopped(jobs_named("hpo-interrupted"))
    left = sorted(jobs_named("hpo-killed"))
    alive = launched(HANGING, name="hpo-alive").submit({}, 1)
    capsys.readouterr()
    for name in ("hpo-alive", "hpo-kill"):
        launched(name=name)
    with monkeypatch.context() as patch:  # of another who shares the account
        patch.setenv("HPO_HELPERS_CACHE", str(tmp_path / "another"))
        launched(name="hpo-killed")
    assert capsys.readouterr().out == ""
    assert len(left) == 2 and set(jobs_named("hpo-killed").values()) == {"InProgress"}
    launched(name="hpo-killed")
    assert capsys.readouterr().out == f"stopped what an earlier run left: {', '.join(left)}\n"
    assert_stopped(left)
    assert status_on_aws(alive.name) == "InProgress"


def test_sagemaker_finds_the_same_numbers_in_lines_and_a_small_negative_one_arrives(launched):
    script = """
        import argparse, logging, tqdm
        parser = argparse.ArgumentParser()
        parser.add_argument("--bias", type=float)
        bias = parser.parse_known_args()[0].bias
        logging.basicConfig(level="INFO")
        for epoch in tqdm.trange(2, mininterval=0):
            with tqdm.trange(3, mininterval=0, leave=False) as bar:
                bar.set_postfix(accuracy=0.9, speed=1)
            logging.info("accuracy=%s", bias * (epoch + 1))
            logging.info("Epoch[%d] Validation-accuracy=0.8", epoch)
    """
    launcher = launched(script, metric="accuracy")
    job = launcher.submit({"bias": -1e-05}, 2)
    (reports,) = finish(launcher, job)
    assert (job.error, [report.value for report in reports]) == (None, [-1e-05, -2e-05])
    assert any("#015" in text for text in messages(job.name))
    table = jobs_from_logs(launcher.run, metric="accuracy")
    assert table[["bias", "accuracy"]].values.tolist() == [[-1e-05, -2e-05]]
    assert table.equals(jobs_from_search(launcher.run, metric="accuracy"))  # as SageMaker has found them


# Files and keys.

ODD = ["a b", "it's", 'say "x"', "$(touch harm)", "../../etc", "Zürich 数据 🎲", "-rf", "a\nb", "; exit 1", "\\"]


def test_odd_hyperparameters_arrive_as_they_are(launched):
    script = "import json, sys; print('epoch=1 valid_error=1'); print('argv', json.dumps(sys.argv[1:]))"
    launcher = launched(script)
    odd = {f"odd_{number}": value for number, value in enumerate(ODD)} | {"we ird; ' key": "x"}
    job = launcher.submit(odd, 1)
    finish(launcher, job)
    (line,) = [message for message in messages(job.name) if message.startswith("argv ")]
    arguments = json.loads(line.removeprefix("argv "))
    arrived = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert arrived == {f"--{name}": value for name, value in odd.items()} | {"--epochs": "1"}


def messages(job_name):
    """Return what a job has printed."""
    logs, group = boto3.client("logs"), {"logGroupName": "/aws/sagemaker/TrainingJobs"}
    (stream,) = logs.describe_log_streams(**group, logStreamNamePrefix=job_name)["logStreams"]
    events = logs.get_log_events(**group, logStreamName=stream["logStreamName"])["events"]
    return [event["message"] for event in events]


def test_data_and_dependencies_arrive_whole_and_hidden_files_stay_here(launched, tmp_path):
    folder = tmp_path / "my data"
    names = ["a.txt", 'sub folder/it\'s "b".txt', "Zürich/数据 🎲.txt", "d..", "100%/e+f&g=h?.txt"]
    for name in [*names, ".aws/credentials", ".hidden", "..c", "sub folder/.git/config"]:
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
    ((report,),) = finish(launcher, launcher.submit({}, 1))
    assert (report.value, report.metrics["files"]) == (42, len(names))


def test_no_credential_is_printed_or_stored(launched, rehearsal, capfd):
    secrets = [rehearsal.environment["AWS_SECRET_ACCESS_KEY"], rehearsal.environment["AWS_ACCESS_KEY_ID"]]
    launcher = launched("import os; print('epoch=1 valid_error=1 environment', dict(os.environ))")
    job = launcher.submit({}, 1)
    (reports,) = finish(launcher, job)
    said = repr(launcher) + repr(vars(job)) + repr(reports) + str(capfd.readouterr())
    said += str(messages(job.name)) + str(job.description)
    s3, created = boto3.client("s3"), list_created(launcher.name)
    for address in created.loc[created["kind"] == "S3 object", "name"]:
        bucket, _, key = address.removeprefix("s3://").partition("/")
        said += str(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    assert len(said) > 1000 and [secret for secret in secrets if secret in said] == []


# Cleaning up.


def tune_by_sagemaker(launcher, name):
    """Let the built-in tuner make one job, with the launcher's code and the ranges of a space."""
    definition = launcher.training_job({}, 2, "x")
    static, tags = definition.pop("HyperParameters"), definition.pop("Tags")
    definition.pop("TrainingJobName")
    client, job = boto3.client("sagemaker"), {"HyperParameterTuningJobName": name}
    client.create_hyper_parameter_tuning_job(
        **job,
        HyperParameterTuningJobConfig={
            "Strategy": "Random",
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "valid_error"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 1, "MaxParallelTrainingJobs": 1},
            "ParameterRanges": to_sagemaker({"learning_rate": FloatDistribution(0.01, 1.0, log=True)}),
        },
        TrainingJobDefinition={**definition, "StaticHyperParameters": static},
        Tags=tags,
    )
    describe = client.describe_hyper_parameter_tuning_job
    wait_until(lambda: describe(**job)["HyperParameterTuningJobStatus"] != "InProgress")
    return describe(**job)


def test_what_jobs_and_the_built_in_tuner_left_is_deleted_and_nothing_else(launched, tmp_path, monkeypatch, capsys):
    kept, launcher = launched(name="hpo-kept"), launched(name="hpo-swept")
    with monkeypatch.context() as patch:  # of another who shares the account
        patch.setenv("HPO_HELPERS_CACHE", str(tmp_path / "another"))
        others = launched(name="hpo-swept")
        for each in (kept, launcher, others):
            finish(each, each.submit({}, 1))
        theirs = list_created("hpo-swept")
    before = list_created("hpo-kept")
    tuned = tune_by_sagemaker(launcher, "hpo-swept-tuner")
    assert tuned["HyperParameterTuningJobStatus"] == "Completed"
    (row,) = jobs_from_logs("hpo-swept-tuner").to_dict("records")
    assert 0.01 <= row["learning_rate"] <= 1 and row["epochs"] == 2
    assert row["valid_error"] == pytest.approx(row["learning_rate"] / 2, abs=1e-4)
    assert tuned["BestTrainingJob"]["TrainingJobName"] == row["name"]
    assert jobs_from_search("hpo-swept-tuner").to_dict("records") == [row]
    capsys.readouterr()
    created = list_created("hpo-swept")
    assert capsys.readouterr().out == "3 objects and jobs of others are left alone.\n"
    kinds = {"S3 object": 3, "log stream": 2, "tuning job": 1, "training job": 2}
    assert collections.Counter(created["kind"]) == kinds
    delete_created(created)
    delete_created(created)  # as Search may list what is gone
    assert len(list_created("hpo-swept")) == 0 and list(jobs_named("hpo-swept")) == [f"{others.run}-000"]
    assert list_created("hpo-kept").equals(before)
    lost = list_created("hpo-swept", run=others.run)  # its owner has lost the cache folder
    assert lost.equals(theirs) and collections.Counter(lost["kind"])["S3 object"] == 2
    with pytest.raises(ValueError, match="run must be one run's, longer than the name 'hpo-swept', got 'hpo'"):
        list_created("hpo-swept", run="hpo")


def test_launchers_of_one_run_are_listed_by_its_name(launched):
    for run in ("hpo-runs-1", "hpo-runs-1", "hpo-runs-12"):
        launched(name="hpo-runs", run=run).training_job({}, 1, "hpo-x")
    assert len(list_created("hpo-runs")) == 3 and len(list_created("hpo-runs", run="hpo-runs-1")) == 2


def test_an_own_bucket_is_used_and_neither_made_nor_deleted(launched):
    launcher = launched(bucket="my-own-bucket")
    with pytest.raises(SageMakerError, match="there is no such bucket: make it, or leave bucket= out"):
        launcher.submit({}, 1)
    boto3.client("s3").create_bucket(Bucket="my-own-bucket")
    launcher.training_job({}, 1, "hpo-x")
    created = list_created(launcher.name, bucket="my-own-bucket")
    assert list(created["kind"]) == ["S3 object"] and created["name"][0].startswith("s3://my-own-bucket/hpo-")
