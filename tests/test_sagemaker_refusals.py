"""SageMakerLauncher against scripted answers: what only AWS can say, and lines that come in pages or late."""

import random
import re
import sys
import time
from types import SimpleNamespace

import boto3
import numpy as np
import pytest
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError
from botocore.stub import Stubber
from service_models import read_once

from hpo_helpers.jobs import JobStatus
from hpo_helpers.jobs.log_metrics import expression
from hpo_helpers.jobs.sagemaker import SageMakerError, SageMakerLauncher, image_uri, launcher, orphans
from hpo_helpers.jobs.sagemaker.upload import ensure_bucket
from hpo_helpers.jobs.sagemaker.watch import read_lines

ROLE = "arn:aws:iam::123456789012:role/service-role/AmazonSageMaker-ExecutionRole-20261121"
BUCKET = "sagemaker-hpo-eu-west-1-123456789012"
PATIENCE = 20  # seconds, for what takes none
NOW = 1_800_000_000  # seconds since 1970
JOB_ARN = "arn:aws:sagemaker:eu-west-1:123456789012:training-job/x"


@pytest.fixture(scope="module")
def clients():
    with pytest.MonkeyPatch.context() as patch:
        read_once(patch)
        config = Config(region_name="eu-west-1", retries={"total_max_attempts": 1})
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        made = {kind: boto3.client(kind, config=config, **keys) for kind in ("sagemaker", "logs", "s3")}
    return SimpleNamespace(**made, region="eu-west-1", account="123456789012", bucket=BUCKET)


@pytest.fixture
def aws(clients, monkeypatch, tmp_path):
    """Script what AWS answers: a stubber for each client. No call leaves this process."""
    monkeypatch.setenv("HPO_HELPERS_CACHE", str(tmp_path))
    monkeypatch.setattr(launcher, "connect", lambda: clients)
    monkeypatch.setattr(launcher.orphans, "stop_orphans", lambda client, name: [])
    uploaded = "train_mnist.py", "s3://bucket/code.tar.gz", None
    monkeypatch.setattr(launcher.upload, "upload", lambda *arguments: uploaded)
    for name in ("ASK_SECONDS", "LATE_SECONDS"):
        monkeypatch.setattr(launcher, name, 0.0)
    stubs = SimpleNamespace(**{kind: Stubber(getattr(clients, kind)) for kind in ("sagemaker", "logs", "s3")})
    for stub in vars(stubs).values():
        stub.activate()
    yield stubs
    for stub in vars(stubs).values():
        stub.deactivate()


@pytest.fixture
def launched(aws):
    launcher = SageMakerLauncher(role=ROLE, name="hpo-test")
    yield launcher
    launcher._billed.clear()  # the stubs answer no more
    launcher.close()


@pytest.fixture
def job(aws, launched):
    """A job that SageMaker has taken."""
    aws.sagemaker.add_response("create_training_job", {"TrainingJobArn": JOB_ARN})
    return launched.submit({}, 3)


def describe(aws, status, secondary=None, **more):
    answer = {
        "TrainingJobName": "x",
        "TrainingJobArn": JOB_ARN,
        "ModelArtifacts": {"S3ModelArtifacts": "s3://bucket/model"},
        "TrainingJobStatus": status,
        "SecondaryStatus": secondary or status,
        "StoppingCondition": {"MaxRuntimeInSeconds": 600},
        "CreationTime": NOW,
    }
    aws.sagemaker.add_response("describe_training_job", answer | more)


def refuse(stub, operation, code, message, **response_meta):
    stub.add_client_error(operation, code, message, http_status_code=400, response_meta=response_meta or None)


def finish(launcher, job):
    """Wait until a job has finished, and return its reports."""
    deadline, reports = time.monotonic() + PATIENCE, []
    while not job.finished:
        assert time.monotonic() < deadline
        launcher.wait([job], 1)
        reports += job.new_reports()
    return reports + job.new_reports()


# What ends at once, and what it says.


@pytest.mark.parametrize(
    ("code", "message", "said"),
    [
        ("AccessDeniedException", "not authorized to perform: x", "grant it, as notebooks/sagemaker_"),
        ("AccessDeniedException", "not authorized to perform: iam:PassRole", "grant yourself iam:PassRole"),
        ("ValidationException", f"Could not assume role {ROLE}. Please ensure", "set role= to one that"),
        (
            "ResourceLimitExceeded",
            "The service limit 'ml.m5.large for training job usage' is 0 Instances, with current",
            "ask for more under Service Quotas, or set instance_type=",
        ),
        ("ExpiredTokenException", "The security token is expired", "run `aws configure` or `aws sso login`"),
    ],
)
def test_a_refusal_ends_at_once_and_says_what_helps(aws, launched, code, message, said):
    refuse(aws.sagemaker, "create_training_job", code, message)
    with pytest.raises(SageMakerError) as caught:
        launched.submit({}, 3)
    assert said in str(caught.value) and message in str(caught.value)
    assert launched._billed == set() and launched._running == {}


@pytest.mark.parametrize("service", ["sagemaker", "logs"])
def test_a_denied_poll_ends_the_wait(aws, launched, job, service):
    if service == "logs":
        describe(aws, "InProgress")
    call = {"sagemaker": "describe_training_job", "logs": "describe_log_streams"}[service]
    refuse(getattr(aws, service), call, "AccessDeniedException", "not authorized")
    with pytest.raises(SageMakerError, match="AccessDenied.* calling the Describe.*grant it"):
        launched.wait([job], 5)


def test_a_job_that_may_not_be_stopped_is_named(aws, launched, job):
    refuse(aws.sagemaker, "stop_training_job", "AccessDeniedException", "not authorized")
    with pytest.raises(SageMakerError, match=f"could not stop {job.name}, max_run will end them: "):
        launched.close()


def test_a_second_interrupt_leaves_no_job_behind():
    stopped, interrupts = [], iter([KeyboardInterrupt, None, KeyboardInterrupt, None])

    def stop(TrainingJobName):
        if interrupt := next(interrupts):
            raise interrupt
        stopped.append(TrainingJobName)

    fake = SimpleNamespace(stop_training_job=stop, exceptions=SimpleNamespace(ClientError=boto3.exceptions.Boto3Error))
    with pytest.raises(KeyboardInterrupt):
        orphans.stop_all(fake, {"a", "b"})
    assert stopped == ["a", "b"]


def test_a_tuner_goes_on_without_the_process_that_started_it(monkeypatch):
    child = {"TrainingJobName": "x", "TuningJobArn": "arn", "Tags": [{"Key": orphans.PROCESS, "Value": "0 0"}]}
    monkeypatch.setattr(orphans, "search", lambda *asked, **values: [child])
    assert orphans.stop_orphans(None, "hpo-x") == []


def test_without_credentials_or_region_it_says_what_to_do(monkeypatch, tmp_path):
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "PROFILE", "DEFAULT_REGION", "REGION"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SageMakerError, match="specify a region.*set AWS_DEFAULT_REGION"):
        SageMakerLauncher(role=ROLE)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with pytest.raises(SageMakerError, match="credentials.*run `aws configure` or `aws sso login`"):
        SageMakerLauncher(role=ROLE)


def test_without_boto3_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ImportError, match=r'needs boto3: run `pip install "hpo_helpers\[aws\]"`'):
        SageMakerLauncher(role=ROLE)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"role": None}, ValueError, "role must be an ARN, arn:aws:iam::ACCOUNT:role/NAME, got None"),
        ({"role": "MyRole"}, ValueError, "got 'MyRole'"),
        ({"name": "a_b"}, ValueError, "name must be 1 to 40 letters, digits, inner hyphens, got 'a_b'"),
        ({"name": "../x"}, ValueError, "got '../x'"),
        ({"name": "x" * 41}, ValueError, "name must be 1 to 40"),
        ({"max_run": 0}, ValueError, "max_run must be a positive whole number, got 0"),
        ({"max_jobs": 1.5}, ValueError, "max_jobs must be a positive whole number, got 1.5"),
        ({"n_workers": True}, ValueError, "n_workers must be a positive whole number, got True"),
        ({"fixed": {"epochs": 3}}, ValueError, "epochs is given to each job, not in fixed"),
        ({"script": "missing.py"}, FileNotFoundError, "there is no file 'missing.py'"),
        ({"data": "missing"}, FileNotFoundError, "there is no folder 'missing'"),
        ({"dependencies": ["missing.txt"]}, FileNotFoundError, "there is no file 'missing.txt'"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_call(settings, error, said):
    with pytest.raises(error, match=re.escape(said)):
        SageMakerLauncher(**{"role": ROLE, **settings})


@pytest.mark.parametrize("name", ["train.sh", "my train.py", "-rf.py", "Zürich.py"])
def test_only_scripts_with_a_name_that_the_container_takes_are_taken(tmp_path, name):
    (tmp_path / name).write_text("exit")
    with pytest.raises(ValueError, match="script must be a .py, named by letters, digits and"):
        SageMakerLauncher(tmp_path / name, role=ROLE)


# What is sent.


def test_a_request_is_what_sagemaker_takes(launched):
    request = launched.training_job({"learning_rate": 0.1, "network": "cnn", "n": np.int64(3)}, 9, "x")
    assert request["HyperParameters"] == {
        "learning_rate": "0.1",
        "network": '"cnn"',
        "n": "3",
        "epochs": "9",
        "sagemaker_program": '"train_mnist.py"',
        "sagemaker_submit_directory": '"s3://bucket/code.tar.gz"',
    }
    assert request["AlgorithmSpecification"]["TrainingImage"] == image_uri("eu-west-1")
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 600}
    tags = {f"hpo-helpers:{kind}" for kind in ("name", "owner", "run", "process")}
    assert {tag["Key"] for tag in request["Tags"]} == tags
    definition = {"Name": "valid_error", "Regex": expression("valid_error")}
    assert request["AlgorithmSpecification"]["MetricDefinitions"] == [definition]
    assert "InputDataConfig" not in request
    with pytest.raises(TypeError, match="x must be a number, a string, a list or a dict, got"):
        launched.submit({"x": object()}, 1)


def test_every_request_fits_the_service_model(aws):
    model = aws.sagemaker.client.meta.service_model.operation_model("CreateTrainingJob").input_shape
    launcher = SageMakerLauncher(role=ROLE, name="x" * 40, max_run=900)
    request = launcher.training_job({}, 1, f"{launcher.run}-99999")
    assert list(violations(request, model)) == []
    assert list(violations({**request, "TrainingJobName": "a_b"}, model)) == ["a_b"]
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 900}


def violations(value, shape):
    """Yield what does not keep to a pattern, an enumeration or a length of the service's model."""
    if shape.type_name == "structure":
        for name, part in value.items():
            yield from violations(part, shape.members[name])
    elif shape.type_name == "list":
        for part in value:
            yield from violations(part, shape.member)
    elif shape.type_name == "map":
        for name, part in value.items():
            yield from violations(name, shape.key)
            yield from violations(part, shape.value)
    elif shape.type_name == "string":
        pattern = shape.metadata.get("pattern", ".*").replace(r"\p{L}\p{Z}\p{N}", r"\w ")
        too_long = len(value) > shape.metadata.get("max", 10**6)
        if too_long or not re.fullmatch(pattern, value, re.DOTALL) or value not in (shape.enum or [value]):
            yield value


@pytest.mark.parametrize(
    ("region", "instance_type", "host", "processor"),
    [
        ("us-west-2", "ml.m5.large", "763104351884.dkr.ecr.us-west-2.amazonaws.com", "cpu"),
        ("eu-south-1", "ml.g4dn.xlarge", "692866216735.dkr.ecr.eu-south-1.amazonaws.com", "gpu"),
        ("cn-north-1", "ml.c5.large", "727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn", "cpu"),
    ],
)
def test_the_image_is_the_regions(region, instance_type, host, processor):
    assert image_uri(region, instance_type) == f"{host}/mxnet-training:1.9.0-{processor}-py38"


def test_the_default_bucket_is_made_in_its_region_and_nobody_elses_is_used(aws, clients, monkeypatch):
    head = {"Bucket": BUCKET, "ExpectedBucketOwner": "123456789012"}
    aws.s3.add_client_error("head_bucket", "404", "Not Found", http_status_code=404, expected_params=head)
    place = {"CreateBucketConfiguration": {"LocationConstraint": "eu-west-1"}}
    aws.s3.add_response("create_bucket", {}, {"Bucket": BUCKET, **place})
    ensure_bucket(clients, BUCKET)
    aws.s3.add_client_error("head_bucket", "403", "Forbidden", http_status_code=403, expected_params=head)
    with pytest.raises(SageMakerError, match="another account's, or no s3:ListBucket: set bucket="):
        launcher.explained()(ensure_bucket)(clients, BUCKET)
    aws.s3.assert_no_pending_responses()


# What is heard.


@pytest.mark.parametrize(
    ("status", "more", "ended", "error"),
    [
        ("Stopped", {"secondary": "MaxRuntimeExceeded"}, "failed", "SageMaker has ended it: MaxRuntime"),
        ("Stopped", {}, "stopped", None),
        ("Failed", {"FailureReason": "CapacityError: none left"}, "failed", "CapacityError: none left"),
    ],
)
def test_how_a_job_has_ended(aws, launched, job, monkeypatch, status, more, ended, error):
    fake_logs(aws, monkeypatch, {})
    describe(aws, status, **more)
    finish(launched, job)
    assert job.status is JobStatus(ended) and (job.error or "").startswith(error or "")
    assert (job.error is None) == (error is None)


def test_a_lost_answer_is_no_lost_job(aws, launched):
    refuse(aws.sagemaker, "create_training_job", "ResourceInUse", "names must be unique", RetryAttempts=1)
    job = launched.submit({}, 3)
    assert launched._running == {0: job} and launched._billed == {job.name}


def test_a_network_that_fails_while_a_job_is_made_leaves_no_job_behind(aws, launched, monkeypatch):
    def fail(**request):
        raise EndpointConnectionError(endpoint_url="https://sagemaker.eu-west-1.amazonaws.com")

    monkeypatch.setattr(aws.sagemaker.client, "create_training_job", fail)
    with pytest.raises(SageMakerError, match="Could not connect to the endpoint URL"):
        launched.submit({}, 3)
    refuse(aws.sagemaker, "stop_training_job", "ValidationException", "not found")
    launched.close()
    aws.sagemaker.assert_no_pending_responses()


def test_lines_that_come_after_the_end_are_not_lost(aws, launched, job, monkeypatch):
    monkeypatch.setattr(launcher, "LATE_SECONDS", 30.0)
    stream = f"{job.name}/algo-1-1"
    logs = fake_logs(aws, monkeypatch, {stream: ["epoch=1 valid_error=0.5"]})
    monkeypatch.setattr(aws.sagemaker.client, "describe_training_job", lambda **request: dict(completed))
    completed = {"TrainingJobStatus": "Completed", "SecondaryStatus": "Completed"}
    values = []
    for late in ("epoch=2 valid_error=0.4", "epoch=3 valid_error=0.3"):
        launched.wait([job], 5)
        values += [report.value for report in job.new_reports()]
        assert not job.finished and job.description
        logs.add(stream, [late])
    values += [report.value for report in finish(launched, job)]
    assert (values, job.status) == ([0.5, 0.4, 0.3], JobStatus.COMPLETED)


def test_a_job_that_ends_early_is_waited_for_no_longer_than_lines_may_take(aws, launched, job, monkeypatch):
    monkeypatch.setattr(launcher, "LATE_SECONDS", 0.3)
    fake_logs(aws, monkeypatch, {f"{job.name}/algo-1-1": ["epoch=1 valid_error=0.5"]})
    completed = {"TrainingJobStatus": "Completed", "SecondaryStatus": "Completed"}
    monkeypatch.setattr(aws.sagemaker.client, "describe_training_job", lambda **request: dict(completed))
    start = time.monotonic()
    finish(launched, job)
    assert 0.3 <= time.monotonic() - start < 5


def test_a_report_is_never_made_before_its_job_nor_after_it_was_read(launched, job):
    start, now = job._time, time.time()
    for epoch, seconds in enumerate([now - 100, now + 100, now - 100], start=1):
        job._report(seconds, {"epoch": epoch, "valid_error": 0.1})
    first, second, third = [report.time for report in job._reports]
    assert start == first <= second == third <= launched.clock()


def test_a_hundred_jobs_take_turns_and_a_few_calls_a_second(aws, launched, monkeypatch):
    asked, launched._n_workers, launched._max_jobs = [], 100, 100

    def ask(job):
        job._due = time.monotonic()
        asked.append(job.id)

    monkeypatch.setattr(launcher, "ASK_SECONDS", 0.01)
    monkeypatch.setattr(launcher.SageMakerJob, "_ask", ask)
    monkeypatch.setattr(aws.sagemaker.client, "create_training_job", lambda **request: None)
    jobs = [launched.submit({}, 1) for _ in range(100)]
    asked.clear()
    start = time.monotonic()
    while time.monotonic() < start + 0.2:
        assert not any(job.finished for job in jobs)
    assert 2 < len(asked) <= 1 + (time.monotonic() - start) / 0.01 and len(asked) == len(set(asked))


# Lines.


def fake_logs(aws, monkeypatch, streams):
    """Let CloudWatch Logs have these streams, whole."""
    logs = FakeLogs(random.Random(0), {})
    for stream, lines in streams.items():
        logs.add(stream, lines)
    for name in ("get_paginator", "get_log_events"):
        monkeypatch.setattr(aws.logs.client, name, getattr(logs, name))
    return logs


class FakeLogs:
    """Streams that grow while they are read, in pages of any length, some of them empty."""

    exceptions = SimpleNamespace(ClientError=KeyError)

    def __init__(self, random_state, streams):
        self.random = random_state
        self.streams = streams
        self.n_there = dict.fromkeys(streams, 0)

    def grow(self):
        for stream, lines in self.streams.items():
            self.n_there[stream] = min(len(lines), self.n_there[stream] + self.random.randint(0, 5))

    def add(self, stream, lines):
        self.streams.setdefault(stream, []).extend(lines)
        self.n_there[stream] = len(self.streams[stream])

    def get_paginator(self, operation):
        streams = [stream for stream, n_lines in self.n_there.items() if n_lines]
        pages = SimpleNamespace(search=lambda path: streams)
        return SimpleNamespace(paginate=lambda **request: pages)

    def get_log_events(self, logGroupName, logStreamName, startFromHead, nextToken="0"):
        start = int(nextToken)
        there = self.streams[logStreamName][start : self.n_there[logStreamName]]
        lines = there[: self.random.randint(1, 3)]
        is_empty_page = there and self.random.random() < 0.3
        if is_empty_page:  # more is to come, under another token
            return {"events": [], "nextForwardToken": f"{start}".zfill(len(nextToken) + 1)}
        events = [{"timestamp": 0, "message": line} for line in lines]
        return {"events": events, "nextForwardToken": str(start + len(lines)) if lines else nextToken}


@pytest.mark.parametrize("seed", range(20))
def test_every_line_is_read_once_and_none_is_lost(seed):
    random_state = random.Random(seed)
    names = "job/1", "job/2"
    texts = {stream: [f"{stream} {i}" for i in range(random_state.randint(0, 40))] for stream in names}
    logs, places, read = FakeLogs(random_state, texts), {}, []
    for _ in range(60):
        logs.grow()
        read += [text for _, text in read_lines(logs, "job", places)]
    for stream, lines in texts.items():
        assert [text for text in read if text.startswith(stream)] == lines
    assert len(read) == sum(map(len, texts.values()))
