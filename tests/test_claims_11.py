"""What lesson 11 says of Amazon SageMaker, held against botocore's description of it and against the rehearsal."""

import json
import re
import subprocess
import sys
from fnmatch import fnmatchcase

import optuna
import pytest
from claims import claimed, code_cells, lesson_code, lesson_text
from notebook_files import NOTEBOOKS

from hpo_helpers import replay_mnist
from hpo_helpers.curves import RecordedCurves
from hpo_helpers.jobs.rehearsal import ROLE, connect

LESSON, SOLUTIONS = "11_sagemaker_jobs", "solutions/11_sagemaker_jobs_solutions"
NO_AWS = ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL")


def cell(identifier, lesson=LESSON):
    """Return the code of one cell."""
    return code_cells(lesson)[identifier].source


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A rehearsal, as a reader without an account gets it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in NO_AWS:
            patch.delenv(name, raising=False)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, str(tmp_path_factory.mktemp("aws") / "none"))
        with connect() as found:
            assert found.is_rehearsal
            yield found


@pytest.fixture(scope="module")
def model():
    """Return botocore's description of the service."""
    import boto3

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
    assert 'price * table["seconds"] / 3600' in cell("cost-result")


def test_every_field_of_the_request_is_explained_and_exists(model):
    explained = set(re.findall(r"^\| `(\w+)` \|", lesson_text(LESSON), re.MULTILINE))
    known = model.operation_model("CreateTrainingJob").input_shape.members
    top = {"RoleArn", "InputDataConfig", "OutputDataConfig", "ResourceConfig", "StoppingCondition"}
    algorithm = {"TrainingImage", "TrainingInputMode", "MetricDefinitions"}
    assert explained == top | algorithm
    assert top <= set(known) and algorithm <= set(known["AlgorithmSpecification"].members)
    assert all(f'"{name}"' in cell("request") for name in explained)


def test_the_settings_of_a_tuning_job_that_the_lesson_names_exist(model):
    config = model.shape_for("HyperParameterTuningJobConfig").members
    assert "`TrainingJobEarlyStoppingType`" in lesson_text(LESSON) and "TrainingJobEarlyStoppingType" in config
    request = model.operation_model("CreateHyperParameterTuningJob").input_shape.members
    assert "`WarmStartConfig`" in lesson_text(LESSON) and "WarmStartConfig" in request
    named = re.search(r"The strategies are (.*)\. The last two", lesson_text(LESSON)).group(1)
    assert set(re.findall(r"`(\w+)`", named)) == set(model.shape_for("HyperParameterTuningJobStrategyType").enum)


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
    assert "seconds = 25 if place.is_rehearsal" in cell("launcher")
    assert re.search(r'LocalLauncher\(train, n_workers=2, fixed={"seed": 0}\)', fifth)
    assert 'n_workers=2, fixed={"seed": 0}' in cell("launcher")


def test_without_boto3_or_moto_the_first_cell_says_what_to_install():
    hidden = 'import sys\nsys.modules["moto"] = None\n' + cell("imports")
    result = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, timeout=120)
    assert "AssertionError: ['moto'] missing: run `pip install \".[aws]\"` in the folder" in result.stderr


def test_the_policy_covers_the_names_that_the_lesson_gives():
    policy = json.loads((NOTEBOOKS / "sagemaker_policy.json").read_text(encoding="utf-8"))
    resources = [resource for entry in policy["Statement"] for resource in [entry["Resource"]] if resource != "*"]
    assert 'bucket = f"sagemaker-hpo-{region}-{account}"' in cell("clients")
    assert 'run, folder = f"hpo-lesson-11-{stamp}", f"hpo-lesson-11/' in cell("clients")
    for name in (
        "arn:aws:sagemaker:us-east-1:123456789012:training-job/hpo-lesson-11-6b01b65c-one",
        "arn:aws:sagemaker:us-east-1:123456789012:hyper-parameter-tuning-job/hpo-lesson-11-6b01b65c-tuner",
        "arn:aws:s3:::sagemaker-hpo-us-east-1-123456789012/hpo-lesson-11/by-hand-6b01b65c/data/mnist.npz",
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


def test_the_ceiling_that_is_printed_is_the_one_of_the_text():
    limits = re.search(r"max_run=(\d+), max_jobs=(\d+), price_per_hour=price", cell("launcher"))
    max_run, max_jobs = map(int, limits.groups())
    (price,) = map(float, re.search(r"price = ([\d.]+)", cell("launcher")).groups())
    assert claimed(LESSON, r"SageMaker ends a job after (\d+) seconds") == [max_run]
    assert "refuses a forty-first job" in lesson_text(LESSON) and max_jobs == 40
    printed = f"at most {max_jobs} jobs x {max_run} s x {price:g} an hour = {max_jobs * max_run * price / 3600:.2f}"
    outputs = [output.get("text", "") for cell in code_cells(LESSON).values() for output in cell.outputs]
    assert any(printed in text for text in outputs)


def test_a_day_for_each_job_makes_a_ceiling_of_960_hours():
    pattern = r"(?s)allows each job (\d+),(\d+) seconds.*for (\d+) jobs, (\d+) hours"
    thousands, rest, jobs, hours = claimed(LESSON, pattern)
    assert (1000 * thousands + rest) * jobs / 3600 == hours


def test_the_smaller_batch_takes_four_times_as_many_steps():
    assert "four times as many steps" in lesson_text(SOLUTIONS)
    assert '["16", "64"]' in cell("grid", SOLUTIONS)


def test_the_lines_for_ones_own_project_run_three_jobs_once_they_are_filled_in(place, capsys):
    import boto3

    boto3.client("s3").create_bucket(Bucket="mine")
    code = "\n".join(cell(name) for name in ("own-project", *(f"own-project-{number}" for number in (2, 3, 4))))
    filled = code.replace('ROLE, BUCKET, IMAGE = "", "", ""', f'ROLE, BUCKET, IMAGE = "{ROLE}", "mine", "an/image:1"')
    assert filled != code
    sagemaker, names = boto3.client("sagemaker"), {}
    before = len(sagemaker.list_training_jobs()["TrainingJobSummaries"])
    exec(filled.replace("time.sleep(5)", "time.sleep(0.2)"), names)
    assert "3 jobs have run." in capsys.readouterr().out
    assert [trial.state for trial in names["study"].trials] == [optuna.trial.TrialState.COMPLETE] * 3
    jobs = sagemaker.list_training_jobs()["TrainingJobSummaries"]
    assert [job["TrainingJobStatus"] for job in jobs] == ["Completed"] * (before + 3)


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
