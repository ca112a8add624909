"""SageMakerLauncher against scripted answers: what only AWS can say, and lines that come in pages or late."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError
from botocore.stub import Stubber

from hpo_helpers.jobs import JobStatus, sagemaker
from hpo_helpers.jobs.sagemaker import polling
from hpo_helpers.jobs.sagemaker.logs import LogReader, read_all
from hpo_helpers.jobs.sagemaker.pace import Pace
from hpo_helpers.jobs.sagemaker.upload import ensure_bucket
from hpo_helpers.jobs.sagemaker import SageMakerError, SageMakerLauncher, image_uri

ROLE = "arn:aws:iam::123456789012:role/service-role/AmazonSageMaker-ExecutionRole-20261121"
PATIENCE = 20  # seconds, for what takes none
NOW = 1_800_000_000  # seconds since 1970
JOB_ARN = "arn:aws:sagemaker:eu-west-1:123456789012:training-job/x"


@pytest.fixture
def aws(monkeypatch, tmp_path):
    """Script what AWS answers: a stubber for each client. No call leaves this process."""
    for name, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HPO_HELPERS_CACHE", str(tmp_path))
    kinds = {"sagemaker": "sagemaker", "logs": "logs", "s3": "s3"}
    kinds |= {"polled_sagemaker": "sagemaker", "polled_logs": "logs"}
    config = Config(region_name="eu-west-1", retries={"total_max_attempts": 1})
    clients = {name: boto3.client(kind, config=config) for name, kind in kinds.items()}
    stubs = SimpleNamespace(**{name: Stubber(client) for name, client in clients.items()})
    for stub in vars(stubs).values():
        stub.activate()
    made = SimpleNamespace(**clients, region="eu-west-1", account="123456789012", skew=0.0)
    monkeypatch.setattr(sagemaker, "connect", lambda: made)
    monkeypatch.setattr(sagemaker, "stop_orphans", lambda client, name: [])
    monkeypatch.setattr(SageMakerLauncher, "_upload", lambda self: ("s3://bucket/code.tar.gz", None))
    monkeypatch.setattr(polling, "STATUS_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(polling, "LOG_SECONDS", 0.0)
    monkeypatch.setattr(sagemaker, "LOG_SECONDS_OF_A_JOB", (0.0, 0.0))
    monkeypatch.setattr(sagemaker, "QUOTA_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(sagemaker, "LATE_SECONDS", 0.0)
    monkeypatch.setattr(Pace, "back_off", lambda self, longest=30.0: None)
    return stubs


@pytest.fixture
def launcher(aws):
    launcher = SageMakerLauncher(role=ROLE, name="hpo-test")
    yield launcher
    launcher._billed.clear()  # the stubs answer no more
    launcher.close()


def created(aws, n_jobs=1):
    for _ in range(n_jobs):
        aws.sagemaker.add_response("create_training_job", {"TrainingJobArn": JOB_ARN})


def listed(aws, name, status, secondary=None):
    job = {
        "TrainingJobName": name,
        "TrainingJobArn": JOB_ARN,
        "CreationTime": NOW,
        "TrainingJobStatus": status,
    }
    summary = {**job, "SecondaryStatus": secondary or status}
    aws.polled_sagemaker.add_response("list_training_jobs", {"TrainingJobSummaries": [summary]})


def described(aws, name, status, **more):
    description = {
        "TrainingJobName": name,
        "TrainingJobArn": JOB_ARN,
        "ModelArtifacts": {"S3ModelArtifacts": "s3://bucket/model"},
        "TrainingJobStatus": status,
        "SecondaryStatus": status,
        "StoppingCondition": {"MaxRuntimeInSeconds": 600},
        "CreationTime": NOW,
        "TrainingStartTime": NOW,
    }
    aws.polled_sagemaker.add_response("describe_training_job", {**description, **more})


def streams(aws, *names):
    aws.polled_logs.add_response(
        "describe_log_streams", {"logStreams": [{"logStreamName": name} for name in names]}
    )


def refuse(stub, operation, code, message, **response_meta):
    stub.add_client_error(operation, code, message, http_status_code=400, response_meta=response_meta or None)


# What ends at once, and what it says.


@pytest.mark.parametrize(
    ("code", "message", "said"),
    [
        (
            "AccessDeniedException",
            "User: arn:aws:iam::123456789012:user/ann is not authorized to perform: sagemaker:CreateTrainingJob",
            "AWS denies sagemaker:CreateTrainingJob: grant it as notebooks/sagemaker_policy.json does",
        ),
        (
            "AccessDeniedException",
            "User: arn:aws:iam::123456789012:user/ann is not authorized to perform: iam:PassRole on resource: r",
            "grant yourself iam:PassRole on that role",
        ),
        (
            "ValidationException",
            f"Could not assume role {ROLE}. Please ensure that the role exists and allows principal",
            "set role= to the ARN of an execution role that exists",
        ),
        (
            "ValidationException",
            "Cannot find repository: mxnet in registry ID: 763104351884 Please check if your ECR repository exists",
            "set image_uri= to an image of ECR in the same region",
        ),
        (
            "ValidationException",
            "1 validation error detected: Value 'ml.huge' at 'resourceConfig.instanceType' failed to satisfy",
            "set instance_type= to one that SageMaker has",
        ),
        (
            "ResourceLimitExceeded",
            "The account-level service limit 'ml.m5.large for training job usage' is 0 Instances, with current "
            "utilization of 0 Instances and a request delta of 1 Instances.",
            "the quota is 0: ask for more under Service Quotas, or set instance_type=",
        ),
        ("ExpiredTokenException", "The security token is expired", "renew them, by `aws sso login`"),
    ],
)
def test_a_refusal_ends_at_once_and_says_what_helps(aws, launcher, code, message, said):
    refuse(aws.sagemaker, "create_training_job", code, message)
    with pytest.raises(SageMakerError) as caught:
        launcher.submit({}, 3)
    assert said in str(caught.value) and message.split(" ")[-1] in str(caught.value) + message * (
        code[0] == "E"
    )
    assert launcher._billed == set() and launcher._running == {}


def test_a_denied_poll_ends_the_wait(aws, launcher):
    created(aws)
    refuse(aws.polled_sagemaker, "list_training_jobs", "AccessDeniedException", "not authorized")
    job = launcher.submit({}, 3)
    with pytest.raises(SageMakerError, match="AWS denies sagemaker:ListTrainingJobs: grant it"):
        launcher.wait([job], 5)


def test_denied_logs_end_the_wait(aws, launcher):
    created(aws)
    listed(aws, f"{launcher.run}-000", "InProgress")
    refuse(aws.polled_logs, "describe_log_streams", "AccessDeniedException", "not authorized")
    job = launcher.submit({}, 3)
    with pytest.raises(SageMakerError, match="AWS denies logs:DescribeLogStreams: grant it"):
        launcher.wait([job], 5)


def test_a_job_that_may_not_be_stopped_is_named(aws, launcher):
    created(aws)
    job = launcher.submit({}, 3)
    refuse(aws.sagemaker, "stop_training_job", "AccessDeniedException", "not authorized")
    with pytest.raises(SageMakerError, match=f"could not be stopped, max_run will end them: {job.name}"):
        launcher.close()


def test_without_credentials_or_region_it_says_what_to_do(monkeypatch, tmp_path):
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_PROFILE",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SageMakerError, match="knows no region: set AWS_DEFAULT_REGION"):
        SageMakerLauncher(role=ROLE)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with pytest.raises(SageMakerError, match="finds no credentials that it can use: run `aws configure`"):
        SageMakerLauncher(role=ROLE)


def test_without_boto3_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ImportError, match=r'needs boto3: run `pip install "hpo_helpers\[aws\]"`'):
        SageMakerLauncher(role=ROLE)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"role": None}, ValueError, "role must be the ARN of the role that the jobs run as"),
        ({"role": "MyRole"}, ValueError, "got 'MyRole'"),
        ({"name": "a_b"}, ValueError, "name must be 1 to 40 letters, digits and hyphens inside"),
        ({"name": "../x"}, ValueError, "got '../x'"),
        ({"name": "x" * 41}, ValueError, "name must be 1 to 40"),
        ({"max_run": 0}, ValueError, "max_run must be a positive whole number, got 0"),
        ({"max_jobs": 1.5}, ValueError, "max_jobs must be a positive whole number, got 1.5"),
        ({"n_workers": True}, ValueError, "n_workers must be a positive whole number, got True"),
        ({"price_per_hour": -1}, ValueError, "price_per_hour must be 0 or more, got -1"),
        ({"fixed": {"epochs": 3}}, ValueError, "epochs is given to each job, not in fixed"),
        ({"script": "missing.py"}, FileNotFoundError, "there is no file 'missing.py'"),
        ({"data": "missing"}, FileNotFoundError, "there is no folder 'missing'"),
        ({"script": __file__.replace(".py", ".sh")}, FileNotFoundError, "there is no file"),
        ({"dependencies": ["missing.txt"]}, FileNotFoundError, "there is no file 'missing.txt'"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_call(settings, error, said):
    with pytest.raises(error, match=said):
        SageMakerLauncher(**{"role": ROLE, **settings})


def test_only_python_scripts_are_taken(tmp_path):
    (tmp_path / "train.sh").write_text("exit")
    with pytest.raises(ValueError, match="script must be a Python script"):
        SageMakerLauncher(tmp_path / "train.sh", role=ROLE)


# What is sent.


def test_a_request_is_what_sagemaker_takes(aws, launcher):
    request = launcher.training_job({"learning_rate": 0.1, "network": "cnn"}, 9, "hpo-test-job")
    assert request["HyperParameters"] == {
        "learning_rate": "0.1",
        "network": '"cnn"',
        "epochs": "9",
        "sagemaker_program": '"train_mnist.py"',
        "sagemaker_submit_directory": '"s3://bucket/code.tar.gz"',
        "sagemaker_region": '"eu-west-1"',
    }
    assert request["AlgorithmSpecification"]["TrainingImage"] == image_uri("eu-west-1")
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 600}
    assert {tag["Key"] for tag in request["Tags"]} == {
        "hpo-helpers:name",
        "hpo-helpers:owner",
        "hpo-helpers:process",
    }
    (definition,) = request["AlgorithmSpecification"]["MetricDefinitions"]
    import re

    line = "epoch=3 valid_error=5.2e-02 test_error=0.0520 seconds=0.34"
    assert re.findall(definition["Regex"], line) == ["5.2e-02"]
    assert re.findall(definition["Regex"], "my_valid_error=1") == []
    assert "EnableManagedSpotTraining" not in request and "InputDataConfig" not in request


def test_every_request_fits_the_service_model(aws):
    model = aws.sagemaker.client.meta.service_model.operation_model("CreateTrainingJob").input_shape
    launcher = SageMakerLauncher(role=ROLE, name="x" * 40, spot=True, n_workers=1)
    launcher._ids = iter([99_999])
    request = launcher.training_job({}, 1, f"{launcher.run}-99999")
    problems = list(violations(request, model))
    assert problems == []
    assert list(violations({**request, "TrainingJobName": "a_b"}, model)) == ["a_b"]
    launcher.close()


def violations(value, shape):
    """Yield what does not keep to a pattern, an enumeration or a length of the service's model."""
    import re

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
        pattern = shape.metadata.get("pattern", "").replace(r"\p{L}\p{Z}\p{N}", r"\w ")
        too_long = len(value) > shape.metadata.get("max", 10**6)
        if (
            too_long
            or not re.fullmatch(pattern or ".*", value, re.DOTALL)
            or value not in (shape.enum or [value])
        ):
            yield value


def test_spot_asks_for_checkpoints_and_gives_the_script_the_folder(aws):
    launcher = SageMakerLauncher(role=ROLE, name="hpo-spot", spot=True, max_run=900)
    request = launcher.training_job({}, 9, "hpo-spot-job")
    assert request["EnableManagedSpotTraining"] is True
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 900, "MaxWaitTimeInSeconds": 4500}
    uri = "s3://sagemaker-hpo-eu-west-1-123456789012/hpo-spot/checkpoints/hpo-spot-job"
    assert request["CheckpointConfig"] == {"S3Uri": uri, "LocalPath": "/opt/ml/checkpoints"}
    assert request["HyperParameters"]["checkpoint"] == '"/opt/ml/checkpoints"'


def test_hyperparameters_that_sagemaker_does_not_take_are_refused(aws, launcher):
    import numpy as np

    assert (
        launcher.training_job({"x": np.float64(0.5), "n": np.int64(3)}, 1, "hpo-x")["HyperParameters"]["n"]
        == "3"
    )
    with pytest.raises(
        TypeError, match="the hyperparameter 'x' must be a number, a string, a list or a dict"
    ):
        launcher.submit({"x": object()}, 1)
    with pytest.raises(ValueError, match="'x' must have at most 2500 characters in JSON, got 2501"):
        launcher.submit({"x": "a" * 2499}, 1)
    with pytest.raises(ValueError, match="at most 100 hyperparameters, got 104"):
        launcher.submit({f"x{i}": i for i in range(100)}, 1)
    with pytest.raises(ValueError, match="must have 1 to 256 characters, got ''"):
        launcher.submit({"": 1}, 1)


@pytest.mark.parametrize(
    ("region", "instance_type", "address"),
    [
        (
            "us-east-1",
            "ml.m5.large",
            "763104351884.dkr.ecr.us-east-1.amazonaws.com/mxnet-training:1.9.0-cpu-py38",
        ),
        (
            "eu-south-1",
            "ml.g4dn.xlarge",
            "692866216735.dkr.ecr.eu-south-1.amazonaws.com/mxnet-training:1.9.0-gpu-py38",
        ),
        (
            "cn-north-1",
            "ml.c5.large",
            "727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn/mxnet-training:1.9.0-cpu-py38",
        ),
    ],
)
def test_the_image_is_the_regions(region, instance_type, address):
    assert image_uri(region, instance_type) == address


def test_the_default_bucket_is_made_in_its_region_and_nobody_elses_is_used(aws, launcher):
    name, owner = "sagemaker-hpo-eu-west-1-123456789012", {"ExpectedBucketOwner": "123456789012"}
    head = {"Bucket": name, **owner}
    aws.s3.add_client_error("head_bucket", "404", "Not Found", http_status_code=404, expected_params=head)
    place = {"CreateBucketConfiguration": {"LocationConstraint": "eu-west-1"}}
    aws.s3.add_response("create_bucket", {}, {"Bucket": name, **place})
    ensure_bucket(launcher._clients, name)
    aws.s3.add_client_error("head_bucket", "403", "Forbidden", http_status_code=403, expected_params=head)
    with pytest.raises(
        SageMakerError, match=f"the bucket '{name}' is another account's, or you lack s3:ListBucket"
    ):
        ensure_bucket(launcher._clients, name)
    aws.s3.assert_no_pending_responses()


# What is heard.


def test_a_spot_instance_that_is_taken_away_costs_no_report_and_doubles_none(aws, launcher, monkeypatch):
    name, status = f"{launcher.run}-000", {"TrainingJobStatus": "InProgress", "SecondaryStatus": "Training"}
    lines = [f"epoch={epoch} valid_error={0.6 - epoch / 10:.1f}" for epoch in (1, 2, 3, 4)]
    logs = fake_logs(aws, monkeypatch, {f"{name}/algo-1-1": lines[:2]})
    monkeypatch.setattr(
        aws.polled_sagemaker.client,
        "list_training_jobs",
        lambda **request: {"TrainingJobSummaries": [{"TrainingJobName": name, **status}]},
    )
    created(aws)
    job, epochs = launcher.submit({}, 4), []

    def listen(until):
        deadline = time.monotonic() + PATIENCE
        while not until():
            assert time.monotonic() < deadline
            launcher.wait([job], 0.01)
            epochs.extend(report.epoch for report in job.new_reports())

    listen(lambda: epochs == [1, 2])
    for status["SecondaryStatus"] in ("Interrupted", "Starting"):
        listen(lambda: job.secondary_status == status["SecondaryStatus"])
    logs.add(f"{name}/algo-1-2", lines)  # it goes on from its checkpoint, and says again what it said
    status["SecondaryStatus"] = "Training"
    listen(lambda: epochs == [1, 2, 3, 4])
    assert not job.is_over
    status.update(TrainingJobStatus="Completed", SecondaryStatus="Completed")
    listen(lambda: job.finished)
    assert (epochs, job.status) == ([1, 2, 3, 4], JobStatus.COMPLETED)


def test_no_capacity_for_spot_is_a_failure(aws, launcher):
    ended(aws, launcher, "Stopped", SecondaryStatus="MaxWaitTimeExceeded")
    job = finished(launcher)
    assert (job.status, job.error[:20]) == (JobStatus.FAILED, "no spot instance was")


def test_a_job_stopped_from_outside_is_stopped(aws, launcher):
    ended(aws, launcher, "Stopped")
    assert finished(launcher).status is JobStatus.STOPPED


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("AlgorithmError: ExecuteUserScriptError: ValueError: cannot pull the images", ""),
        ("ClientError: Cannot pull the container image: no such tag.", "set image_uri="),
        (
            "ClientError: Data download failed: S3 HeadObject 403 Access Denied",
            "grant the execution role s3:GetObject",
        ),
        ("InternalServerError: We encountered an internal error. Please try again.", ""),
        ("CapacityError: Unable to provision requested ML compute capacity.", ""),
    ],
)
def test_a_failure_keeps_its_reason_and_gets_advice_where_it_is_no_fault_of_the_script(
    aws, launcher, reason, advice
):
    ended(aws, launcher, "Failed", FailureReason=reason)
    job = finished(launcher)
    assert job.status is JobStatus.FAILED and job.error.startswith(reason)
    assert advice in job.error and bool(advice) == (job.error != reason)


def ended(aws, launcher, status, **more):
    created(aws)
    listed(aws, f"{launcher.run}-000", status)
    described(aws, f"{launcher.run}-000", status, **more)
    for _ in range(20):
        streams(aws)


def finished(launcher, job=None):
    job = job or launcher.submit({}, 3)
    deadline = time.monotonic() + PATIENCE
    while not job.finished:
        assert time.monotonic() < deadline
        launcher.wait([job], 1)
    return job


def test_a_job_that_somebody_deleted_has_failed(aws, launcher, monkeypatch):
    monkeypatch.setattr(polling, "UNLISTED_SECONDS", 0.0)
    created(aws)
    aws.polled_sagemaker.add_response("list_training_jobs", {"TrainingJobSummaries": []})
    refuse(
        aws.polled_sagemaker, "describe_training_job", "ValidationException", "Requested resource not found."
    )
    for _ in range(20):
        streams(aws)
    job = finished(launcher)
    assert (job.status, job.error) == (JobStatus.FAILED, "the job is gone: somebody deleted it")


def test_a_job_that_is_not_listed_yet_is_waited_for(aws, launcher):
    name = f"{launcher.run}-000"
    created(aws)
    aws.polled_sagemaker.add_response("list_training_jobs", {"TrainingJobSummaries": []})
    refuse(
        aws.polled_sagemaker, "describe_training_job", "ValidationException", "Requested resource not found."
    )
    aws.polled_sagemaker.add_response("list_training_jobs", {"TrainingJobSummaries": []})
    described(aws, name, "InProgress")
    listed(aws, name, "Completed")
    for _ in range(5):
        streams(aws)
    assert finished(launcher).status is JobStatus.COMPLETED
    aws.polled_sagemaker.assert_no_pending_responses()


def test_statuses_come_in_pages_and_no_more_are_read_than_needed(aws, launcher):
    name = f"{launcher.run}-000"
    created(aws)
    aws.polled_sagemaker.add_response("list_training_jobs", {"TrainingJobSummaries": [], "NextToken": "more"})
    request = {
        "NameContains": launcher.run,
        "SortBy": "CreationTime",
        "SortOrder": "Descending",
        "MaxResults": 100,
    }
    job = {
        "TrainingJobName": name,
        "TrainingJobArn": JOB_ARN,
        "CreationTime": NOW,
        "TrainingJobStatus": "Completed",
    }
    answer = {"TrainingJobSummaries": [job], "NextToken": "still more"}
    aws.polled_sagemaker.add_response("list_training_jobs", answer, {**request, "NextToken": "more"})
    for _ in range(5):
        streams(aws)
    assert finished(launcher).status is JobStatus.COMPLETED


def test_a_lost_answer_is_no_lost_job(aws, launcher):
    refuse(aws.sagemaker, "create_training_job", "ResourceInUse", "names must be unique", RetryAttempts=1)
    job = launcher.submit({}, 3)
    assert job.name == f"{launcher.run}-000" and launcher._billed == {job.name}


def test_a_network_that_fails_while_a_job_is_made_leaves_no_job_behind(aws, launcher, monkeypatch):
    def fail(**request):
        raise EndpointConnectionError(endpoint_url="https://sagemaker.eu-west-1.amazonaws.com")

    monkeypatch.setattr(aws.sagemaker.client, "create_training_job", fail)
    for _ in range(2):
        refuse(aws.sagemaker, "stop_training_job", "ValidationException", "not found")
    with pytest.raises(EndpointConnectionError):
        launcher.submit({}, 3)
    launcher.close()
    aws.sagemaker.assert_no_pending_responses()


@pytest.mark.parametrize("code", ["ThrottlingException", "InternalFailure", "network"])
def test_a_poll_that_fails_for_now_is_made_again(aws, launcher, monkeypatch, code):
    name = f"{launcher.run}-000"
    created(aws)
    if code == "network":
        real, failures = aws.polled_sagemaker.client.list_training_jobs, iter(range(2))

        def fail_twice(**request):
            if next(failures, None) is not None:
                raise EndpointConnectionError(endpoint_url="https://sagemaker.eu-west-1.amazonaws.com")
            return real(**request)

        monkeypatch.setattr(aws.polled_sagemaker.client, "list_training_jobs", fail_twice)
    else:
        status = 400 if code == "ThrottlingException" else 500
        aws.polled_sagemaker.add_client_error(
            "list_training_jobs", code, "Rate exceeded", http_status_code=status
        )
        aws.polled_logs.add_client_error(
            "describe_log_streams", code, "Rate exceeded", http_status_code=status
        )
    listed(aws, name, "Completed")
    for _ in range(5):
        streams(aws)
    assert finished(launcher).status is JobStatus.COMPLETED


def test_a_network_that_stays_away_is_an_error_in_the_end(aws, launcher, monkeypatch):
    monkeypatch.setattr(polling, "PATIENCE", -1.0)
    created(aws)
    aws.polled_sagemaker.add_client_error("list_training_jobs", "ThrottlingException", "Rate exceeded")
    job = launcher.submit({}, 3)
    with pytest.raises(SageMakerError, match="Rate exceeded"):
        launcher.wait([job], 5)


def test_lines_that_come_after_the_end_are_not_lost(aws, launcher, monkeypatch):
    monkeypatch.setattr(sagemaker, "LATE_SECONDS", 30.0)
    name = f"{launcher.run}-000"
    logs = fake_logs(aws, monkeypatch, {f"{name}/algo-1-1": ["epoch=1 valid_error=0.5"]})
    created(aws)
    listed(aws, name, "Completed")
    job = launcher.submit({}, 3)
    values = []
    for late in ("epoch=2 valid_error=0.4", "epoch=3 valid_error=0.3", None):
        launcher.wait([job], 5)
        values += [report.value for report in job.new_reports()]
        if late is not None:
            assert not job.finished
            logs.add(f"{name}/algo-1-1", [late])
    assert values == [0.5, 0.4, 0.3]
    assert (job.is_over, job.status) == (True, JobStatus.COMPLETED)


def test_a_job_that_ends_early_is_waited_for_no_longer_than_lines_may_take(aws, launcher, monkeypatch):
    monkeypatch.setattr(sagemaker, "LATE_SECONDS", 0.5)
    name = f"{launcher.run}-000"
    fake_logs(aws, monkeypatch, {f"{name}/algo-1-1": ["epoch=1 valid_error=0.5"]})
    created(aws)
    listed(aws, name, "Completed")
    start = time.monotonic()
    finished(launcher)
    assert 0.5 <= time.monotonic() - start < 5


def test_the_last_words_of_the_container_end_the_wait_for_lines(aws, launcher, monkeypatch):
    monkeypatch.setattr(sagemaker, "LATE_SECONDS", 1000.0)
    name = f"{launcher.run}-000"
    words = "2026-11-21 15:04:05,123 sagemaker-training-toolkit INFO     Reporting training SUCCESS"
    fake_logs(aws, monkeypatch, {f"{name}/algo-1-1": ["epoch=1 valid_error=0.5", words]})
    created(aws)
    listed(aws, name, "Completed")
    assert finished(launcher).status is JobStatus.COMPLETED


def test_a_report_is_never_made_before_its_job_nor_after_it_was_read(aws, launcher):
    launcher.submit = None
    job = sagemaker.SageMakerJob(launcher, 0, {}, 3)
    clock = time.time()
    lines = [(clock - 100, 1), (clock + 100, 2), (clock - 100, 3)]
    job.take_lines([sagemaker.Line("s", timestamp, f"epoch={n} valid_error=0.1") for timestamp, n in lines])
    times = [report.time for report in job._reports]
    assert job._submitted == times[0] <= times[1] <= launcher.clock() and times[2] == times[1]


# Lines.


def fake_logs(aws, monkeypatch, streams):
    """Let CloudWatch Logs have these streams, whole."""
    logs = FakeLogs(random.Random(0), {})
    for stream, lines in streams.items():
        logs.add(stream, lines)
    monkeypatch.setattr(aws.polled_logs.client, "describe_log_streams", logs.describe_log_streams)
    monkeypatch.setattr(aws.polled_logs.client, "get_log_events", logs.get_log_events)
    return logs


class FakeLogs:
    """Streams that grow while they are read, in pages of any length, some of them empty."""

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

    def describe_log_streams(self, logGroupName, logStreamNamePrefix):
        return {
            "logStreams": [{"logStreamName": stream} for stream, n_lines in self.n_there.items() if n_lines]
        }

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
    texts = {
        stream: [f"{stream} {i}" for i in range(random_state.randint(0, 40))] for stream in ("job/1", "job/2")
    }
    logs = FakeLogs(random_state, texts)
    reader, read = LogReader(logs, "job"), []
    for _ in range(60):
        logs.grow()
        read += [line.text for line in reader.step()]
    reader.look_again()
    while not reader.at_end:
        read += [line.text for line in reader.step()]
    assert sorted(read) == sorted(sum(texts.values(), []))
    for stream, lines in texts.items():
        assert [text for text in read if text.startswith(stream)] == lines
    assert sorted(line.text for line in read_all(logs, "job")) == sorted(read)


def test_calls_are_spaced_and_back_off_while_nothing_happens():
    pace = Pace(1.0, 4.0)
    intervals = []
    for _ in range(6):
        pace.called()
        intervals.append(pace.due - pace._last)
    assert intervals == [1.5, 2.25, 3.375, 4.0, 4.0, 4.0]
    pace.hurry()
    assert pace.due - pace._last == 1.0 and not pace.is_due()


def test_the_script_sends_what_it_needs_and_no_more():
    assert {path.name for path in map(Path, sagemaker.code_files(None, ()))} == {
        "train_mnist.py",
        "mxnet_compat.py",
    }


def test_lines_are_looked_for_once_more_when_the_job_has_ended(aws, launcher, monkeypatch):
    name = f"{launcher.run}-000"
    logs = fake_logs(aws, monkeypatch, {})
    created(aws)
    for _ in range(3):
        listed(aws, name, "InProgress", "Training")
    job = launcher.submit({}, 2)
    for _ in range(3):
        launcher.wait([job], 0.0)
    launcher._polling._log_pace = Pace(0.3, 0.3)  # it is not this job's turn when its end is seen
    logs.add(f"{name}/algo-1-1", ["epoch=1 valid_error=0.5"])  # its stream appears with its end
    listed(aws, name, "Completed")
    finished(launcher, job)
    assert [report.value for report in job.new_reports()] == [0.5]
