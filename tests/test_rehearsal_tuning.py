"""Tuning jobs in the rehearsal: random and grid search, really run, and what is refused."""

import itertools
import math
import statistics
import time

import psutil
import pytest
from rehearsal_jobs import BUCKET, archive_of, clients_of, error_of, until

from hpo_helpers.jobs.rehearsal import Rehearsal
from hpo_helpers.jobs.rehearsal.tuning_job import grid, random_draws

#: Its error falls from `width` + 1 by half an epoch; a width of 9 fails, and one of 8 tells nothing.
SCRIPT = """
import sys, time
values = dict(zip(sys.argv[1::2], sys.argv[2::2]))
width = float(values["--width"])
if width == 9: raise SystemExit(1)
for epoch in range(int(values.get("--epochs", 1))):
    if epoch: time.sleep(0.15)
    print("hello" if width == 8 else f"valid_error={width + 0.5 ** epoch};", flush=True)
"""
WIDTH = {"Name": "width", "MinValue": "1", "MaxValue": "5", "ScalingType": "Linear"}
WIDTHS = {"ContinuousParameterRanges": [WIDTH]}


@pytest.fixture(scope="module")
def clients():
    with Rehearsal() as rehearsal:
        clients = clients_of(rehearsal)
        clients.s3.put_object(Bucket=BUCKET, Key="code.tar.gz", Body=archive_of({"train.py": SCRIPT}))
        yield clients


def request_for(name, ranges, strategy="Random", n_jobs=None, parallel=2, static=None, **config):
    """Return a request for a tuning job."""
    limits = {"MaxParallelTrainingJobs": parallel, **({"MaxNumberOfTrainingJobs": n_jobs} if n_jobs else {})}
    return {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": {
            "Strategy": strategy,
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "valid_error"},
            "ResourceLimits": limits,
            "ParameterRanges": ranges,
            "RandomSeed": 1,
            **config,
        },
        "TrainingJobDefinition": {
            "StaticHyperParameters": {
                "sagemaker_program": '"train.py"',
                "sagemaker_submit_directory": f'"s3://{BUCKET}/code.tar.gz"',
                **(static or {}),
            },
            "AlgorithmSpecification": {
                "TrainingImage": "image",
                "TrainingInputMode": "File",
                "MetricDefinitions": [{"Name": "valid_error", "Regex": "valid_error=(.*?);"}],
            },
            "RoleArn": "arn:aws:iam::123456789012:role/rehearsal",
            "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/output"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        },
    }


def categories(**ranges):
    return {"CategoricalParameterRanges": [{"Name": name, "Values": ranges[name]} for name in ranges]}


def describe(clients, name, *statuses):
    """Return a tuning job's record, if its status is one of these where there are some."""
    record = clients.sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    return record if not statuses or record["HyperParameterTuningJobStatus"] in statuses else None


def run(clients, request, **fields):
    clients.sagemaker.create_hyper_parameter_tuning_job(**request, **fields)
    name = request["HyperParameterTuningJobName"]
    return until(lambda: describe(clients, name, "Completed", "Failed", "Stopped"))


def children(clients, name, **options):
    return clients.sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name, MaxResults=100, **options
    )["TrainingJobSummaries"]


def value_of(job):
    return job["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]


# Random and grid search


@pytest.fixture(scope="module")
def searched(clients):
    """A random search of six jobs, two at a time."""
    return run(clients, request_for("random", WIDTHS, n_jobs=6), Tags=[{"Key": "study", "Value": "one"}])


def test_a_random_search_runs_every_job_and_names_the_best(clients, searched):
    assert searched["HyperParameterTuningJobStatus"] == "Completed"
    assert searched["TrainingJobStatusCounters"]["Completed"] == 6
    jobs = children(clients, "random")
    errors = {job["TrainingJobName"]: float(job["TunedHyperParameters"]["width"]) + 1 for job in jobs}
    assert {job["TrainingJobName"]: value_of(job) for job in jobs} == pytest.approx(errors)
    assert len(set(errors.values())) == 6
    assert searched["BestTrainingJob"]["TrainingJobName"] == min(errors, key=errors.get)
    assert value_of(searched["BestTrainingJob"]) == pytest.approx(min(errors.values()))
    times = [(job["CreationTime"], job["TrainingEndTime"]) for job in jobs]
    assert max(sum(start <= moment < end for start, end in times) for moment, _ in times) == 2


def test_its_training_jobs_are_training_jobs_with_its_tags(clients, searched):
    name = children(clients, "random")[0]["TrainingJobName"]
    record = clients.sagemaker.describe_training_job(TrainingJobName=name)
    assert name.startswith("random-001-")
    assert record["TuningJobArn"] == searched["HyperParameterTuningJobArn"]
    assert record["HyperParameters"]["_tuning_objective_metric"] == "valid_error"
    expression = {"Filters": [{"Name": "Tags.study", "Value": "one"}]}
    found = {
        kind: [each[kind] for each in clients.sagemaker.search(Resource=kind, SearchExpression=expression)["Results"]]
        for kind in ("TrainingJob", "HyperParameterTuningJob")
    }
    assert [job["HyperParameterTuningJobName"] for job in found["HyperParameterTuningJob"]] == ["random"]
    assert [job["TuningJobArn"] for job in found["TrainingJob"]] == 6 * [searched["HyperParameterTuningJobArn"]]


def test_a_grid_runs_every_combination_once(clients):
    ranges = categories(width=["1", "2"], other=["a", "b"])
    objective = {"Type": "Maximize", "MetricName": "valid_error"}
    request = request_for("grid", ranges, "Grid", parallel=4, HyperParameterTuningJobObjective=objective)
    record = run(clients, request)
    assert record["TrainingJobStatusCounters"]["Completed"] == 4
    found = [tuple(sorted(job["TunedHyperParameters"].items())) for job in children(clients, "grid")]
    expected = [(("other", other), ("width", width)) for other, width in itertools.product("ab", "12")]
    assert sorted(found) == expected
    assert record["BestTrainingJob"]["TunedHyperParameters"]["width"] == "2"


def test_a_random_search_draws_nothing_twice_and_waits_for_room(clients):
    clients.rehearsal.max_running_jobs = 1
    record = run(clients, request_for("all", categories(width=["1", "2", "3", "4"]), n_jobs=4, parallel=4))
    clients.rehearsal.max_running_jobs = None
    assert (record["HyperParameterTuningJobStatus"], record["TrainingJobStatusCounters"]["Completed"]) == ("Completed", 4)
    assert {job["TunedHyperParameters"]["width"] for job in children(clients, "all")} == set("1234")


def test_a_search_that_waits_for_room_can_be_stopped(clients):
    clients.rehearsal.max_running_jobs = 0
    clients.sagemaker.create_hyper_parameter_tuning_job(**request_for("waits", WIDTHS, n_jobs=2))
    clients.sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName="waits")
    until(lambda: describe(clients, "waits", "Stopped"))
    clients.rehearsal.max_running_jobs = None


def test_tuning_jobs_and_their_training_jobs_are_listed(clients, searched):
    paginator = clients.sagemaker.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
    options = {"HyperParameterTuningJobName": "random", "PaginationConfig": {"PageSize": 4}}
    assert [len(page["TrainingJobSummaries"]) for page in paginator.paginate(**options)] == [4, 2]
    listed = clients.sagemaker.list_hyper_parameter_tuning_jobs(NameContains="rand")
    (summary,) = listed["HyperParameterTuningJobSummaries"]
    assert summary["HyperParameterTuningJobName"] == "random" and summary["Strategy"] == "Random"
    assert summary["TrainingJobStatusCounters"]["Completed"] == 6


# How a tuning job ends


def test_stopping_a_search_stops_its_jobs(clients):
    request = request_for("stopped", WIDTHS, n_jobs=50, static={"epochs": "500"})
    clients.sagemaker.create_hyper_parameter_tuning_job(**request)
    until(lambda: describe(clients, "stopped")["TrainingJobStatusCounters"]["InProgress"] == 2)
    delete = clients.sagemaker.delete_hyper_parameter_tuning_job
    assert error_of(delete, HyperParameterTuningJobName="stopped")[0] == "ResourceInUse"
    stop = clients.sagemaker.stop_hyper_parameter_tuning_job
    stop(HyperParameterTuningJobName="stopped")
    assert describe(clients, "stopped", "Stopping", "Stopped")
    record = until(lambda: describe(clients, "stopped", "Stopped"))
    assert record["TrainingJobStatusCounters"]["Stopped"] == len(children(clients, "stopped")) == 2
    assert error_of(stop, HyperParameterTuningJobName="stopped")[0] == "ValidationException"
    delete(HyperParameterTuningJobName="stopped")
    assert error_of(describe, clients, "stopped") == ("ValidationException", "Requested resource not found.")


def test_a_failed_job_counts_and_the_search_goes_on(clients):
    record = run(clients, request_for("one-fails", categories(width=["9", "1"]), "Grid"))
    counters = record["TrainingJobStatusCounters"]
    assert (record["HyperParameterTuningJobStatus"], counters["NonRetryableError"]) == ("Completed", 1)


def test_a_search_without_any_objective_fails(clients):
    record = run(clients, request_for("mute", categories(width=["8", "9"]), "Grid"))
    assert record["HyperParameterTuningJobStatus"] == "Failed"
    assert record["FailureReason"].startswith("No objective metrics found")


# What is refused


def of_config(**fields):
    return lambda request: request["HyperParameterTuningJobConfig"].update(fields)


def of_range(kind="ContinuousParameterRanges", **fields):
    """Return a change of the range, or its removal where a field is None."""
    kept = {name: value for name, value in {**WIDTH, **fields}.items() if value is not None}
    return of_config(ParameterRanges={kind: [kept]})


CHANGES = [
    (of_config(Strategy="Bayesian"), "Strategy='Bayesian', only Random, Grid: it needs AWS"),
    (of_config(TrainingJobEarlyStoppingType="Auto"), "EarlyStoppingType='Auto'"),
    (of_config(TuningJobCompletionCriteria={"TargetObjectiveMetricValue": 1.0}), "CompletionCriteria"),
    (of_range(ScalingType=None), "must have ScalingType Linear or Logarithmic"),
    (of_range(ScalingType="ReverseLogarithmic"), "ScalingType='ReverseLogarithmic'"),
    (of_range(MinValue="6"), "'MinValue': '6'"),
    (of_range(MinValue="one"), "'MinValue': 'one'"),
    (of_range(MinValue="0", ScalingType="Logarithmic"), "'MinValue': '0'"),
    (of_range("IntegerParameterRanges", MaxValue="2.5"), "'MaxValue': '2.5'"),
    (of_config(ParameterRanges={}), "needs ['ParameterRanges']"),
    (of_config(Strategy="Grid", ResourceLimits={"MaxParallelTrainingJobs": 2}), "categorical ranges only"),
    (of_config(Strategy="Grid", ParameterRanges=categories(x=["1", "2", "3"])), "the size of the grid, 3, got 2"),
    (of_config(ParameterRanges=categories(x=["1"]) | {"ContinuousParameterRanges": [{**WIDTH, "Name": "x"}]}), "differ"),
    (of_config(HyperParameterTuningJobObjective={"Type": "Minimize", "MetricName": "loss"}), "'loss' must be among"),
    (of_config(ResourceLimits={"MaxParallelTrainingJobs": 2}), "needs ResourceLimits.MaxNumber"),
    (of_config(ParameterRanges=categories(x=["1"])), "enough combinations of hyperparameter ranges: their number [1]"),
    (of_range("IntegerParameterRanges", MaxValue="1"), "must be at least MaxNumberOfTrainingJobs [2]"),
    (of_config(ResourceLimits={"MaxParallelTrainingJobs": 2, "MaxRuntimeInSeconds": 120}), "Limits.MaxRuntime"),
    (lambda request: request.pop("TrainingJobDefinition"), "needs ['TrainingJobDefinition']"),
    (lambda request: request["TrainingJobDefinition"].pop("StaticHyperParameters"), "script mode"),
    (lambda request: request["TrainingJobDefinition"].update(RetryStrategy={"MaximumRetryAttempts": 2}), "Retry"),
    (lambda request: request.update(Autotune={"Mode": "Enabled"}), "Autotune"),
    (lambda request: request.update(HyperParameterTuningJobName="n" * 33), "'max': 32"),
]


@pytest.mark.parametrize("change, words", CHANGES, ids=[words for _, words in CHANGES])
def test_what_cannot_be_tuned_is_refused(clients, change, words):
    request = request_for("refused", WIDTHS, n_jobs=2)
    change(request)
    code, message = error_of(clients.sagemaker.create_hyper_parameter_tuning_job, **request)
    assert code == "ValidationException" and words in message


# Draws


def draws_of(kind, n=2000, **entry):
    draws = random_draws({kind: [{"Name": "x", **entry}]}, 0)
    return [float(draw["x"]) for draw in itertools.islice(draws, n)]


@pytest.mark.parametrize(
    "scaling, low, high, place",
    [
        ("Linear", 2.0, 6.0, lambda x: (x - 2) / 4),
        ("Logarithmic", 1e-4, 1.0, lambda x: math.log(x / 1e-4) / math.log(1e4)),
    ],
)
def test_draws_are_even_on_the_scale_that_was_asked_for(scaling, low, high, place):
    drawn = draws_of("ContinuousParameterRanges", MinValue=str(low), MaxValue=str(high), ScalingType=scaling)
    places = [place(x) for x in drawn]
    assert -1e-9 <= min(places) < 0.01 and 0.99 < max(places) <= 1 + 1e-9
    assert statistics.fmean(places) == pytest.approx(0.5, abs=0.03)
    assert statistics.pstdev(places) == pytest.approx(math.sqrt(1 / 12), abs=0.02)


@pytest.mark.parametrize("scaling", ["Linear", "Logarithmic"])
def test_whole_numbers_come_up_with_both_bounds_among_them(scaling):
    drawn = draws_of("IntegerParameterRanges", MinValue="2", MaxValue="9", ScalingType=scaling)
    assert set(drawn) == set(range(2, 10))
    if scaling == "Logarithmic":  # 2 stands for [2, 3): log(3 / 2) of log(10 / 2)
        assert drawn.count(2) / len(drawn) == pytest.approx(math.log(1.5) / math.log(5), abs=0.03)


def test_a_grid_is_the_product_and_every_category_comes_up():
    ranges = categories(x=["1", "2"], y=["a", "b", "c"])
    product = list(itertools.product("12", "abc"))
    assert [tuple(draw.values()) for draw in grid(ranges)] == product
    draws = itertools.islice(random_draws(ranges, 0), 200)
    assert {tuple(draw.values()) for draw in draws} == set(product)


# It closes the rehearsal of this file, so it comes last.


def test_the_end_of_a_rehearsal_ends_its_searches_at_once(clients):
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + SCRIPT
    clients.s3.put_object(Bucket=BUCKET, Key="code.tar.gz", Body=archive_of({"train.py": stubborn}))
    request = request_for("last", WIDTHS, n_jobs=50, static={"epochs": "5000"})
    clients.sagemaker.create_hyper_parameter_tuning_job(**request)
    family = psutil.Process().children
    until(lambda: sum("train.py" in child.cmdline() for child in family(recursive=True)) >= 2)
    started = [child for child in family(recursive=True) if "train.py" in child.cmdline()]
    start = time.monotonic()
    clients.rehearsal.close()
    assert time.monotonic() - start < 10
    assert not any(child.is_running() for child in started)
