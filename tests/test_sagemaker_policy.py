"""notebooks/sagemaker_policy.json: it allows each call that launcher and lesson make, and no other."""

import fnmatch
import json
from pathlib import Path

import boto3
import botocore.client
import pandas as pd
import pytest
from claims import lesson_code
from service_models import read_once
from test_claims_11 import LESSON, SOLUTIONS, actions

from hpo_helpers.jobs.rehearsal import Rehearsal
from hpo_helpers.jobs.sagemaker import (
    SageMakerLauncher,
    delete_created,
    jobs_from_logs,
    jobs_from_search,
    list_created,
)

FILE = Path(__file__).parents[1] / "notebooks" / "sagemaker_policy.json"
POLICY = json.loads(FILE.read_text(encoding="utf-8"))
ROLE = "arn:aws:iam::123456789012:role/service-role/AmazonSageMaker-ExecutionRole-20261121"
#: Permissions that are not called as the call is.
ACTIONS = {"s3:HeadBucket": "s3:ListBucket", "s3:ListObjectsV2": "s3:ListBucket"}
SAGEMAKER = {"training-job": "TrainingJobName", "hyper-parameter-tuning-job": "HyperParameterTuningJobName"}
#: What a call needs besides its own permission.
IMPLIED = {"iam:PassRole", "sagemaker:AddTags"}


def actions_in(statement: dict) -> list[str]:
    """Return the actions of a statement, which may be one or a list."""
    return [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]


def is_allowed(action: str, resource: str) -> bool:
    """Whether the policy allows an action on a resource; ``*`` matches anything, as in IAM."""
    allowing = [statement for statement in POLICY["Statement"] if action in actions_in(statement)]
    return any(fnmatch.fnmatchcase(resource, statement["Resource"]) for statement in allowing)


def test_only_lists_and_search_which_know_no_resources_are_allowed_on_everything() -> None:
    (statement,) = [statement for statement in POLICY["Statement"] if statement["Resource"] == "*"]
    assert all(action.startswith(("sagemaker:List", "sagemaker:Search")) for action in statement["Action"])
    assert "*" not in json.dumps([statement["Action"] for statement in POLICY["Statement"]])
    (passing,) = [statement for statement in POLICY["Statement"] if "iam:PassRole" in actions_in(statement)]
    assert passing["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
    assert is_allowed("iam:PassRole", ROLE)
    tuner = "arn:aws:sagemaker:us-east-1:123456789012:hyper-parameter-tuning-job/hpo-x"
    assert is_allowed("sagemaker:AddTags", tuner), "who tags a tuning job as it is made needs it for that"


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Record every call that the package makes: its action and what it is about."""
    recorded = []
    make = botocore.client.BaseClient._make_api_call

    def record(client, operation, arguments):
        if client.meta.config.retries.get("mode") == "adaptive":  # not one of the rehearsal's own
            action = f"{client.meta.service_model.service_name}:{operation}"
            recorded.append((ACTIONS.get(action, action), resource_of(arguments)))
        return make(client, operation, arguments)

    read_once(monkeypatch)
    with Rehearsal() as rehearsal:
        for name, value in rehearsal.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HPO_HELPERS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", record)
        yield recorded


def resource_of(arguments: dict) -> str:
    """Return the ARN of what a call is about, as IAM sees it."""
    where = "us-east-1:123456789012"
    if "Bucket" in arguments:
        return f"arn:aws:s3:::{arguments['Bucket']}" + (f"/{arguments['Key']}" if "Key" in arguments else "")
    if "logGroupName" in arguments:
        stream = arguments.get("logStreamName", "")
        return f"arn:aws:logs:{where}:log-group:{arguments['logGroupName']}:log-stream:{stream}"
    for kind, name in SAGEMAKER.items():
        if name in arguments:
            return f"arn:aws:sagemaker:{where}:{kind}/{arguments[name]}"
    return "*"


def test_the_policy_allows_what_a_run_and_the_lesson_call_and_no_more(calls, tmp_path) -> None:
    script, data = tmp_path / "train.py", tmp_path / "data"
    script.write_text("import time; print('epoch=1 valid_error=0.5', flush=True); time.sleep(1000)")
    data.mkdir()
    (data / "a.txt").write_text("a")
    with SageMakerLauncher(script, role=ROLE, data=data, name="hpo-policy") as launcher:
        job = launcher.submit({}, 1)
        launcher.wait([job])
        SageMakerLauncher(script, role=ROLE, name="hpo-policy").close()  # finds no orphan
    assert len(jobs_from_logs("hpo-policy")) == len(jobs_from_search("hpo-policy")) == 1
    while {"InProgress", "Stopping"} & set(jobs_from_search("hpo-policy")["status"]):
        pass
    delete_created(list_created("hpo-policy"))
    delete_created(pd.DataFrame({"kind": ["tuning job"], "name": ["hpo-policy-none"], "status": [None]}))
    made = {call for call in calls if not call[0].startswith("sts:")}  # who may always ask who they are
    assert [call for call in sorted(made) if not is_allowed(*call)] == []
    called = {action for action, _ in made} | actions(lesson_code(LESSON)) | actions(lesson_code(SOLUTIONS))
    allowed = {action for statement in POLICY["Statement"] for action in actions_in(statement)}
    assert allowed == called | IMPLIED
    boto3.setup_default_session()
    created = boto3.client("iam").create_policy(PolicyName="hpo-lesson", PolicyDocument=json.dumps(POLICY))
    assert created["Policy"]["PolicyName"] == "hpo-lesson"
    assert len(json.dumps(POLICY)) < 6144, "the longest that IAM takes"
    boto3.setup_default_session()
