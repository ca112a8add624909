"""What lesson 11 says of Amazon SageMaker, held against botocore's description of it and against the rehearsal."""

import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from unittest import mock

import boto3
import optuna
import pytest
from claims import claimed, code_cells, lesson_code, lesson_text
from notebook_files import NOTEBOOKS

from hpo_helpers import replay_mnist
from hpo_helpers.curves import RecordedCurves
from hpo_helpers.jobs.rehearsal import ROLE, connect
from hpo_helpers.jobs.sagemaker import image_uri, jobs_from_logs, jobs_from_search, list_created
from hpo_helpers.jobs.sagemaker.request import GRACE

LESSON, SOLUTIONS = "11_sagemaker_jobs", "solutions/11_sagemaker_jobs_solutions"
NO_AWS = ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL")


def cell(identifier, lesson=LESSON):
    """Return the code of one cell."""
    return code_cells(lesson)[identifier].source


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A rehearsal, as a reader without an account gets it."""
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ):
        for name in NO_AWS:
            patch.delenv(name, raising=False)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, str(tmp_path_factory.mktemp("aws") / "none"))
        with connect().rehearsal:
            yield connect()
    connect.cache_clear()
    boto3.setup_default_session()


@pytest.fixture(scope="module")
def model():
    """Return botocore's description of the service."""
    client = boto3.client("sagemaker", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    return client.meta.service_model


def documentation(shape):
    return re.sub(r"<.*?>|\s+", " ", shape.documentation)


def test_names_and_hyperparameters_have_these_limits(model):
    said = claimed(LESSON, r"\*name\* has at most (\d+) letters, digits and hyphens")
    assert said == [model.shape_for("TrainingJobName").metadata["max"]]
    assert not re.fullmatch(model.shape_for("TrainingJobName").metadata["pattern"], "an_underscore")
    said = claimed(LESSON, r"\*hyperparameters\* are at most (\d+) texts")
    assert said == [model.shape_for("HyperParameters").metadata["max"]]
    (said,) = claimed(LESSON, r"name of a tuning job has at most (\d+) characters")
    assert said == model.shape_for("HyperParameterTuningJobName").metadata["max"]
    assert len("hpo-lesson-11-12345678-tuner") <= said >= len("hpo-lesson-11-12345678-grid")
    tags = documentation(model.operation_model("CreateHyperParameterTuningJob").input_shape.members["Tags"])
    assert "also added to all training jobs that the tuning job launches" in tags
    assert "They get its tags, too" in lesson_text(LESSON)


def test_search_answers_for_a_hundred_jobs_at_once(model):
    assert "answers for a hundred at once" in lesson_text(LESSON)
    assert model.operation_model("Search").input_shape.members["MaxResults"].metadata["max"] == 100


def test_a_stopped_job_has_120_seconds_and_a_job_without_a_limit_a_day(model, place):
    (seconds,) = claimed(LESSON, r"A stopped job has (\d+) seconds to end")
    assert f"for {seconds:.0f} seconds" in documentation(model.operation_model("StopTrainingJob"))
    assert place.rehearsal.stop_seconds == seconds
    assert "Without that limit it is a day" in lesson_text(LESSON)
    limit = model.shape_for("StoppingCondition").members["MaxRuntimeInSeconds"]
    assert "The default value is 1 day" in documentation(limit)


def test_what_is_billed_is_the_formula_that_the_lesson_gives(model):
    billed = documentation(model.shape_for("DescribeTrainingJobResponse").members["BillableTimeInSeconds"])
    assert "BillableTimeInSeconds * InstanceCount" in billed
    assert "price of an instance for an hour × instances × seconds / 3600" in lesson_text(LESSON)
    assert 'PRICE * table["seconds"] / 3600' in cell("cost-result")


def test_every_field_of_the_request_is_explained_and_exists(model):
    explained = set(re.findall(r"^\| `(\w+)` \|", lesson_text(LESSON), re.MULTILINE))
    known = model.operation_model("CreateTrainingJob").input_shape.members
    top = {"RoleArn", "InputDataConfig", "OutputDataConfig", "ResourceConfig", "StoppingCondition"}
    algorithm = {"TrainingImage", "TrainingInputMode", "MetricDefinitions"}
    assert explained == top | algorithm
    assert top <= set(known) and algorithm <= set(known["AlgorithmSpecification"].members)
    assert all(f'"{name}"' in cell("algorithm") + cell("request") for name in explained)


def test_the_strategies_are_those_of_aws_and_the_image_is_the_last_with_mxnet(model):
    named = re.search(r"The strategies are (.*)\. The last two", lesson_text(LESSON)).group(1)
    assert set(re.findall(r"`(\w+)`", named)) == set(model.shape_for("HyperParameterTuningJobStrategyType").enum)
    version, minor = re.search(r"last image with MXNet: ([\d.]+), on Python 3\.(\d+)\.", lesson_text(LESSON)).groups()
    assert image_uri("us-east-1").endswith(f"/mxnet-training:{version}-cpu-py3{minor}")


def test_one_code_path_for_aws_and_the_rehearsal():
    """The place is asked for three things: the role, a script that runs here, and the budget in seconds."""
    asked = [line for line in lesson_code(LESSON).splitlines() if "place." in line]
    assert len(asked) == 3
    assert asked[0].startswith("role = ") and "HAS_MXNET" in asked[1] and asked[2].startswith("seconds = ")
    assert not re.search(r"rehearsal\.|endpoint_url|127\.0\.0\.1", lesson_code(LESSON).replace("jobs.rehearsal", ""))


def test_the_study_is_the_one_of_lesson_05_but_for_its_launcher():
    fifth, here = lesson_code("05_multi_fidelity"), cell("study")
    created = re.search(r"study = optuna\.create_study\(\n(    .*\n)+\)\n", here).group(0)
    assert created in fifth
    tuned = re.search(r"tune\(study, .*\)", here).group(0)
    assert tuned.replace("timeout=seconds", "timeout=25") in fifth
    assert "seconds = 25 if place.is_rehearsal" in here and "launch(n_workers=2" in here
    assert re.search(r'new_launcher\(train, n_workers=2, fixed={"seed": 0}\)', fifth)
    assert 'fixed={"seed": 0}' in cell("launcher")


def test_without_boto3_or_moto_the_first_cell_says_what_to_install():
    hidden = 'import sys\nsys.modules["moto"] = None\n' + cell("imports")
    result = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, timeout=120)
    assert "AssertionError: Run `%pip install moto`, then this cell again." in result.stderr


def test_the_policy_covers_the_names_that_the_lesson_gives():
    policy = json.loads((NOTEBOOKS / "sagemaker_policy.json").read_text(encoding="utf-8"))
    resources = [resource for entry in policy["Statement"] for resource in [entry["Resource"]] if resource != "*"]
    assert 'bucket = f"sagemaker-hpo-{region}-{account}"' in cell("clients")
    assert 'NAME = "hpo-lesson-11"' in cell("run") and 'folder = f"{NAME}/{owner()}/{run}"' in cell("run")
    for name in (
        "arn:aws:sagemaker:us-east-1:123456789012:training-job/hpo-lesson-11-6b01b65c-one",
        "arn:aws:sagemaker:us-east-1:123456789012:hyper-parameter-tuning-job/hpo-lesson-11-6b01b65c-tuner",
        "arn:aws:s3:::sagemaker-hpo-us-east-1-123456789012/hpo-lesson-11/0123/hpo-lesson-11-6b01b65c/data/mnist.npz",
    ):
        assert any(fnmatchcase(name, resource) for resource in resources)
    assert any("role/*SageMaker*" in resource for resource in resources)
    assert "expects `SageMaker` in the role's name" in lesson_text(LESSON)


def actions(code):
    """Return the actions of IAM that the calls of boto3 in some code need; STS asks for none."""
    own = {"HeadBucket": "ListBucket", "UploadFile": "PutObject"}
    called = re.findall(r"\b(s3|logs|sagemaker)\.([a-z]+(?:_[a-z]+)+)\(", code)
    called += re.findall(r"\b(logs|sagemaker)\.get_paginator\(\"(\w+)\"\)", code)
    called += re.findall(r'client\("(s3|logs)"\)\.get_paginator\("(\w+)"\)', code)
    called += [("sagemaker", "search")] * ('get_paginator("search")' in code)
    names = {(service, name.title().replace("_", "")) for service, name in called if name != "get_paginator"}
    return {f"{service}:{own.get(name, name)}" for service, name in names}


def test_the_ceiling_that_is_printed_is_the_one_of_the_text(model):
    (max_run,) = map(int, re.search(r"max_run=(\d+)", cell("launcher")).groups())
    (price,) = map(float, re.search(r"PRICE = ([\d.]+)", cell("launcher")).groups())
    assert claimed(LESSON, r"the longest run and (\d+) seconds to end in") == [GRACE]
    assert f"for {GRACE} seconds" in documentation(model.shape_for("StoppingCondition"))
    assert claimed(LESSON, r"SageMaker stops a job after (\d+) seconds") == [max_run]
    assert claimed(LESSON, r"Interrupted, a job runs on, for (\d+) seconds") == [600 + GRACE]
    for name, max_jobs in {"swarm": 6, "study": 40}.items():
        assert f"max_jobs={max_jobs})" in cell(name)
        ceiling = f"at most {max_jobs} jobs x ({max_run} + {GRACE}) s x {price:g} an hour"
        printed = f"{ceiling} = {max_jobs * (max_run + GRACE) * price / 3600:.2f}\n"
        assert any(output.get("text", "").startswith(printed) for output in code_cells(LESSON)[name].outputs)
    assert "refuses a seventh job" in lesson_text(LESSON)


def test_a_day_for_each_job_makes_a_ceiling_of_961_hours():
    pattern = r"(?s)allows each job (\d+),(\d+) seconds.*Over a day a job: for (\d+) jobs, (\d+) hours"
    thousands, rest, jobs, hours = claimed(LESSON, pattern)
    assert (1000 * thousands + rest + GRACE) * jobs // 3600 == hours


def test_the_smaller_batch_takes_four_times_as_many_steps():
    assert "four times as many steps" in lesson_text(SOLUTIONS)
    assert '["16", "64"]' in cell("grid", SOLUTIONS)


def test_the_lines_for_ones_own_project_run_three_jobs_once_they_are_filled_in(place, capsys):
    import boto3

    boto3.client("s3").create_bucket(Bucket="mine")
    code = "\n".join(cell(f"own-project{part}") for part in ("", "-try", "-2", "-request", "-3", "-4"))
    filled = code.replace('ROLE, BUCKET, IMAGE = "", "", ""', f'ROLE, BUCKET, IMAGE = "{ROLE}", "mine", "an/image:1"')
    assert filled != code
    sagemaker, names = boto3.client("sagemaker"), {}
    before = len(sagemaker.list_training_jobs()["TrainingJobSummaries"])
    exec(filled.replace("time.sleep(5)", "time.sleep(0.2)"), names)
    assert "3 jobs have run." in capsys.readouterr().out
    assert [trial.state for trial in names["study"].trials] == [optuna.trial.TrialState.COMPLETE] * 3
    names["TRAIN"] = "raise SystemExit(1)"
    exec(cell("own-project-4"), names)  # a job that fails is a failed trial, and the study goes on
    assert [trial.state for trial in names["study"].trials] == [optuna.trial.TrialState.FAIL] * 3
    jobs = sagemaker.list_training_jobs()["TrainingJobSummaries"]
    assert [job["TrainingJobStatus"] for job in jobs[before:]] == ["Completed"] * 3 + ["Failed"] * 3


def requests_in(place, names):
    """Run the cells that prepare a job, up to its request, with a script that takes its time."""
    names |= {"place": place, "role": ROLE, "data": None}
    exec("import boto3, io, json, secrets, tarfile, time\nimport pandas as pd", names)
    exec("from hpo_helpers.jobs.sagemaker import *\nfrom hpo_helpers.spaces import *", names)
    for name in ("clients", "run"):
        exec(cell(name), names)
    (names["folder_here"] / "slow.py").write_text("import time; print('valid_error=0.5', flush=True); time.sleep(600)")
    names["program"] = [names["folder_here"] / "slow.py"]
    exec(cell("upload").partition("data = ")[0], names)
    for name in ("algorithm", "request", "start", "wait", "tuner-config"):
        exec(cell(name), names)
    del names["DEFINITION"]["InputDataConfig"]


def test_what_still_runs_is_stopped_and_deleted_what_never_got_a_machine_is_billed_nothing(
    place, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HPO_HELPERS_CACHE", str(tmp_path))
    names = {"folder_here": tmp_path}
    requests_in(place, names)
    monkeypatch.setattr(place.rehearsal, "start_seconds", 600.0)
    names["start"](f"{names['run']}-waits", {})  # it is stopped while it is starting
    names["sagemaker"].stop_training_job(TrainingJobName=f"{names['run']}-waits")
    monkeypatch.setattr(place.rehearsal, "start_seconds", 0.0)
    names["start"](f"{names['run']}-one", {})
    for name in ("tuner", "tuner-functions", "created"):
        exec(cell(name).partition("\nprint(sorted")[0], names)
    assert set(names["created"]["status"].dropna()) >= {"InProgress"}
    exec(cell("stop"), names)
    table = jobs_from_logs(names["run"]).set_index("name")
    assert set(table["status"]) == {"Stopped"} and table.equals(jobs_from_search(names["run"]).set_index("name"))
    assert table.loc[f"{names['run']}-waits", ["start", "end", "billable_seconds"]].isna().all()
    names["bill"] = table.reset_index().assign(part="by hand")
    exec(cell("rows"), names)
    assert len(names["timeline"]("by hand")) == len(table) - 1
    capsys.readouterr()
    exec(cell("delete"), names)
    assert capsys.readouterr().out.endswith("Left: 0\n") and len(list_created("hpo-lesson-11", names["run"])) == 0


@pytest.fixture
def replay(monkeypatch, capsys):
    def run(**hyperparameters):
        monkeypatch.setenv("SM_HPS", json.dumps(hyperparameters))
        replay_mnist.main()
        return capsys.readouterr().out

    return run


PARAMS = {"learning_rate": 0.1, "momentum": 0.5, "batch_size": 64, "n_channels": 8, "dropout": 0.2}


def test_a_replayed_job_prints_the_recorded_curve(replay):
    lines = replay(**PARAMS, epochs=2, seed=0).splitlines()
    assert lines == [replay_mnist.LINE.format(**metrics) for metrics in RecordedCurves()(PARAMS)[:2]]
    assert re.match(r"epoch=2 valid_error=0\.\d{4} test_error=", lines[1])


def test_a_replayed_job_fails_with_a_sentence_for_what_was_not_recorded(replay):
    with pytest.raises(SystemExit, match="replay_mnist: error: 'learning_rate' must lie in"):
        replay(**PARAMS | {"learning_rate": -1.0})
    with pytest.raises(SystemExit, match="replay_mnist: error: 'learning_rate'"):
        replay(epochs=1)
