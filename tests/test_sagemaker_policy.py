"""notebooks/sagemaker_policy.json: it allows each call that launcher and lesson make, and no other."""

from __future__ import annotations

import ast
import fnmatch
import json
import re
import threading
from pathlib import Path

import boto3
import botocore.client
import nbformat
import pytest
from botocore.session import get_session
from service_models import read_once

from hpo_helpers.jobs.sagemaker.errors import ACTIONS
from hpo_helpers.jobs.rehearsal import Rehearsal
from hpo_helpers.jobs.sagemaker import (
    SageMakerLauncher,
    delete_created,
    jobs_from_logs,
    jobs_from_search,
    list_created,
)

ROOT = Path(__file__).parents[1]
POLICY = json.loads((ROOT / "notebooks" / "sagemaker_policy.json").read_text(encoding="utf-8"))
ROLE = "arn:aws:iam::123456789012:role/service-role/AmazonSageMaker-ExecutionRole-20261121"
SERVICES = ("sagemaker", "logs", "s3", "sts")
OPERATIONS = {service: set(get_session().get_service_model(service).operation_names) for service in SERVICES}

#: What boto3 adds to its clients beside the operations: the operations behind it.
TRANSFERS = {"upload_file": "PutObject", "upload_fileobj": "PutObject", "download_file": "GetObject"}
#: What a call needs besides its own permission.
IMPLIED = {
    "CreateTrainingJob": {"iam:PassRole", "sagemaker:AddTags"},
    "CreateHyperParameterTuningJob": {"iam:PassRole"},
}
#: A caller may always ask who it is.
NEEDS_NOTHING = {"GetCallerIdentity"}


def actions_of(service: str, operation: str) -> set[str]:
    """Return the permissions that a call needs."""
    if operation in NEEDS_NOTHING:
        return set()
    return {ACTIONS.get(operation, f"{service}:{operation}")} | IMPLIED.get(operation, set())


def statements(action: str) -> list[dict]:
    """Return the statements of the policy that allow an action."""
    return [statement for statement in POLICY["Statement"] if action in actions_in(statement)]


def actions_in(statement: dict) -> list[str]:
    """Return the actions of a statement, which may be one or a list."""
    return [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]


def allowed_actions() -> set[str]:
    """Return all that the policy allows."""
    return {action for statement in POLICY["Statement"] for action in actions_in(statement)}


def is_allowed(action: str, resource: str) -> bool:
    """Whether the policy allows an action on a resource; ``*`` matches anything, as in IAM."""
    return any(fnmatch.fnmatchcase(resource, statement["Resource"]) for statement in statements(action))


# What is written is what is called.


def calls_in(source: str) -> set[tuple[str, str]]:
    """Find calls such as ``clients.s3.put_object(…)`` and ``logs.get_paginator("filter_log_events")``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        service, method = service_of(node.func.value), node.func.attr
        if method == "get_paginator":
            method = node.args[0].value
        operation = TRANSFERS.get(method, "".join(part.capitalize() for part in method.split("_")))
        if service and operation in OPERATIONS[service]:
            found.add((service, operation))
    return found


def service_of(node: ast.expr) -> str | None:
    """Tell which client an expression is, by its name, or by the name that it is made with."""
    if isinstance(node, ast.Call):
        named = (
            getattr(node.func, "attr", "") == "client"
            and node.args
            and isinstance(node.args[0], ast.Constant)
        )
        return node.args[0].value if named and node.args[0].value in SERVICES else None
    name = getattr(node, "attr", getattr(node, "id", "")).strip("_").removeprefix("polled_")
    return name if name in SERVICES else None


def sources() -> dict[str, str]:
    """Return the code of the launcher and of the lesson with its solutions."""
    paths = [*(ROOT / "hpo_helpers/jobs").glob("_sagemaker_*.py"), ROOT / "hpo_helpers/jobs/sagemaker.py"]
    found = {path.name: path.read_text(encoding="utf-8") for path in paths}
    for path in [
        *(ROOT / "notebooks").glob("11_*.ipynb"),
        *(ROOT / "notebooks/solutions").glob("11_*.ipynb"),
    ]:
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        found[path.name] = re.sub(r"^(\s*)[%!].*", r"\1pass", "\n".join(cells), flags=re.MULTILINE)
    return found


def test_the_policy_has_what_is_called_and_no_more() -> None:
    called = {call for source in sources().values() for call in calls_in(source)}
    assert len(called) > 20
    needed = {action for service, operation in called for action in actions_of(service, operation)}
    assert allowed_actions() == needed


def test_calls_are_found_in_every_form() -> None:
    source = """
self._clients.polled_sagemaker.list_training_jobs(MaxResults=100)
pages = logs.get_paginator("filter_log_events").paginate()
boto3.client("sts").get_caller_identity()
s3.upload_file("a", "b", "c")
NO_QUOTA.search("text")
"""
    assert calls_in(source) == {
        ("sagemaker", "ListTrainingJobs"),
        ("logs", "FilterLogEvents"),
        ("sts", "GetCallerIdentity"),
        ("s3", "PutObject"),
    }


def test_only_lists_and_search_which_know_no_resources_are_allowed_on_everything() -> None:
    everywhere = [statement for statement in POLICY["Statement"] if statement["Resource"] == "*"]
    (statement,) = everywhere
    assert all(action.startswith(("sagemaker:List", "sagemaker:Search")) for action in statement["Action"])
    assert "*" not in json.dumps([statement["Action"] for statement in POLICY["Statement"]])
    (passing,) = statements("iam:PassRole")
    assert passing["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
    assert is_allowed("iam:PassRole", ROLE)


# What is really called, and on what.


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Record every call that boto3 makes: service, operation, arguments."""
    recorded = []
    make = botocore.client.BaseClient._make_api_call

    def record(client, operation, arguments):
        if threading.current_thread() is threading.main_thread():  # the rehearsal's own are in others
            recorded.append((client.meta.service_model.service_name, operation, arguments))
        return make(client, operation, arguments)

    read_once(monkeypatch)
    with Rehearsal() as rehearsal:
        for name, value in rehearsal.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HPO_HELPERS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", record)
        yield recorded


def resource_of(operation: str, arguments: dict) -> str:
    """Return the ARN of what a call is about, as IAM sees it."""
    where = "us-east-1:123456789012"
    if "Bucket" in arguments:
        keys = [entry["Key"] for entry in arguments.get("Delete", {}).get("Objects", [])]
        key = arguments.get("Key") or (keys[0] if keys else None)
        return f"arn:aws:s3:::{arguments['Bucket']}" + (f"/{key}" if key else "")
    if "logGroupName" in arguments:
        stream = arguments.get("logStreamName", "")
        return f"arn:aws:logs:{where}:log-group:{arguments['logGroupName']}:log-stream:{stream}"
    if "ResourceArn" in arguments:
        return arguments["ResourceArn"]
    if "TrainingJobName" in arguments:
        return f"arn:aws:sagemaker:{where}:training-job/{arguments['TrainingJobName']}"
    return "*"


def test_every_call_of_a_run_is_allowed_on_what_it_is_made(calls, tmp_path) -> None:
    script, data = tmp_path / "train.py", tmp_path / "data"
    script.write_text("import time; print('epoch=1 valid_error=0.5', flush=True); time.sleep(1000)")
    data.mkdir()
    (data / "a.txt").write_text("a")
    with SageMakerLauncher(script, role=ROLE, data=data, name="hpo-policy") as launcher:
        jobs = [launcher.submit({}, 1), launcher.submit({}, 1)]
        launcher.wait(jobs)
        SageMakerLauncher(
            script, role=ROLE, name="hpo-policy"
        ).close()  # looks for orphans, of which there are none
        jobs[0].stop()
    assert len(jobs_from_logs("hpo-policy")) == len(jobs_from_search("hpo-policy")) == 2
    while "InProgress" in set(jobs_from_search("hpo-policy")["status"]):
        pass
    delete_created(list_created("hpo-policy"))
    refused = [
        (operation, action, resource_of(operation, arguments))
        for service, operation, arguments in calls
        for action in actions_of(service, operation) - IMPLIED["CreateTrainingJob"]
        if not is_allowed(action, resource_of(operation, arguments))
    ]
    assert refused == []
    made = {action for service, operation, _ in calls for action in actions_of(service, operation)}
    by_the_lesson = {"logs:FilterLogEvents"} | {
        f"sagemaker:{what}HyperParameterTuningJob" for what in ("Create", "Delete", "Describe")
    }
    assert allowed_actions() - made == by_the_lesson


def test_iam_takes_the_policy(calls) -> None:
    boto3.setup_default_session()
    created = boto3.client("iam").create_policy(PolicyName="hpo-lesson", PolicyDocument=json.dumps(POLICY))
    assert created["Policy"]["PolicyName"] == "hpo-lesson"
    assert len(json.dumps(POLICY)) < 6144, "the longest that IAM takes"
    boto3.setup_default_session()
