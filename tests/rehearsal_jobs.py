"""What the tests of the rehearsal have in common: clients, archives of code, and jobs to ask for."""

import io
import json
import tarfile
import time
from types import SimpleNamespace

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.loaders import Loader

BUCKET = "bucket"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/mxnet-training:1.9.0-cpu-py38"
LOG_GROUP = "/aws/sagemaker/TrainingJobs"
ONE_ATTEMPT = Config(retries={"total_max_attempts": 1})
LOADER = Loader(include_default_search_paths=True)  # it reads each service's model once


def clients_of(rehearsal):
    """Return boto3's clients of a rehearsal, and make a bucket."""
    services = {name: client_of(rehearsal, name) for name in ("s3", "logs", "sagemaker")}
    services["s3"].create_bucket(Bucket=BUCKET)
    return SimpleNamespace(rehearsal=rehearsal, **services)


def client_of(rehearsal, service, config=ONE_ATTEMPT, **keys):
    """Return one client, as the rehearsal's environment would make boto3 return it."""
    environment = {**rehearsal.environment, **keys}
    botocore_session = botocore.session.Session()
    botocore_session.register_component("data_loader", LOADER)
    session = boto3.Session(
        environment["AWS_ACCESS_KEY_ID"],
        environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
        botocore_session=botocore_session,
    )
    return session.client(service, endpoint_url=environment["AWS_ENDPOINT_URL"], config=config)


def error_of(call, *arguments, **keywords):
    """Return code and message of the error that a call must end with."""
    with pytest.raises(ClientError) as caught:
        call(*arguments, **keywords)
    return caught.value.response["Error"]["Code"], caught.value.response["Error"]["Message"]


def archive_of(files):
    """Return a ``.tar.gz`` of files: name -> text, or a TarInfo -> bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            content = content.encode() if isinstance(content, str) else content
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def request_for(clients, name, script="print('hello')", parameters=None, **fields):
    """Store a script and return a request for a job that runs it."""
    files = script if isinstance(script, dict) else {"train.py": script}
    key = f"code/{name}/sourcedir.tar.gz"
    clients.s3.put_object(Bucket=BUCKET, Key=key, Body=archive_of(files))
    hyperparameters = {
        "sagemaker_program": json.dumps("train.py"),
        "sagemaker_submit_directory": json.dumps(f"s3://{BUCKET}/{key}"),
        **(parameters or {}),
    }
    return {
        "TrainingJobName": name,
        "RoleArn": clients.rehearsal.role,
        "AlgorithmSpecification": {
            "TrainingImage": IMAGE,
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": "valid_error", "Regex": "valid_error=([0-9.]+)"}],
        },
        "HyperParameters": hyperparameters,
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/output"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
        "StoppingCondition": {"MaxRuntimeInSeconds": 600},
        **fields,
    }


def channel(name, uri):
    """Return a channel of data under a prefix of S3."""
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri}}
    return {"ChannelName": name, "DataSource": source}


def run_job(clients, name, script="print('hello')", **options):
    """Run a job to its end and return its record."""
    clients.sagemaker.create_training_job(**request_for(clients, name, script, **options))
    return ended(clients, name)


def ended(clients, name, timeout=30):
    """Wait until a job has ended and return its record."""
    return until(lambda: described(clients, name, "Completed", "Failed", "Stopped"), timeout)


def described(clients, name, *statuses):
    """Return a job's record if its status or secondary status is one of these, else None."""
    record = clients.sagemaker.describe_training_job(TrainingJobName=name)
    return record if {record["TrainingJobStatus"], record["SecondaryStatus"]} & set(statuses) else None


def until(find, timeout=30):
    """Call a function until it returns something true, and return that."""
    deadline = time.monotonic() + timeout
    while not (found := find()):
        assert time.monotonic() < deadline, f"nothing within {timeout} s"
        time.sleep(0.02)
    return found


def log_lines(clients, name):
    """Return every line that a job has printed so far."""
    place = {"logGroupName": LOG_GROUP, "logStreamNamePrefix": f"{name}/"}
    pages = clients.logs.get_paginator("filter_log_events").paginate(**place)
    return [event["message"] for page in pages for event in page["events"]]


def unpacked(clients, uri):
    """Return the files of a ``.tar.gz`` in S3: name -> bytes."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    body = clients.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}
