"""Training jobs in the rehearsal, asked for by real boto3 over real HTTP. Every script really runs."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from types import SimpleNamespace

import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from rehearsal_jobs import (
    BUCKET,
    channel,
    client_of,
    clients_of,
    described,
    ended,
    error_of,
    log_lines,
    request_for,
    run_job,
    unpacked,
    until,
)

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
def clients():
    with Rehearsal() as rehearsal:
        yield clients_of(rehearsal)


@pytest.fixture(autouse=True)
def switches_as_they_were(clients):
    yield
    clients.rehearsal.throttle()
    clients.rehearsal.start_seconds, clients.rehearsal.stop_seconds = 0.0, 120.0
    clients.rehearsal.max_running_jobs = None


def start(clients, name, script, **options):
    """Start a job and return once its script has printed something."""
    clients.sagemaker.create_training_job(**request_for(clients, name, script, **options))
    until(lambda: described(clients, name, "Training", "Failed"))
    until(lambda: log_lines(clients, name))


def stop(clients, name):
    """Stop a job and return its record."""
    clients.sagemaker.stop_training_job(TrainingJobName=name)
    return ended(clients, name)


def steps_of(record):
    return [step["Status"] for step in record["SecondaryStatusTransitions"]]


# A job from its beginning to its end


def test_a_job_runs_its_script_and_leaves_metrics_lines_and_artifacts(clients):
    request = request_for(clients, "whole", EPOCHS, parameters={"epochs": "3"}, Environment={"A": "b"})
    answer = clients.sagemaker.create_training_job(**request)
    record = ended(clients, "whole")
    assert record["TrainingJobStatus"] == record["SecondaryStatus"] == "Completed"
    assert steps_of(record) == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert log_lines(clients, "whole") == [f"epoch={i} valid_error={0.5 / i:.3f}" for i in (1, 2, 3)]
    (metric,) = record["FinalMetricDataList"]
    assert (metric["MetricName"], round(metric["Value"], 3)) == ("valid_error", 0.167)
    assert record["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{BUCKET}/output/whole/output/model.tar.gz"
    assert unpacked(clients, record["ModelArtifacts"]["S3ModelArtifacts"]) == {"weights": b"w"}
    assert unpacked(clients, f"s3://{BUCKET}/output/whole/output/output.tar.gz") == {"table": b"t"}
    assert {name: record[name] for name in request} == request
    assert answer["TrainingJobArn"] == record["TrainingJobArn"]
    assert record["TrainingJobArn"].endswith(":123456789012:training-job/whole")
    start, end = record["TrainingStartTime"], record["TrainingEndTime"]
    assert record["CreationTime"] <= start < end <= record["LastModifiedTime"]
    seconds = (end - start).total_seconds()  # which are billed whole, upwards
    assert seconds <= record["BillableTimeInSeconds"] == record["TrainingTimeInSeconds"] <= seconds + 1


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
    assert lines[5000:] == ["to the other stream", "\ufffd no text ü", "x" * 130_000, "no end"]


# CloudWatch Logs and S3, which moto serves


@pytest.fixture(scope="module")
def streams(clients):
    """The names of three streams, of which the second ends after the third has begun."""
    names = [f"{name}/algo" for name in ("read", "read-not", "read-too")]
    clients.logs.create_log_group(logGroupName="read")
    now = 10**7 * (int(time.time()) // 10**4)  # milliseconds
    for name, times in zip(names, ([1, 2], [3, 5], [4])):
        clients.logs.create_log_stream(logGroupName="read", logStreamName=name)
        events = [{"timestamp": now + time, "message": f"line {time}"} for time in times]
        clients.logs.put_log_events(logGroupName="read", logStreamName=name, logEvents=events)
    return SimpleNamespace(names=names, time=now)


@pytest.mark.parametrize(
    "call, asked, lines",
    [
        ("filter_log_events", {"logStreamNamePrefix": "read/"}, "12"),
        ("filter_log_events", {"logStreamNamePrefix": "read-n", "limit": 1}, "3"),
        ("filter_log_events", {"logStreamNamePrefix": "nobody"}, ""),
        ("filter_log_events", {"interleaved": False}, "12345"),
        ("filter_log_events", {}, "12345"),
        ("filter_log_events", {"filterPattern": '"line 3"'}, "3"),
        ("get_log_events", {"logStreamName": "read-not/algo"}, "35"),
        ("get_log_events", {"logStreamName": "read-not/algo", "limit": 1}, "5"),
        ("get_log_events", {"logStreamName": "read-not/algo", "limit": 1, "startFromHead": True}, "3"),
    ],
)
def test_lines_are_those_that_are_asked_for(clients, streams, call, asked, lines):
    events = getattr(clients.logs, call)(logGroupName="read", **asked)["events"]
    assert [event["message"] for event in events] == [f"line {number}" for number in lines]


def test_metrics_follow_the_jobs_own_expressions_and_keep_the_last_number(clients):
    script = "for line in ('loss: 3', 'loss: nan', 'other=2e-3;', 'loss: 1.5', 'loss: high'): print(line)"
    request = request_for(clients, "metrics", script)
    request["AlgorithmSpecification"]["MetricDefinitions"] = [
        {"Name": "loss", "Regex": r"loss: (\S+)"},
        {"Name": "other", "Regex": "other=(.*?);"},
        {"Name": "absent", "Regex": "absent=(.*)"},
    ]
    clients.sagemaker.create_training_job(**request)
    found = ended(clients, "metrics")["FinalMetricDataList"]
    values = {metric["MetricName"]: metric["Value"] for metric in found}
    assert values == pytest.approx({"loss": 1.5, "other": 0.002})


def test_channels_hold_what_follows_the_prefix_in_a_key(clients):
    for key in ("set/one.txt", "set/sub folder/zwei ü'\".txt", "set/", "settle/no.txt", "file.txt"):
        clients.s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    script = """
import os
for name in ("A", "B"):
    root = os.environ["SM_CHANNEL_" + name]
    print(name, sorted(os.path.relpath(os.path.join(folder, file), root)
                       for folder, _, files in os.walk(root) for file in files))
"""
    channels = [channel(name, f"s3://{BUCKET}/{key}") for name, key in {"a": "set/", "b": "file.txt"}.items()]
    record = run_job(clients, "channels", script, InputDataConfig=channels)
    assert record["TrainingJobStatus"] == "Completed", record["FailureReason"]
    files = sorted(["one.txt", "sub folder/zwei ü'\".txt"])
    assert log_lines(clients, "channels") == [f"A {files}", "B ['file.txt']"]


# Jobs that fail


FAILURES = {
    "own-words": (
        "import os; open(os.environ['SM_OUTPUT_DIR'] + '/failure', 'w').write('ü' * 5000); os._exit(3)",
        "AlgorithmError: üüü",
    ),
    "status": ("import sys; sys.exit(4)", "ExitCode 4"),
    "killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ExitCode -9"),
    "no-script": ({"other.py": ""}, "has ['other.py'], but no 'train.py'"),
    "requires": ({"train.py": "", "requirements.txt": "x"}, "installs nothing, and there is {'requirements.txt'}"),
    "package": ({"train.py": "", "setup.py": "x"}, "installs nothing, and there is {'setup.py'}"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_job_fails_and_says_why(clients, name):
    script, reason = FAILURES[name]
    record = run_job(clients, name, script)
    assert record["TrainingJobStatus"] == "Failed" and len(record["FailureReason"]) <= 1024
    assert record["FailureReason"].startswith("AlgorithmError: ") and reason in record["FailureReason"]
    assert "ModelArtifacts" not in record


def test_missing_data_or_code_fail_the_job(clients):
    clients.s3.put_object(Bucket=BUCKET, Key="bad.tar.gz", Body=b"no archive")
    nothing, nowhere, damaged = (request_for(clients, f"no-data-{i}") for i in range(3))
    nothing["InputDataConfig"] = [channel("training", f"s3://{BUCKET}/nowhere/")]
    nowhere["InputDataConfig"] = [channel("training", "s3://no-such-bucket/data/")]
    damaged["HyperParameters"]["sagemaker_submit_directory"] = json.dumps(f"s3://{BUCKET}/bad.tar.gz")
    words = ["No S3 objects found under S3 URL", "NoSuchBucket", "not a gzip file"]
    for request, reason in zip((nothing, nowhere, damaged), words):
        clients.sagemaker.create_training_job(**request)
        record = ended(clients, request["TrainingJobName"])
        assert record["FailureReason"].startswith("ClientError: Data download failed: ")
        assert reason in record["FailureReason"]


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
    record = stop(clients, "saves")
    assert record["TrainingJobStatus"] == record["SecondaryStatus"] == "Stopped"
    assert steps_of(record)[-2:] == ["Stopping", "Stopped"]
    assert unpacked(clients, record["ModelArtifacts"]["S3ModelArtifacts"]) == {"weights": b"saved"}
    assert "FailureReason" not in record
    code, message = error_of(clients.sagemaker.stop_training_job, TrainingJobName="saves")
    assert (code, "Stopped" in message) == ("ValidationException", True)


def test_a_script_that_does_not_end_is_killed(clients):
    clients.rehearsal.stop_seconds = 0.3
    start(clients, "stubborn", STUBBORN)
    record = stop(clients, "stubborn")
    stopping = record["SecondaryStatusTransitions"][-2]
    assert (stopping["EndTime"] - stopping["StartTime"]).total_seconds() > 0.3
    assert (stopping["Status"], record["SecondaryStatus"]) == ("Stopping", "Stopped")


def test_a_job_that_takes_too_long_is_stopped(clients):
    clients.rehearsal.stop_seconds = 0.1
    record = run_job(clients, "too-long", STUBBORN, StoppingCondition={"MaxRuntimeInSeconds": 1})
    assert (record["TrainingJobStatus"], record["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


# Switches


def test_a_slow_start_can_be_switched_on_and_is_not_billed(clients):
    clients.rehearsal.start_seconds = 600.0
    clients.sagemaker.create_training_job(**request_for(clients, "slow"))
    record = stop(clients, "slow")
    assert record["SecondaryStatus"] == "Stopped" and "BillableTimeInSeconds" not in record


def test_calls_can_be_throttled_and_boto3_tries_them_again(clients):
    clients.rehearsal.throttle(1, every=3)
    throttled = error_of(clients.sagemaker.list_training_jobs)
    assert throttled == ("ThrottlingException", "Rate exceeded")
    patient = Config(retries={"mode": "standard", "total_max_attempts": 3})
    retrying = client_of(clients.rehearsal, "sagemaker", patient)
    before = len(clients.rehearsal.calls)
    for _ in range(3):
        retrying.list_training_jobs()
    assert [name for _, name in clients.rehearsal.calls[before:]] == ["ListTrainingJobs"] * 4


def test_a_quota_of_running_jobs_can_be_set_and_a_job_that_runs_is_not_deleted(clients):
    clients.rehearsal.max_running_jobs = 1
    start(clients, "only-one", SLEEP)
    code, message = error_of(clients.sagemaker.create_training_job, **request_for(clients, "one-more"))
    assert code == "ResourceLimitExceeded" and "'ml.m5.large for training job usage' is 1 Instances" in message
    delete, describe = clients.sagemaker.delete_training_job, clients.sagemaker.describe_training_job
    assert error_of(delete, TrainingJobName="only-one")[0] == "ResourceInUse"
    stop(clients, "only-one")
    assert run_job(clients, "one-more")["TrainingJobStatus"] == "Completed"
    delete(TrainingJobName="only-one")
    assert error_of(describe, TrainingJobName="only-one")[0] == "ValidationException"


def test_the_next_job_can_be_made_to_fail(clients):
    clients.rehearsal.fail_next("CapacityError: Unable to provision requested ML compute capacity.")
    record = run_job(clients, "no-capacity")
    assert record["FailureReason"].startswith("CapacityError: ") and "TrainingStartTime" not in record


# Lists, tags, search


@pytest.fixture(scope="module")
def listed(clients):
    """Twelve jobs with tags, of which the sixth has failed."""
    for i in range(12):
        script = f"print('valid_error={i / 100}')" if i != 5 else "raise SystemExit(1)"
        request = request_for(clients, f"listed-{i:02d}", script, parameters={"width": str(2**i)})
        tags = [{"Key": "study", "Value": "a b/ü"}, {"Key": "number", "Value": str(i)}]
        clients.sagemaker.create_training_job(**request, Tags=tags)
    return [ended(clients, f"listed-{i:02d}") for i in range(12)]


def test_names_are_unique_and_unknown_ones_are_refused(clients, listed):
    request = request_for(clients, "listed-00")
    assert error_of(clients.sagemaker.create_training_job, **request)[0] == "ResourceInUse"
    for call in (clients.sagemaker.describe_training_job, clients.sagemaker.stop_training_job):
        error = error_of(call, TrainingJobName="nobody")
        assert error == ("ValidationException", "Requested resource not found.")


def test_a_list_comes_in_pages_that_hold_each_job_once(clients, listed):
    paginator = clients.sagemaker.get_paginator("list_training_jobs")
    names = [
        [job["TrainingJobName"] for job in page["TrainingJobSummaries"]]
        for page in paginator.paginate(NameContains="listed-", PaginationConfig={"PageSize": 5})
    ]
    assert [len(page) for page in names] == [5, 5, 2]
    assert sum(names, []) == [record["TrainingJobName"] for record in listed]
    by_default = clients.sagemaker.list_training_jobs(NameContains="listed-")["TrainingJobSummaries"]
    assert [job["TrainingJobName"] for job in by_default] == [f"listed-{i:02d}" for i in range(10)]


def search(clients, *filters):
    conditions = [dict(zip(("Name", "Operator", "Value"), each)) for each in filters]
    mine = {"Name": "Tags.study", "Operator": "Equals", "Value": "a b/ü"}
    pages = clients.sagemaker.get_paginator("search").paginate(
        Resource="TrainingJob",
        SearchExpression={"Filters": [mine, *conditions]},
    )
    return [int(each["TrainingJob"]["TrainingJobName"][-2:]) for page in pages for each in page["Results"]]


@pytest.mark.parametrize(
    "condition, numbers",
    [
        (("TrainingJobStatus", "Equals", "Failed"), [5]),
        (("TrainingJobName", "Contains", "listed-1"), [10, 11]),
        (("Tags.number", "Equals", "7"), [7]),
        (("Tags.other", "Equals", "7"), []),
        (("HyperParameters.width", "Equals", "512"), [9]),
        (("ResourceConfig.InstanceType", "Equals", "ml.m5.large"), list(range(12))),
    ],
)
def test_search_filters(clients, listed, condition, numbers):
    assert search(clients, condition) == numbers


def test_search_refuses_what_it_cannot_answer(clients):
    words = "does not support Search.SearchExpression.Filters.Operator='GreaterThan'"
    assert words in error_of(search, clients, ("CreationTime", "GreaterThan", "2020-01-01"))[1]
    assert "does not support the operation ListModels" in error_of(clients.sagemaker.list_models)[1]
    assert "'Endpoint'" in error_of(clients.sagemaker.search, Resource="Endpoint")[1]
    assert "Unknown property name: Metrics" in error_of(search, clients, ("Metrics.loss", "Equals", "1"))[1]
    assert "Search.SortBy" in error_of(clients.sagemaker.search, Resource="TrainingJob", SortBy="Tags")[1]
    assert "Invalid NextToken" in error_of(clients.sagemaker.list_training_jobs, NextToken="page")[1]
    assert "WarmPool" in error_of(clients.sagemaker.list_training_jobs, WarmPoolStatusEquals="InUse")[1]


# What is refused


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


METRICS, DATA = ["AlgorithmSpecification", "MetricDefinitions"], ["InputDataConfig", 0]
INVALID = [
    (["TrainingJobName"], "under_score", "failed to satisfy constraint: {'min': 1, 'max': 63"),
    (["RoleArn"], "arn:aws:iam::1:role/x", "'pattern': 'arn:aws"),
    (["ResourceConfig", "InstanceType"], "ml.mine", "'enum': ['ml.m4.xlarge'"),
    (["HyperParameters", "long"], "1" * 2501, "'max': 2500"),
    (["HyperParameters"], {f"p{i}": "1" for i in range(101)}, "'max': 100"),
    ([*DATA, "ChannelName"], "a b", "CreateTrainingJob.InputDataConfig.ChannelName='a b'"),
    (METRICS, [{"Name": "a", "Regex": "(a)"}] * 41, "'max': 40"),
    ([*METRICS, 0, "Regex"], "(", "must be valid and have one group"),
    ([*METRICS, 0, "Regex"], "(a)(b)", "have one group, got"),
]
UNSUPPORTED = [
    (["ResourceConfig", "InstanceCount"], 2, "ResourceConfig.InstanceCount=2, only 1"),
    (["VpcConfig"], {"SecurityGroupIds": ["sg-1"], "Subnets": ["s-1"]}, "VpcConfig"),
    (["OutputDataConfig", "KmsKeyId"], "key", "OutputDataConfig.KmsKeyId"),
    (["AlgorithmSpecification", "TrainingInputMode"], "Pipe", "TrainingInputMode='Pipe'"),
    ([*DATA, "CompressionType"], "Gzip", "CompressionType"),
    ([*DATA, "DataSource", "S3DataSource", "S3DataType"], "ManifestFile", "'ManifestFile'"),
    (["HyperParameters", "sagemaker_program"], None, "script mode"),
    (["CheckpointConfig"], {"S3Uri": "s3://b/c"}, "CheckpointConfig"),
]


@pytest.mark.parametrize("path, value, words", [*INVALID, *UNSUPPORTED], ids=str)
def test_a_request_that_is_invalid_or_not_carried_out_is_refused(clients, path, value, words):
    code, message = error_of(clients.sagemaker.create_training_job, **broken(clients, path, value))
    assert code == "ValidationException" and words in message
    is_unsupported = (path, value, words) in UNSUPPORTED
    assert message.startswith("the rehearsal on this machine does not support") == is_unsupported


# What could do harm


def test_nothing_in_an_archive_or_a_key_can_lead_out_of_its_folder(clients, tmp_path):
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    members = {"up": {"../../../outside.txt": "x"}, "absolute": {str(tmp_path / "x"): "x"}, "link": {link: ""}}
    for name, files in members.items():
        record = run_job(clients, f"archive-{name}", {"train.py": "print('ran')", **files})
        assert name == "absolute" or "Data download failed" in record["FailureReason"]
        assert not any(tmp_path.iterdir())
    clients.s3.put_object(Bucket=BUCKET, Key="bad/../../../../beyond.txt", Body=b"x")
    record = run_job(clients, "bad-key", InputDataConfig=[channel("training", f"s3://{BUCKET}/bad/")])
    assert "leads out of the folder of its channel" in record["FailureReason"]


def test_a_script_inherits_no_variable_of_this_process(clients, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-reader")
    monkeypatch.setenv("MY_TOKEN", "of-the-reader")
    run_job(clients, "clean", "import os; print(dict(os.environ), os.path.expanduser('~') == os.getcwd()[:-5])")
    (line,) = log_lines(clients, "clean")
    assert "AWS_SECRET" not in line and "AWS_ACCESS" not in line and "MY_TOKEN" not in line
    assert clients.rehearsal.environment["AWS_ACCESS_KEY_ID"] not in line and line.endswith("True")


def test_the_server_listens_on_the_loopback_interface_alone_and_asks_for_its_key(clients):
    port = int(clients.rehearsal.url.rpartition(":")[2])
    connections = psutil.Process().net_connections("tcp")
    listening = [each.laddr for each in connections if each.status == "LISTEN"]
    assert {address.ip for address in listening if address.port == port} == {"127.0.0.1"}
    for service, call in [("sagemaker", "list_training_jobs"), ("s3", "list_buckets"), ("sts", "get_caller_identity")]:
        client = client_of(clients.rehearsal, service, AWS_ACCESS_KEY_ID="AKIA" + "A" * 16)
        with pytest.raises(ClientError, match="AccessDenied|403"):
            getattr(client, call)()


# Its own end


CHILD = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid)
"""
IN_A_PROCESS = """
import json, signal, sys, time
from hpo_helpers.jobs.rehearsal import Rehearsal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
rehearsal = Rehearsal()
print(json.dumps({"environment": rehearsal.environment, "role": rehearsal.role}), flush=True)
sys.stdin.read()
"""


def gone(pid):
    """Return whether a process has ended; what its parent has not asked after counts as ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def processes():
    """Two processes with a rehearsal each, since this one has its own."""
    command = [sys.executable, "-c", IN_A_PROCESS]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_no_script_runs_on_after_the_end_of_a_rehearsal_however_it_ends(processes):
    for process, end in zip(processes, (signal.SIGINT, signal.SIGKILL)):  # its block is never left
        clients = clients_of(SimpleNamespace(**json.loads(process.stdout.readline())))
        start(clients, "asleep", SLEEP)
        start(clients, "stubborn", STUBBORN)
        pids = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert len(pids) == 2 and not any(map(gone, pids))
        process.send_signal(end)
        process.wait(20)
        until(lambda: all(map(gone, pids)), timeout=5)


def test_what_a_script_leaves_running_ends_with_it(clients):
    run_job(clients, "leaves", CHILD)
    (pid,) = map(int, log_lines(clients, "leaves"))
    until(lambda: gone(pid), timeout=5)


@pytest.mark.filterwarnings("ignore:This process")
def test_a_fork_of_the_process_ends_no_job_and_there_is_one_rehearsal_in_a_process(clients):
    start(clients, "forked", SLEEP)
    pid = os.fork()
    if pid == 0:
        clients.rehearsal.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert described(clients, "forked", "Training") and log_lines(clients, "forked")
    with pytest.raises(RuntimeError, match="close it first"):
        Rehearsal()
    stop(clients, "forked")
