"""Which of the two a notebook is on, AWS or a rehearsal, and what `connect` leaves behind."""

import os
import socket
import sys
import time
from unittest import mock

import boto3
import botocore.exceptions
import pytest

from hpo_helpers.jobs.rehearsal import Rehearsal, connect

VARIABLES = """AWS_ENDPOINT_URL AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE
    AWS_DEFAULT_REGION AWS_REGION AWS_CONTAINER_CREDENTIALS_RELATIVE_URI AWS_CONTAINER_CREDENTIALS_FULL_URI
    NO_PROXY no_proxy""".split()


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch, tmp_path):
    """A reader without an account, on a machine that is not one of AWS."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    boto3.setup_default_session()
    with mock.patch.dict(os.environ):
        yield
    connect.cache_clear()
    boto3.setup_default_session()


def test_without_credentials_it_is_a_rehearsal_and_plain_boto3_leads_there():
    with pytest.raises(botocore.exceptions.NoRegionError):
        boto3.client("sagemaker")
    place = connect()
    with place.rehearsal:
        assert connect() is place
        boto3.client("s3").create_bucket(Bucket="kept")
        assert str(place) == repr(place) == "rehearsal on this machine: nothing is billed"
        assert place.is_rehearsal and place.role == place.rehearsal.role
        assert boto3.client("sagemaker").list_training_jobs()["TrainingJobSummaries"] == []
        assert boto3.client("sts").get_caller_identity()["Account"] in place.role
        assert place.rehearsal.calls[-1][1] == "ListTrainingJobs"


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_is_asked(monkeypatch, name):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv(name, "example.org")
    with connect().rehearsal:
        assert os.environ[name] == "example.org,127.0.0.1"
        assert boto3.client("s3").list_buckets()["Buckets"] == []  # nothing is left of an earlier one


def test_a_network_that_swallows_every_packet_delays_the_answer_by_seconds_at_most(monkeypatch):
    """As where no metadata service is: what is asked there is never answered."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{port}")
        start = time.monotonic()
        with connect().rehearsal:
            assert time.monotonic() - start < 6


def test_without_moto_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "moto.server", None)
    with pytest.raises(ImportError, match=r"pip install 'hpo_helpers\[aws\]'"):
        connect()


def test_where_no_process_can_be_forked_it_says_where_it_can(monkeypatch):
    monkeypatch.delattr("os.fork")
    with pytest.raises(NotImplementedError, match="use WSL2 or Google Colab"):
        connect()


# From here on a rehearsal runs, which answers as AWS.


@pytest.fixture(scope="module")
def running():
    with Rehearsal() as rehearsal:
        yield rehearsal


def as_aws(rehearsal, monkeypatch, **others):
    """Set variables as a reader with an account has them; return key and secret."""
    key = "AKIA" + rehearsal.environment["AWS_ACCESS_KEY_ID"]
    variables = {**rehearsal.environment, "AWS_ACCESS_KEY_ID": key, **others}
    for name, text in variables.items():
        monkeypatch.setenv(name, text) if text else monkeypatch.delenv(name, raising=False)
    return [key, variables["AWS_SECRET_ACCESS_KEY"]]


def test_with_credentials_it_is_aws_and_says_which_account_and_that_it_costs(running, monkeypatch, capfd):
    secrets = as_aws(running, monkeypatch, AWS_DEFAULT_REGION="eu-west-1")
    place = connect()
    assert str(place) == "on AWS, account 123456789012, region eu-west-1: jobs cost money"
    assert (place.is_rehearsal, place.rehearsal, place.role) == (False, None, None)
    print(place)
    output = "".join(capfd.readouterr()) + repr(vars(place))
    assert not any(secret in output for secret in secrets)


def test_credentials_that_are_not_accepted_are_no_reason_to_rehearse_in_silence(running, monkeypatch):
    as_aws(running, monkeypatch, AWS_ACCESS_KEY_ID="AKIAEXPIRED")
    with pytest.raises(RuntimeError, match="does not accept them.*AccessDenied") as caught:
        connect()
    assert running.environment["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_credentials_without_a_region_are_asked_for_one(running, monkeypatch):
    as_aws(running, monkeypatch, AWS_DEFAULT_REGION="")
    with pytest.raises(RuntimeError, match="set AWS_DEFAULT_REGION"):
        connect()
