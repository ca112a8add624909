"""Training jobs in the rehearsal, asked for by real boto3 over real HTTP. Every script really runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from rehearsal_jobs import (
    BUCKET,
    LOG_GROUP,
    channel,
    client_of,
    clients_of,
    described,
    ended,
    log_lines,
    post,
    request_for,
    run_job,
    unpacked,
    until,
)

import hpo_helpers
from hpo_helpers.datasets import load_mnist, save_npz
from hpo_helpers.jobs.rehearsal import Rehearsal

EPOCHS = """
import os, time
for epoch in (1, 2, 3):
    print(f"epoch={epoch} valid_error={0.5 / epoch:.3f}")
open(os.environ["SM_MODEL_DIR"] + "/weights", "w").write("w")
open(os.environ["SM_OUTPUT_DATA_DIR"] + "/table", "w").write("t")
"""
SLEEP = "import time; print('asleep', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    with Rehearsal(tmp_path_factory.mktemp("rehearsal")) as rehearsal:
        yield clients_of(rehearsal)


@pytest.fixture(autouse=True)
def switches_as_they_were(request):
    yield
    if "clients" in request.fixturenames:
        rehearsal = request.getfixturevalue("clients").rehearsal
        rehearsal.throttle()
        rehearsal.start_seconds, rehearsal.stop_seconds, rehearsal.max_running_jobs = 0.0, 120.0, None


def error_of(call, *arguments, **keywords):
    """Return code and message of the error that a call must end with."""
    with pytest.raises(ClientError) as caught:
        call(*arguments, **keywords)
    return caught.value.response["Error"]["Code"], caught.value.response["Error"]["Message"]


def start(clients, name, script, **options):
    """Start a job and return once its script has printed something."""
    clients.sagemaker.create_training_job(**request_for(clients, name, script, **options))
    until(lambda: described(clients, name, "Training", "Failed"))
    until(lambda: log_lines(clients, name))


def listening(process):
    return {
        connection.laddr for connection in process.net_connections("tcp") if connection.status == "LISTEN"
    }


# A job from its beginning to its end


def test_a_job_runs_its_script_and_leaves_metrics_lines_and_artifacts(clients):
    record = run_job(clients, "whole", EPOCHS)
    assert record["TrainingJobStatus"] == record["SecondaryStatus"] == "Completed"
    steps = [step["Status"] for step in record["SecondaryStatusTransitions"]]
    assert steps == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert log_lines(clients, "whole") == [f"epoch={i} valid_error={0.5 / i:.3f}" for i in (1, 2, 3)]
    (metric,) = record["FinalMetricDataList"]
    assert (metric["MetricName"], round(metric["Value"], 3)) == ("valid_error", 0.167)
    assert record["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{BUCKET}/output/whole/output/model.tar.gz"
    assert unpacked(clients, record["ModelArtifacts"]["S3ModelArtifacts"]) == {"weights": b"w"}
    assert unpacked(clients, f"s3://{BUCKET}/output/whole/output/output.tar.gz") == {"table": b"t"}


def test_the_times_of_a_job_fit_together_and_seconds_are_billed_as_they_passed(clients):
    record = run_job(clients, "times", "import time; time.sleep(1.1)")
    start, end = record["TrainingStartTime"], record["TrainingEndTime"]
    assert record["CreationTime"] <= start < end <= record["LastModifiedTime"]
    assert (
        record["BillableTimeInSeconds"] == record["TrainingTimeInSeconds"] >= 2
    )  # seconds are whole, upwards
    assert record["BillableTimeInSeconds"] - (end - start).total_seconds() <= 1
    transitions = record["SecondaryStatusTransitions"]
    assert all(a["EndTime"] == b["StartTime"] for a, b in zip(transitions, transitions[1:]))


def test_what_was_asked_for_is_described_as_it_was_asked(clients):
    request = request_for(clients, "asked", parameters={"epochs": "3"}, Environment={"A": "b"})
    answer = clients.sagemaker.create_training_job(**request)
    record = ended(clients, "asked")
    assert answer["TrainingJobArn"] == record["TrainingJobArn"]
    assert {name: record[name] for name in request} == request
    assert record["TrainingJobArn"].endswith(":123456789012:training-job/asked")


def test_a_line_can_be_read_before_the_job_has_ended(clients):
    start(clients, "early", "print('first'); import time; time.sleep(600)")
    assert log_lines(clients, "early") == ["first"]
    assert described(clients, "early", "Training")
    clients.sagemaker.stop_training_job(TrainingJobName="early")
    ended(clients, "early")


def test_every_line_is_logged_once_and_in_order_also_where_they_are_many_long_or_odd(clients):
    script = r"""
import sys
for i in range(5000): print("line", i)
sys.stderr.write("to the other stream\n")
sys.stdout.buffer.write(b"\xff no text \xc3\xbc\r\n\n"); sys.stdout.flush()
print("x" * 130_000); print("no end", end="")
"""
    run_job(clients, "lines", script)
    lines = log_lines(clients, "lines")
    assert lines[:5000] == [f"line {i}" for i in range(5000)]
    assert lines[5000:5002] == ["to the other stream", "\ufffd no text ü"]
    assert "".join(lines[5002:-1]) == "x" * 130_000
    assert lines[-1] == "no end"


def test_a_job_outlives_its_log_group(clients):
    script = (
        "import os, time\nprint('one')\nwhile not os.path.exists('../go'): time.sleep(0.02)\nprint('two')"
    )
    start(clients, "no-logs", script)
    clients.logs.delete_log_group(logGroupName=LOG_GROUP)
    (clients.rehearsal.folder / "jobs" / "no-logs" / "go").touch()
    assert ended(clients, "no-logs")["TrainingJobStatus"] == "Completed"
    assert run_job(clients, "logs-again")["TrainingJobStatus"] == "Completed"
    assert log_lines(clients, "logs-again") == ["hello"]


def test_metrics_follow_the_jobs_own_expressions_and_keep_the_last_number(clients):
    script = (
        "print('loss: 3'); print('loss: nan'); print('other=2e-3;'); print('loss: 1.5'); print('loss: high')"
    )
    definitions = [
        {"Name": "loss", "Regex": r"loss: (\S+)"},
        {"Name": "other", "Regex": "other=(.*?);"},
        {"Name": "absent", "Regex": "absent=(.*)"},
    ]
    request = request_for(clients, "metrics", script)
    request["AlgorithmSpecification"]["MetricDefinitions"] = definitions
    clients.sagemaker.create_training_job(**request)
    found = {
        metric["MetricName"]: metric["Value"] for metric in ended(clients, "metrics")["FinalMetricDataList"]
    }
    assert found == pytest.approx({"loss": 1.5, "other": 0.002})


def test_channels_hold_what_follows_the_prefix_in_a_key(clients):
    for key in ("set/one.txt", "set/sub folder/zwei ü'\".txt", "set/", "settle/no.txt", "set.txt"):
        clients.s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    script = """
import os
for name in ("A", "B", "C"):
    root = os.environ["SM_CHANNEL_" + name]
    print(name, sorted(os.path.relpath(os.path.join(folder, file), root)
                       for folder, _, files in os.walk(root) for file in files))
"""
    uris = {"a": "set/", "b": "set", "c": "set.txt"}
    channels = [channel(name, f"s3://{BUCKET}/{prefix}") for name, prefix in uris.items()]
    record = run_job(clients, "channels", script, InputDataConfig=channels)
    assert record["TrainingJobStatus"] == "Completed", record["FailureReason"]
    odd = "sub folder/zwei ü'\".txt"
    assert log_lines(clients, "channels") == [
        f"A {sorted(['one.txt', odd])}",
        f"B {sorted(['one.txt', odd, 'set.txt', 'settle/no.txt'])}",
        "C ['set.txt']",
    ]


def test_checkpoints_go_to_s3_while_a_job_runs_and_come_back_to_the_next(clients):
    script = """
import os, sys, time
folder = sys.argv[sys.argv.index("--checkpoint") + 1]
print("found", sorted(os.listdir(folder)))
os.makedirs(folder + "/epochs", exist_ok=True)
open(folder + "/epochs/" + os.environ["TRAINING_JOB_NAME"], "w").write("state")
for i in range(600): print(i); time.sleep(0.05)
"""
    options = {
        "parameters": {"checkpoint": '"/opt/ml/checkpoints"'},
        "CheckpointConfig": {"S3Uri": f"s3://{BUCKET}/checkpoints"},
    }
    for name, found in [("first", "found []"), ("second", "found ['epochs']")]:
        start(clients, name, script, **options)
        until(
            lambda: clients.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"checkpoints/epochs/{name}")["KeyCount"]
        )
        clients.sagemaker.stop_training_job(TrainingJobName=name)
        ended(clients, name)
        assert log_lines(clients, name)[0] == found


def test_a_spot_job_must_say_how_long_it_waits(clients):
    request = request_for(clients, "spot", EnableManagedSpotTraining=True)
    assert "MaxWaitTimeInSeconds" in error_of(clients.sagemaker.create_training_job, **request)[1]
    request["StoppingCondition"]["MaxWaitTimeInSeconds"] = 600
    clients.sagemaker.create_training_job(**request)
    assert ended(clients, "spot")["EnableManagedSpotTraining"]


def test_train_mnist_runs_as_it_is(clients, tmp_path):
    package = Path(hpo_helpers.__file__).parent
    files = {"train.py": "train_mnist.py", "mxnet_compat.py": "mxnet_compat.py"}
    script = {name: (package / source).read_text() for name, source in files.items()}
    part = tuple((images[:40], labels[:40]) for images, labels in load_mnist())
    save_npz(tmp_path / "mnist.npz", type(load_mnist())(*part))
    clients.s3.upload_file(str(tmp_path / "mnist.npz"), BUCKET, "mnist/mnist.npz")
    parameters = {
        "epochs": "2",
        "network": '"mlp"',
        "batch_size": "20",
        "checkpoint": '"/opt/ml/checkpoints"',
    }
    record = run_job(
        clients,
        "mnist",
        script,
        parameters=parameters,
        InputDataConfig=[channel("training", f"s3://{BUCKET}/mnist/")],
        CheckpointConfig={"S3Uri": f"s3://{BUCKET}/mnist-checkpoints"},
    )
    assert record["TrainingJobStatus"] == "Completed", record["FailureReason"]
    lines = [line for line in log_lines(clients, "mnist") if line.startswith("epoch=")]
    assert [line.split()[0] for line in lines] == ["epoch=1", "epoch=2"]
    assert record["FinalMetricDataList"][0]["Value"] == pytest.approx(
        float(re.search(r"valid_error=(\S+)", lines[-1])[1])
    )
    assert list(unpacked(clients, record["ModelArtifacts"]["S3ModelArtifacts"])) == ["model.params"]
    kept = clients.s3.list_objects_v2(Bucket=BUCKET, Prefix="mnist-checkpoints/")["Contents"]
    assert [entry["Key"] for entry in kept] == ["mnist-checkpoints/checkpoint.npz"]


# Jobs that fail


def test_a_failing_script_is_quoted_as_the_toolkit_does(clients):
    record = run_job(clients, "failing", "import sys\nprint('before')\nraise ValueError('no such thing')")
    assert record["TrainingJobStatus"] == record["SecondaryStatus"] == "Failed"
    assert record["FailureReason"] == (
        "AlgorithmError: ExecuteUserScriptError:\nExitCode 1\nErrorMessage \"raise ValueError('no such thing')\n "
        'ValueError: no such thing"\n'
        f'Command "{sys.executable} -- train.py", exit code: 1'
    )
    assert "ModelArtifacts" not in record
    assert "Traceback (most recent call last):" in log_lines(clients, "failing")


def test_the_file_failure_comes_before_what_the_toolkit_would_say(clients):
    script = "import os; open(os.environ['SM_OUTPUT_DIR'] + '/failure', 'w').write('ü' * 5000); os._exit(3)"
    reason = run_job(clients, "own-words", script)["FailureReason"]
    assert reason.startswith("AlgorithmError: üüü") and reason.endswith("ü, exit code: 1")
    assert len(reason) <= 1024


@pytest.mark.parametrize(
    "name, script, reason",
    [
        ("status", "import sys; sys.exit(4)", "ExitCode 4"),
        ("killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ExitCode -9"),
        ("no-script", {"other.py": ""}, "not in the source directory, which holds ['other.py']"),
        (
            "requires",
            {"train.py": "", "requirements.txt": "x"},
            "installs nothing: the source directory has requirem",
        ),
        ("package", {"train.py": "", "setup.py": "x"}, "installs nothing: the source directory has setup.py"),
    ],
)
def test_a_job_fails_and_says_why(clients, name, script, reason):
    record = run_job(clients, name, script)
    assert record["TrainingJobStatus"] == "Failed"
    assert record["FailureReason"].startswith("AlgorithmError: ") and reason in record["FailureReason"]


@pytest.mark.parametrize(
    "program", ["../train.py", "/etc/passwd", "-c", "", "a b.py", "train.py;id", "./train.py"]
)
def test_a_program_outside_the_source_directory_or_with_odd_letters_is_not_run(clients, program):
    request = request_for(clients, "odd-program", "print('ran')")
    request["HyperParameters"]["sagemaker_program"] = json.dumps(program)
    clients.sagemaker.create_training_job(**request)
    record = ended(clients, "odd-program")
    clients.sagemaker.delete_training_job(TrainingJobName="odd-program")
    assert record["FailureReason"].startswith("AlgorithmError: The training entry point")


@pytest.mark.parametrize(
    "name, uri, reason",
    [
        ("no-data", f"s3://{BUCKET}/nowhere/", "No S3 objects found under S3 URL"),
        ("no-bucket", "s3://no-such-bucket/data/", "cannot be listed"),
    ],
)
def test_missing_data_fail_the_job(clients, name, uri, reason):
    record = run_job(clients, name, InputDataConfig=[channel("training", uri)])
    assert record["FailureReason"].startswith("ClientError: Data download failed: ")
    assert reason in record["FailureReason"]


@pytest.mark.parametrize("content, reason", [(None, "cannot be read"), (b"no archive", "cannot be unpacked")])
def test_missing_or_damaged_code_fails_the_job(clients, content, reason):
    request = request_for(clients, "bad-code")
    request["HyperParameters"]["sagemaker_submit_directory"] = json.dumps(f"s3://{BUCKET}/bad.tar.gz")
    if content is not None:
        clients.s3.put_object(Bucket=BUCKET, Key="bad.tar.gz", Body=content)
    clients.sagemaker.create_training_job(**request)
    record = ended(clients, "bad-code")
    clients.sagemaker.delete_training_job(TrainingJobName="bad-code")
    assert reason in record["FailureReason"]


def test_a_variable_that_no_process_can_have_fails_the_job(clients):
    record = run_job(clients, "nul", parameters={"a=b": "1"})
    assert "the script cannot be started: illegal environment variable name" in record["FailureReason"]


# Stopping


def test_a_script_that_is_stopped_may_save_its_model(clients):
    script = """
import os, signal, sys, time
def save(*_):
    open(os.environ["SM_MODEL_DIR"] + "/weights", "w").write("saved"); sys.exit()
signal.signal(signal.SIGTERM, save)
print("ready"); time.sleep(600)
"""
    start(clients, "saves", script)
    clients.sagemaker.stop_training_job(TrainingJobName="saves")
    clients.sagemaker.stop_training_job(TrainingJobName="saves") if described(
        clients, "saves", "Stopping"
    ) else None
    record = ended(clients, "saves")
    assert record["TrainingJobStatus"] == record["SecondaryStatus"] == "Stopped"
    assert [step["Status"] for step in record["SecondaryStatusTransitions"]][-2:] == ["Stopping", "Stopped"]
    assert unpacked(clients, record["ModelArtifacts"]["S3ModelArtifacts"]) == {"weights": b"saved"}
    assert "FailureReason" not in record
    code, message = error_of(clients.sagemaker.stop_training_job, TrainingJobName="saves")
    assert (code, "Stopped" in message) == ("ValidationException", True)


def test_a_script_that_does_not_end_is_killed(clients):
    clients.rehearsal.stop_seconds = 0.3
    start(clients, "stubborn", STUBBORN)
    clients.sagemaker.stop_training_job(TrainingJobName="stubborn")
    assert (
        clients.sagemaker.describe_training_job(TrainingJobName="stubborn")["TrainingJobStatus"] == "Stopping"
    )
    record = ended(clients, "stubborn")
    stopping = record["SecondaryStatusTransitions"][-2]
    assert (stopping["EndTime"] - stopping["StartTime"]).total_seconds() > 0.3
    assert record["SecondaryStatus"] == "Stopped"


def test_a_job_that_takes_too_long_is_stopped(clients):
    clients.rehearsal.stop_seconds = 0.1
    record = run_job(clients, "too-long", STUBBORN, StoppingCondition={"MaxRuntimeInSeconds": 1})
    assert (record["TrainingJobStatus"], record["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert record["TrainingTimeInSeconds"] >= 1


def test_a_slow_start_can_be_switched_on_and_is_not_billed(clients):
    clients.rehearsal.start_seconds = 600.0
    clients.sagemaker.create_training_job(**request_for(clients, "slow"))
    assert described(clients, "slow", "Starting")
    clients.sagemaker.stop_training_job(TrainingJobName="slow")
    record = ended(clients, "slow")
    assert record["SecondaryStatus"] == "Stopped" and "BillableTimeInSeconds" not in record


# Switches


def test_the_next_calls_can_be_throttled(clients):
    clients.rehearsal.throttle(2)
    codes = [error_of(clients.sagemaker.list_training_jobs) for _ in range(2)]
    assert codes == [("ThrottlingException", "Rate exceeded")] * 2
    clients.sagemaker.list_training_jobs()


def test_every_third_call_can_be_throttled_and_boto3_tries_it_again(clients):
    clients.rehearsal.throttle(every=3)
    patient = Config(retries={"mode": "standard", "total_max_attempts": 3})
    retrying = client_of(clients.rehearsal, "sagemaker", patient)
    before = len(clients.rehearsal.calls)
    for _ in range(3):
        retrying.list_training_jobs()
    assert [name for _, name in clients.rehearsal.calls[before:]] == ["ListTrainingJobs"] * 4


def test_a_quota_of_running_jobs_can_be_set(clients):
    clients.rehearsal.max_running_jobs = 1
    start(clients, "only-one", SLEEP)
    request = request_for(clients, "one-more")
    code, message = error_of(clients.sagemaker.create_training_job, **request)
    assert (
        code == "ResourceLimitExceeded" and "'ml.m5.large for training job usage' is 1 Instances" in message
    )
    clients.sagemaker.stop_training_job(TrainingJobName="only-one")
    ended(clients, "only-one")
    clients.sagemaker.create_training_job(**request)
    assert ended(clients, "one-more")["TrainingJobStatus"] == "Completed"


def test_the_next_job_can_be_made_to_fail(clients):
    clients.rehearsal.fail_next("CapacityError: Unable to provision requested ML compute capacity.")
    record = run_job(clients, "no-capacity")
    assert record["FailureReason"].startswith("CapacityError: ") and "TrainingStartTime" not in record
    assert run_job(clients, "capacity-again")["TrainingJobStatus"] == "Completed"


# Lists, tags, search


def test_names_are_unique_and_unknown_ones_are_refused(clients):
    request = request_for(clients, "twice")
    clients.sagemaker.create_training_job(**request)
    assert error_of(clients.sagemaker.create_training_job, **request)[0] == "ResourceInUse"
    for call in (clients.sagemaker.describe_training_job, clients.sagemaker.stop_training_job):
        code, message = error_of(call, TrainingJobName="nobody")
        assert (code, message) == ("ValidationException", "Requested resource not found.")
    ended(clients, "twice")


def test_a_job_that_has_ended_can_be_deleted(clients):
    start(clients, "deleted", SLEEP)
    assert error_of(clients.sagemaker.delete_training_job, TrainingJobName="deleted")[0] == "ResourceInUse"
    clients.sagemaker.stop_training_job(TrainingJobName="deleted")
    ended(clients, "deleted")
    clients.sagemaker.delete_training_job(TrainingJobName="deleted")
    assert (
        error_of(clients.sagemaker.describe_training_job, TrainingJobName="deleted")[0]
        == "ValidationException"
    )


@pytest.fixture(scope="module")
def listed(clients):
    """Twelve jobs: valid_error 0.00, 0.01, … and a tag."""
    clients.rehearsal.throttle()
    for i in range(12):
        script = f"print('valid_error={i / 100}')" if i != 5 else "raise SystemExit(1)"
        request = request_for(clients, f"listed-{i:02d}", script, parameters={"width": str(2**i)})
        clients.sagemaker.create_training_job(
            **request, Tags=[{"Key": "study", "Value": "a b/ü"}, {"Key": "number", "Value": str(i)}]
        )
    return [ended(clients, f"listed-{i:02d}") for i in range(12)]


def test_a_list_comes_in_pages_that_hold_each_job_once(clients, listed):
    pages = clients.sagemaker.get_paginator("list_training_jobs").paginate(
        NameContains="listed-", SortBy="Name", SortOrder="Ascending", PaginationConfig={"PageSize": 5}
    )
    sizes = [[job["TrainingJobName"] for job in page["TrainingJobSummaries"]] for page in pages]
    assert [len(page) for page in sizes] == [5, 5, 2]
    assert sum(sizes, []) == [record["TrainingJobName"] for record in listed]
    by_default = clients.sagemaker.list_training_jobs(NameContains="listed-")["TrainingJobSummaries"]
    assert [job["TrainingJobName"] for job in by_default] == [f"listed-{i:02d}" for i in range(10)]
    assert error_of(clients.sagemaker.list_training_jobs, NextToken="made-up")[0] == "ValidationException"


def test_a_list_can_be_narrowed_by_status_and_time(clients, listed):
    def names(**conditions):
        jobs = clients.sagemaker.list_training_jobs(NameContains="listed-", MaxResults=100, **conditions)
        return [job["TrainingJobName"] for job in jobs["TrainingJobSummaries"]]

    assert names(StatusEquals="Failed") == ["listed-05"]
    middle = listed[6]["CreationTime"]
    assert len(names(CreationTimeAfter=middle)) == 5 and len(names(CreationTimeBefore=middle)) == 6
    assert "WarmPoolStatusEquals" in error_of(names, WarmPoolStatusEquals="InUse")[1]


def search(clients, *filters, size=100, **options):
    conditions = [dict(zip(("Name", "Operator", "Value"), each)) for each in filters]
    mine = {"Name": "Tags.study", "Operator": "Equals", "Value": "a b/ü"}
    found = clients.sagemaker.search(
        Resource="TrainingJob", SearchExpression={"Filters": [mine, *conditions]}, MaxResults=size, **options
    )
    return [int(result["TrainingJob"]["TrainingJobName"][-2:]) for result in found["Results"]]


@pytest.mark.parametrize(
    "condition, numbers",
    [
        (("TrainingJobStatus", "Equals", "Failed"), [5]),
        (("TrainingJobStatus", "NotEquals", "Completed"), [5]),
        (("TrainingJobName", "Contains", "listed-1"), [10, 11]),
        (("Tags.number", "In", "3,7,99"), [3, 7]),
        (("Tags.other", "NotExists"), list(range(12))),
        (("Tags.other", "Exists"), []),
        (("Metrics.valid_error", "LessThan", "0.02"), [0, 1]),
        (("Metrics.valid_error", "NotExists"), [5]),
        (("HyperParameters.width", "GreaterThan", "512"), [10, 11]),
        (("HyperParameters.width", "GreaterThanOrEqualTo", "512"), [9, 10, 11]),
        (("HyperParameters.width", "LessThanOrEqualTo", "2"), [0, 1]),
        (("BillableTimeInSeconds", "LessThan", "0"), []),
        (("CreationTime", "GreaterThan", "2020-01-01T00:00:00Z"), list(range(12))),
        (("ResourceConfig.InstanceType", "Equals", "ml.m5.large"), list(range(12))),
    ],
)
def test_search_filters(clients, listed, condition, numbers):
    assert search(clients, condition, SortBy="TrainingJobName", SortOrder="Ascending") == numbers


def test_search_combines_orders_and_pages(clients, listed):
    either = {
        "SubExpressions": [
            {"Filters": [{"Name": "Tags.number", "Value": "2"}]},
            {"Filters": [{"Name": "Tags.number", "Value": "3"}, {"Name": "Tags.number", "Value": "2"}]},
            {
                "Filters": [{"Name": "Tags.number", "Value": "7"}, {"Name": "Tags.number", "Value": "8"}],
                "Operator": "Or",
            },
        ],
        "Operator": "Or",
    }
    results = clients.sagemaker.search(Resource="TrainingJob", SearchExpression=either)["Results"]
    assert {result["TrainingJob"]["TrainingJobName"][-2:] for result in results} == {"02", "07", "08"}
    assert search(clients, SortBy="Metrics.valid_error", SortOrder="Descending") == [
        *range(11, 5, -1),
        *range(4, -1, -1),
        5,
    ]
    assert search(clients, SortBy="HyperParameters.width", SortOrder="Ascending") == list(
        range(12)
    )  # as numbers
    pages = clients.sagemaker.get_paginator("search").paginate(
        Resource="TrainingJob",
        SearchExpression={"Filters": [{"Name": "Tags.study", "Operator": "Exists"}]},
        PaginationConfig={"PageSize": 5},
    )
    names = [result["TrainingJob"]["TrainingJobName"] for page in pages for result in page["Results"]]
    assert sorted(names) == [record["TrainingJobName"] for record in listed]


def test_search_says_what_lists_and_descriptions_say(clients, listed):
    expression = {"Filters": [{"Name": "TrainingJobName", "Value": "listed-03"}]}
    (result,) = clients.sagemaker.search(Resource="TrainingJob", SearchExpression=expression)["Results"]
    job, record = result["TrainingJob"], listed[3]
    assert {name: job[name] for name in record if name in job} == {
        name: record[name] for name in record if name in job
    }
    assert {
        "HyperParameters",
        "FinalMetricDataList",
        "TrainingJobStatus",
        "BillableTimeInSeconds",
    } <= job.keys()
    assert {"Key": "number", "Value": "3"} in job["Tags"]


@pytest.mark.parametrize(
    "condition, words",
    [
        (("Colour", "Equals", "red"), "Unknown property name: 'Colour'"),
        (("TrainingJobName", "GreaterThan", "a"), "cannot be compared"),
        (("TrainingJobName", "Equals"), "needs a Value"),
        (("InputDataConfig", "Exists"), "does not support Search by the list 'InputDataConfig'"),
    ],
)
def test_search_refuses_what_it_cannot_answer(clients, listed, condition, words):
    code, message = error_of(search, clients, condition)
    assert code == "ValidationException" and words in message


def test_search_of_anything_but_training_jobs_is_refused(clients):
    assert "'Endpoint'" in error_of(clients.sagemaker.search, Resource="Endpoint")[1]


def test_tags_can_be_added_listed_and_removed(clients, listed):
    arn = listed[0]["TrainingJobArn"]
    clients.sagemaker.add_tags(
        ResourceArn=arn, Tags=[{"Key": "new", "Value": "1"}, {"Key": "number", "Value": "zero"}]
    )
    tags = {tag["Key"]: tag["Value"] for tag in clients.sagemaker.list_tags(ResourceArn=arn)["Tags"]}
    assert tags == {"study": "a b/ü", "number": "zero", "new": "1"}
    clients.sagemaker.delete_tags(ResourceArn=arn, TagKeys=["new"])
    clients.sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "number", "Value": "0"}])
    assert len(clients.sagemaker.list_tags(ResourceArn=arn)["Tags"]) == 2
    many = [{"Key": f"k{i}", "Value": ""} for i in range(49)]
    assert "at most 50 tags" in error_of(clients.sagemaker.add_tags, ResourceArn=arn, Tags=many)[1]


# What botocore's model says


def broken(clients, path, value):
    """Return a request in which one field is another value, or missing where the value is None."""
    request = request_for(clients, "broken", InputDataConfig=[channel("training", f"s3://{BUCKET}/set/")])
    *parents, last = path
    place = request
    for parent in parents:
        place = place[parent]
    place[last] = value
    if value is None:
        del place[last]
    return request


@pytest.mark.parametrize(
    "path, value, words",
    [
        (["RoleArn"], None, "'roleArn' failed to satisfy constraint: Member must not be null"),
        (["TrainingJobName"], "under_score", "regular expression pattern"),
        (["TrainingJobName"], "n" * 64, "have length less than or equal to 63"),
        (["RoleArn"], "arn:aws:iam::1:role/x", "regular expression pattern"),
        (["ResourceConfig", "InstanceType"], "ml.mine", "satisfy enum value set: [ml.m4.xlarge"),
        (["StoppingCondition", "MaxRuntimeInSeconds"], 0, "have value greater than or equal to 1"),
        (["StoppingCondition", "MaxRuntimeInSeconds"], "600", "Member must be a integer"),
        (["HyperParameters", "long"], "1" * 2501, "less than or equal to 2500"),
        (["HyperParameters"], {f"p{i}": "1" for i in range(101)}, "have length less than or equal to 100"),
        (["HyperParameters", "number"], 3, "Member must be a string"),
        (["InputDataConfig", 0, "ChannelName"], "a b", "'inputDataConfig.1.member.channelName'"),
        (["InputDataConfig"], [], "have length greater than or equal to 1"),
        (
            ["AlgorithmSpecification", "MetricDefinitions"],
            [{"Name": "a", "Regex": "(a)"}] * 41,
            "equal to 40",
        ),
        (["Colour"], "red", "'colour' is no field of CreateTrainingJobRequest"),
        (["EnableManagedSpotTraining"], 1, "Member must be a boolean"),
    ],
)
def test_a_request_that_breaks_botocores_model_is_refused(clients, path, value, words):
    code, message = post(clients.rehearsal, "CreateTrainingJob", broken(clients, path, value))
    assert code == "ValidationException" and words in message
    assert (
        error_of(clients.sagemaker.describe_training_job, TrainingJobName="broken")[0]
        == "ValidationException"
    )


def test_patterns_that_python_cannot_read_are_java_classes_alone():
    shapes = [service_model().shape_for(name) for name in service_model().shape_names]
    patterns = {shape.metadata["pattern"] for shape in shapes if "pattern" in shape.metadata}
    skipped = {pattern for pattern in patterns if _pattern(pattern) is None}
    assert len(patterns) > 100 and all("\\p{" in pattern or "\\uD800" in pattern for pattern in skipped)


@pytest.mark.parametrize(
    "path, value, words",
    [
        (["AlgorithmSpecification", "MetricDefinitions", 0, "Regex"], "(", "no valid regular expression"),
        (["AlgorithmSpecification", "MetricDefinitions", 0, "Regex"], "(a)(b)", "must have one group"),
        (["StoppingCondition", "MaxWaitTimeInSeconds"], 600, "managed spot training"),
        (["ResourceConfig", "VolumeSizeInGB"], None, "ResourceConfig.VolumeSizeInGB is required"),
        (["InputDataConfig", 0, "ChannelName"], "..", "channel name"),
    ],
)
def test_what_the_model_leaves_to_the_service_is_checked_too(clients, path, value, words):
    code, message = error_of(clients.sagemaker.create_training_job, **broken(clients, path, value))
    assert code == "ValidationException" and words in message


@pytest.mark.parametrize(
    "path, value, name",
    [
        (["ResourceConfig", "InstanceCount"], 2, "ResourceConfig.InstanceCount=2"),
        (["EnableNetworkIsolation"], True, "EnableNetworkIsolation"),
        (["VpcConfig"], {"SecurityGroupIds": ["sg-1"], "Subnets": ["s-1"]}, "VpcConfig"),
        (["OutputDataConfig", "KmsKeyId"], "key", "OutputDataConfig.KmsKeyId"),
        (["OutputDataConfig", "S3OutputPath"], "https://bucket/x", "'https://bucket/x'"),
        (["AlgorithmSpecification", "TrainingInputMode"], "Pipe", "TrainingInputMode='Pipe'"),
        (["AlgorithmSpecification", "ContainerEntrypoint"], ["run"], "ContainerEntrypoint"),
        (["InputDataConfig", 0, "CompressionType"], "Gzip", "CompressionType='Gzip'"),
        (
            ["InputDataConfig", 0, "DataSource", "S3DataSource", "S3DataType"],
            "ManifestFile",
            "'ManifestFile'",
        ),
        (["HyperParameters", "sagemaker_program"], None, "script mode"),
        (["HyperParameters", "sagemaker_mpi_enabled"], "true", "distributed training"),
        (["RetryStrategy"], {"MaximumRetryAttempts": 2}, "RetryStrategy"),
        (
            ["CheckpointConfig"],
            {"S3Uri": "s3://b/c", "LocalPath": "/etc"},
            "LocalPath outside /opt/ml (got '/etc')",
        ),
        (
            ["CheckpointConfig"],
            {"S3Uri": "s3://b/c", "LocalPath": "/opt/ml/../x"},
            "LocalPath outside /opt/ml",
        ),
        (["CheckpointConfig"], {"S3Uri": "https://b/c"}, "'https://b/c'"),
        (["ProfilerConfig"], {"DisableProfiler": True}, "ProfilerConfig"),
    ],
)
def test_what_the_rehearsal_does_not_do_is_refused_by_name(clients, path, value, name):
    code, message = error_of(clients.sagemaker.create_training_job, **broken(clients, path, value))
    assert code == "ValidationException"
    assert message.startswith("the rehearsal on this machine does not support") and name in message


@pytest.mark.parametrize(
    "operation, request_, words",
    [
        ("ListModels", {}, "does not support the operation ListModels"),
        ("UpdateTrainingJob", {"TrainingJobName": "x"}, "does not support the operation UpdateTrainingJob"),
        ("MakeCoffee", {}, "does not support an operation 'MakeCoffee'"),
    ],
)
def test_an_operation_that_the_rehearsal_does_not_know_is_refused_by_name(
    clients, operation, request_, words
):
    code, message = post(clients.rehearsal, operation, request_)
    assert code == "ValidationException" and words in message


# What could do harm


def test_an_archive_cannot_lead_out_of_its_folder(clients):
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    outside = clients.rehearsal.folder / "outside.txt"
    members = {"up": {"../../../outside.txt": "x"}, "absolute": {str(outside): "x"}, "link": {link: ""}}
    for name, files in members.items():
        record = run_job(clients, f"archive-{name}", {"train.py": "print('ran')", **files})
        contents = (clients.rehearsal.folder / "jobs" / f"archive-{name}").rglob("*")
        assert not outside.exists() and not any(path.is_symlink() for path in contents)
        assert name == "absolute" or "cannot be unpacked" in record["FailureReason"]


def test_a_key_cannot_lead_out_of_the_folder_of_its_channel(clients):
    clients.s3.put_object(Bucket=BUCKET, Key="bad/../../../../beyond.txt", Body=b"x")
    record = run_job(clients, "bad-key", InputDataConfig=[channel("training", f"s3://{BUCKET}/bad/")])
    assert not list(clients.rehearsal.folder.rglob("beyond.txt"))
    assert "leads out of the folder of its channel" in record["FailureReason"]


def test_a_script_inherits_no_variable_of_this_process(clients, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-reader")
    monkeypatch.setenv("MY_TOKEN", "of-the-reader")
    run_job(clients, "clean", "import os; print(sorted(os.environ), os.path.expanduser('~'))")
    (line,) = log_lines(clients, "clean")
    assert "AWS_SECRET" not in line and "AWS_ACCESS" not in line and "MY_TOKEN" not in line
    assert line.endswith("/jobs/clean")


def test_no_key_is_stored_or_logged(clients):
    run_job(clients, "keys", "import os; print(dict(os.environ))")
    keys = [clients.rehearsal.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    files = [path for path in clients.rehearsal.folder.rglob("*") if path.is_file()]
    texts = [path.read_bytes() for path in files] + [line.encode() for line in log_lines(clients, "keys")]
    texts.append(repr(clients.sagemaker.describe_training_job(TrainingJobName="keys")).encode())
    assert files and not any(key.encode() in text for key in keys for text in texts)
    assert not any(key in repr(clients.rehearsal) for key in keys)


def test_the_server_listens_on_the_loopback_interface_alone(clients):
    port = int(clients.rehearsal.url.rpartition(":")[2])
    assert {address.ip for address in listening(psutil.Process()) if address.port == port} == {"127.0.0.1"}


def test_a_request_without_the_rehearsals_key_is_refused(clients):
    for service, call in [
        ("sagemaker", "list_training_jobs"),
        ("s3", "list_buckets"),
        ("logs", "describe_log_groups"),
    ]:
        client = client_of(clients.rehearsal, service, AWS_ACCESS_KEY_ID="AKIA" + "A" * 16)
        assert error_of(getattr(client, call))[0].startswith("AccessDenied")


# Its own end


GRANDCHILD = """
import os, subprocess, sys, time
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("pids", os.getpid(), os.getppid(), other.pid, flush=True)
time.sleep(600)
"""


def pids_of(clients, name):
    """Return the processes of a job that runs `GRANDCHILD`."""
    return [int(text) for text in log_lines(clients, name)[0].split()[1:]]


def gone(pid):
    """Return whether a process has ended; what its parent has not asked after counts as ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def own_clients(clients):
    """Clients of a rehearsal in another process, since this one has its own, and that process."""
    code = """
import json, signal, sys, time
from hpo_helpers.jobs.rehearsal import Rehearsal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
rehearsal = Rehearsal()
told = {"environment": rehearsal.environment, "url": rehearsal.url, "folder": str(rehearsal.folder)}
print(json.dumps(told), flush=True)
sys.stdin.read()
rehearsal.close()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    told = json.loads(process.stdout.readline())
    told["role"] = clients.rehearsal.role
    yield clients_of(SimpleNamespace(**told)), process
    process.kill()
    process.wait()
    shutil.rmtree(told["folder"], ignore_errors=True)  # SIGKILL leaves it
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize("end", ["close", "SIGKILL", "exit"])
def test_nothing_keeps_running_after_the_end_of_a_rehearsal_however_it_ends(own_clients, end):
    clients, process = own_clients
    start(clients, "left", GRANDCHILD)
    start(clients, "stubborn", STUBBORN)
    pids = pids_of(clients, "left")
    monitors = [child.pid for child in psutil.Process(process.pid).children()]
    scripts = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert not any(gone(pid) for pid in pids) and len(monitors) == 2
    if end == "close":
        process.stdin.close()
        process.wait(20)
        assert not Path(clients.rehearsal.folder).exists()
    elif end == "exit":
        os.kill(process.pid, signal.SIGINT)  # KeyboardInterrupt: the block is never left, Python ends
    else:
        os.kill(process.pid, signal.SIGKILL)
    process.wait(20)
    until(lambda: all(gone(pid) for pid in [*pids, *monitors, *scripts]), timeout=5)


def test_a_monitor_that_is_killed_takes_the_script_with_it(clients):
    start(clients, "monitor", GRANDCHILD)
    script, monitor, grandchild = pids_of(clients, "monitor")
    os.kill(monitor, signal.SIGKILL)
    until(lambda: gone(script), timeout=5)
    psutil.Process(grandchild).kill()  # it holds the job's output, and nobody is left to end it
    assert ended(clients, "monitor")["TrainingJobStatus"] == "Failed"


def test_what_a_script_leaves_running_ends_with_it(clients):
    run_job(clients, "leaves", GRANDCHILD.replace("time.sleep(600)\n", "pass\n"))
    assert all(gone(pid) for pid in pids_of(clients, "leaves"))


@pytest.mark.filterwarnings("ignore:This process")
def test_a_fork_of_the_process_ends_no_job(clients):
    start(clients, "forked", SLEEP)
    pid = os.fork()
    if pid == 0:
        clients.rehearsal.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert described(clients, "forked", "Training") and log_lines(clients, "forked")
    clients.sagemaker.stop_training_job(TrainingJobName="forked")
    ended(clients, "forked")


def test_throttling_every_zeroth_call_makes_no_sense(clients):
    with pytest.raises(ValueError, match="at least 1, or None for no call at all, got 0"):
        clients.rehearsal.throttle(every=0)


def test_there_is_one_rehearsal_in_a_process(clients):
    with pytest.raises(RuntimeError, match="close it first"):
        Rehearsal()
