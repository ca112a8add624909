"""Script mode: a script finds in the rehearsal what Amazon's own toolkit gives it, to the letter."""

from __future__ import annotations

import json
import os
import sys

import pytest
import script_mode
from rehearsal_jobs import BUCKET, archive_of, channel, clients_of, ended, run_job

from hpo_helpers.jobs.rehearsal import Rehearsal

RECORDED = json.loads(script_mode.RECORDING.read_text(encoding="utf-8"))
#: What the rehearsal sets beyond toolkit and platform: what images set, where programs and home are.
IMAGES = {
    "HOME",
    "LANG",
    "LC_ALL",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PATH",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONIOENCODING",
    "PYTHONUNBUFFERED",
}


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a folder with 'quotes'")
    with Rehearsal(folder) as rehearsal:
        yield clients_of(rehearsal)


def run_case(clients, case):
    """Run the probe as a job and return what it found."""
    hyperparameters, channels, environment = script_mode.CASES[case]
    key = script_mode.CODE_URI.removeprefix(f"s3://{BUCKET}/")
    clients.s3.put_object(Bucket=BUCKET, Key=key, Body=archive_of(script_mode.FILES))
    clients.s3.put_object(Bucket=BUCKET, Key="data/rows.csv", Body=b"1,2\n")
    inputs = [
        {**channel(name, f"s3://{BUCKET}/data/"), **({"ContentType": kind} if kind else {})}
        for name, kind in channels.items()
    ]
    clients.sagemaker.create_training_job(
        TrainingJobName=script_mode.JOB_NAME,
        RoleArn=clients.rehearsal.role,
        AlgorithmSpecification={"TrainingImage": "image", "TrainingInputMode": "File"},
        HyperParameters=hyperparameters,
        OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/output"},
        ResourceConfig={"InstanceType": script_mode.INSTANCE_TYPE, "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
        Environment=environment,
        **({"InputDataConfig": inputs} if inputs else {}),
    )
    record = ended(clients, script_mode.JOB_NAME)
    assert record["TrainingJobStatus"] == "Completed", record.get("FailureReason")
    base = clients.rehearsal.folder / "jobs" / script_mode.JOB_NAME
    return script_mode.read_probe(base / "model", base), base


@pytest.mark.parametrize("case", script_mode.CASES)
def test_a_script_finds_what_the_toolkit_gave_it(clients, case):
    found, base = run_case(clients, case)
    environment = found.get("environment", {})
    beyond = {name: environment.pop(name) for name in IMAGES & environment.keys()}
    assert found == RECORDED[case]
    assert not environment or beyond.keys() == IMAGES
    assert not list(base.rglob("bad"))  # which one of the values asks the shell to make
    clients.sagemaker.delete_training_job(TrainingJobName=script_mode.JOB_NAME)
    assert not base.exists()


def test_the_recording_holds_every_case_and_no_path_of_the_machine_it_was_made_on():
    assert RECORDED.keys() == {*script_mode.CASES, "failure"}
    text = script_mode.RECORDING.read_text(encoding="utf-8")
    assert '"/tmp' not in text and ":/tmp" not in text and "/home" not in text and "/root" not in text


def test_a_failing_script_is_quoted_as_the_toolkit_quotes_it(clients):
    record = run_job(
        clients, "failure", script_mode.FILES | {"train.py": script_mode.FAILING}, parameters={"epochs": "3"}
    )
    lines = (
        RECORDED["failure"].replace("PYTHON", sys.executable).replace("failing.py", "train.py").splitlines()
    )
    found = (
        record["FailureReason"]
        .replace(str(clients.rehearsal.folder / "jobs" / "failure"), "/opt/ml")
        .splitlines()
    )
    assert found == [f"AlgorithmError: {lines[0]}", *lines[1:-1], f"{lines[-1]}, exit code: 1"]


def test_the_number_of_processors_is_this_machines(clients):
    record = run_job(clients, "processors", "import os; print('valid_error=' + os.environ['SM_NUM_CPUS'])")
    assert record["FinalMetricDataList"][0]["Value"] == os.cpu_count()


def test_the_configuration_files_lie_where_the_toolkit_reads_them(clients, tmp_path):
    found, base = run_case(clients, "settings")
    hyperparameters, channels, _ = script_mode.CASES["settings"]
    script_mode.lay_out(tmp_path / "ml", hyperparameters, channels)
    for name in ("hyperparameters", "resourceconfig", "inputdataconfig"):
        file = f"input/config/{name}.json"
        assert json.loads((base / file).read_text()) == json.loads((tmp_path / "ml" / file).read_text())
