"""Script mode: what a script finds in the rehearsal is what Amazon's own toolkit gave it, to the letter."""

import json
import sys

import pytest
import script_mode
from rehearsal_jobs import BUCKET, archive_of, channel, clients_of, ended, request_for, run_job, unpacked

from hpo_helpers.jobs.rehearsal import Rehearsal

RECORDED = json.loads(script_mode.RECORDING.read_text(encoding="utf-8"))
#: What the rehearsal sets beyond toolkit and platform: what images set, where programs and home are.
IMAGES = """HOME LANG LC_ALL PATH PYTHONDONTWRITEBYTECODE PYTHONIOENCODING PYTHONUNBUFFERED
            OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS""".split()
#: What scripts read of the rest.
READ = """TRAINING_JOB_NAME AWS_DEFAULT_REGION PYTHONPATH SM_CHANNELS SM_CURRENT_HOST SM_HOSTS SM_HPS
          SM_MODEL_DIR SM_NUM_CPUS SM_NUM_GPUS SM_OUTPUT_DATA_DIR SM_OUTPUT_DIR""".split()


@pytest.fixture(scope="module")
def clients():
    with Rehearsal() as rehearsal:
        yield clients_of(rehearsal)


def run_case(clients, case):
    """Run the probe as a job and return what it found."""
    hyperparameters, channels, environment = script_mode.CASES[case]
    key = script_mode.CODE_URI.removeprefix(f"s3://{BUCKET}/")
    clients.s3.put_object(Bucket=BUCKET, Key=key, Body=archive_of(script_mode.FILES))
    clients.s3.put_object(Bucket=BUCKET, Key="data/rows.csv", Body=b"1,2\n")
    request = request_for(clients, script_mode.JOB_NAME, Environment=environment)
    request["HyperParameters"] = hyperparameters
    if channels:
        request["InputDataConfig"] = [channel(name, f"s3://{BUCKET}/data/") for name in channels]
    clients.sagemaker.create_training_job(**request)
    record = ended(clients, script_mode.JOB_NAME)
    assert record["TrainingJobStatus"] == "Completed", record.get("FailureReason")
    clients.sagemaker.delete_training_job(TrainingJobName=script_mode.JOB_NAME)
    (text,) = unpacked(clients, record["ModelArtifacts"]["S3ModelArtifacts"]).values()
    return script_mode.read_probe(text.decode(), json.loads(text)["environment"]["HOME"])


@pytest.mark.parametrize("case", script_mode.CASES)
def test_a_script_finds_what_the_toolkit_gave_it(clients, case):
    found, recorded = run_case(clients, case), RECORDED[case]
    for name in IMAGES:
        del found["environment"][name]
    for name in ("arguments", "command", "folder"):
        assert found[name] == recorded[name]
    assert found["environment"].items() <= recorded["environment"].items()
    named = [name for name in recorded["environment"] if name.startswith(("SM_HP_", "SM_CHANNEL_"))]
    assert {*READ, *named, *script_mode.CASES[case][2]} <= found["environment"].keys()


def test_the_recording_holds_every_case_and_no_path_of_the_machine_it_was_made_on():
    assert RECORDED.keys() == {*script_mode.CASES, "failure"}
    text = script_mode.RECORDING.read_text(encoding="utf-8")
    assert '"/tmp' not in text and ":/tmp" not in text and "/home" not in text and "/root" not in text


def test_a_failing_script_is_quoted_as_the_toolkit_quotes_it(clients):
    files = script_mode.FILES | {"train.py": script_mode.FAILING}
    reason = run_job(clients, "failure", files, parameters={"epochs": "3"})["FailureReason"]
    quoted = RECORDED["failure"].replace("PYTHON", sys.executable).replace("failing.py", "train.py")
    first, *middle, last = quoted.splitlines()
    assert reason.splitlines() == [f"AlgorithmError: {first}", *middle, f"{last}, exit code: 1"]
