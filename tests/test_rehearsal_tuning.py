"""Tuning jobs in the rehearsal: random and grid search, really run, and what is refused."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import threading
import time

import psutil
import pytest
from botocore.exceptions import ClientError
from rehearsal_jobs import BUCKET, archive_of, clients_of, until

from hpo_helpers.jobs.rehearsal.ranges import grid, random_draws
from hpo_helpers.jobs.rehearsal import Rehearsal

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
    return {
        "CategoricalParameterRanges": [{"Name": name, "Values": values} for name, values in ranges.items()]
    }


def describe(clients, name):
    return clients.sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)


def ended(clients, name):
    """Wait until a tuning job has ended and return its record."""

    def record_of_ended():
        record = describe(clients, name)
        return (
            record if record["HyperParameterTuningJobStatus"] in ("Completed", "Failed", "Stopped") else None
        )

    return until(record_of_ended)


def run(clients, request, **fields):
    clients.sagemaker.create_hyper_parameter_tuning_job(**request, **fields)
    return ended(clients, request["HyperParameterTuningJobName"])


def children(clients, name, **options):
    return clients.sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name, MaxResults=100, **options
    )["TrainingJobSummaries"]


def error_of(call, *arguments, **keywords):
    with pytest.raises(ClientError) as caught:
        call(*arguments, **keywords)
    return caught.value.response["Error"]["Code"], caught.value.response["Error"]["Message"]


# Random and grid search


@pytest.fixture(scope="module")
def searched(clients):
    """A random search of six jobs, two at a time."""
    request = request_for("random", {"ContinuousParameterRanges": [WIDTH]}, n_jobs=6)
    return run(clients, request, Tags=[{"Key": "study", "Value": "one"}])


def test_a_random_search_runs_every_job_and_names_the_best(clients, searched):
    reasons = [job["FailureReason"] for job in children(clients, "random") if "FailureReason" in job]
    assert (searched["HyperParameterTuningJobStatus"], reasons) == ("Completed", [])
    assert (
        searched["TrainingJobStatusCounters"]["Completed"]
        == searched["ObjectiveStatusCounters"]["Succeeded"]
        == 6
    )
    jobs = children(clients, "random")
    errors = {job["TrainingJobName"]: float(job["TunedHyperParameters"]["width"]) + 1 for job in jobs}
    found = {
        job["TrainingJobName"]: job["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for job in jobs
    }
    assert found == pytest.approx(errors) and len(set(errors.values())) == 6
    best = searched["BestTrainingJob"]
    assert best["TrainingJobName"] == min(errors, key=errors.get)
    assert best["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == pytest.approx(min(errors.values()))
    assert "OverallBestTrainingJob" not in searched


def test_its_training_jobs_are_training_jobs_with_its_tags(clients, searched):
    name = children(clients, "random")[0]["TrainingJobName"]
    record = clients.sagemaker.describe_training_job(TrainingJobName=name)
    assert name.startswith("random-001-")
    assert record["TuningJobArn"] == searched["HyperParameterTuningJobArn"]
    assert record["HyperParameters"]["_tuning_objective_metric"] == "valid_error"
    tags = clients.sagemaker.list_tags(ResourceArn=record["TrainingJobArn"])["Tags"]
    assert tags == [{"Key": "study", "Value": "one"}]
    expression = {"Filters": [{"Name": "TuningJobArn", "Value": searched["HyperParameterTuningJobArn"]}]}
    assert len(clients.sagemaker.search(Resource="TrainingJob", SearchExpression=expression)["Results"]) == 6
    assert clients.sagemaker.list_tags(ResourceArn=searched["HyperParameterTuningJobArn"])["Tags"] == tags


def test_no_more_jobs_run_at_a_time_than_allowed_and_as_many(clients, searched):
    times = [(job["CreationTime"], job["TrainingEndTime"]) for job in children(clients, "random")]
    at_a_time = [sum(start <= moment < end for start, end in times) for moment, _ in times]
    assert max(at_a_time) == 2


def test_a_seed_gives_the_same_draws(clients, searched):
    record = run(clients, request_for("again", {"ContinuousParameterRanges": [WIDTH]}, n_jobs=2))
    widths = [
        [job["TunedHyperParameters"]["width"] for job in children(clients, name, SortBy="CreationTime")][:2]
        for name in ("random", "again")
    ]
    assert widths[0] == widths[1] and record["HyperParameterTuningJobConfig"]["RandomSeed"] == 1


def test_a_grid_runs_every_combination_once(clients):
    record = run(
        clients, request_for("grid", categories(width=["1", "2"], other=["a", "b"]), "Grid", parallel=4)
    )
    assert record["TrainingJobStatusCounters"]["Completed"] == 4
    found = [tuple(sorted(job["TunedHyperParameters"].items())) for job in children(clients, "grid")]
    expected = [(("other", other), ("width", width)) for other, width in itertools.product("ab", "12")]
    assert sorted(found) == expected


def test_a_larger_objective_can_be_the_better_one(clients):
    objective = {"Type": "Maximize", "MetricName": "valid_error"}
    request = request_for(
        "maximize", categories(width=["1", "3", "2"]), "Grid", HyperParameterTuningJobObjective=objective
    )
    assert run(clients, request)["BestTrainingJob"]["TunedHyperParameters"] == {"width": "3"}


def test_the_training_jobs_come_in_pages_and_in_order(clients, searched):
    pages = clients.sagemaker.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job").paginate(
        HyperParameterTuningJobName="random",
        SortBy="FinalObjectiveMetricValue",
        SortOrder="Descending",
        PaginationConfig={"PageSize": 4},
    )
    pages = [page["TrainingJobSummaries"] for page in pages]
    values = [job["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for page in pages for job in page]
    assert [len(page) for page in pages] == [4, 2] and values == sorted(values, reverse=True)
    assert children(clients, "random", StatusEquals="Failed") == []


def test_tuning_jobs_are_listed(clients, searched):
    listed = clients.sagemaker.list_hyper_parameter_tuning_jobs(NameContains="rand")[
        "HyperParameterTuningJobSummaries"
    ]
    (summary,) = listed
    assert summary["HyperParameterTuningJobName"] == "random" and summary["Strategy"] == "Random"
    assert summary["TrainingJobStatusCounters"]["Completed"] == 6


# How a tuning job ends


def test_early_stopping_ends_jobs_worse_than_the_median(clients):
    request = request_for(
        "early",
        categories(width=["1", "3", "2"]),
        "Grid",
        parallel=1,
        static={"epochs": "6"},
        TrainingJobEarlyStoppingType="Auto",
    )
    record = run(clients, request)
    status = {
        job["TunedHyperParameters"]["width"]: job["TrainingJobStatus"] for job in children(clients, "early")
    }
    # After an epoch or two, 3 is worse than 1; 2 is better than the median of the two.
    assert status == {"1": "Completed", "3": "Stopped", "2": "Completed"}
    assert record["ObjectiveStatusCounters"]["Succeeded"] == 3


def test_a_target_ends_the_search(clients):
    request = request_for(
        "target",
        categories(width=["3", "1", "2", "4"]),
        "Grid",
        parallel=1,
        TuningJobCompletionCriteria={"TargetObjectiveMetricValue": 2.5},
    )
    record = run(clients, request)
    assert record["HyperParameterTuningJobStatus"] == "Completed"
    assert [job["TunedHyperParameters"]["width"] for job in children(clients, "target")] == ["3", "1"]


def test_stopping_a_search_stops_its_jobs(clients):
    request = request_for(
        "stopped", {"ContinuousParameterRanges": [WIDTH]}, n_jobs=50, static={"epochs": "500"}
    )
    clients.sagemaker.create_hyper_parameter_tuning_job(**request)
    until(lambda: describe(clients, "stopped")["TrainingJobStatusCounters"]["InProgress"] == 2)
    delete = clients.sagemaker.delete_hyper_parameter_tuning_job
    assert error_of(delete, HyperParameterTuningJobName="stopped")[0] == "ResourceInUse"
    clients.sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName="stopped")
    assert describe(clients, "stopped")["HyperParameterTuningJobStatus"] in ("Stopping", "Stopped")
    record = ended(clients, "stopped")
    assert record["HyperParameterTuningJobStatus"] == "Stopped"
    assert record["TrainingJobStatusCounters"]["Stopped"] == len(children(clients, "stopped")) == 2
    stop = clients.sagemaker.stop_hyper_parameter_tuning_job
    assert error_of(stop, HyperParameterTuningJobName="stopped")[0] == "ValidationException"
    delete(HyperParameterTuningJobName="stopped")
    assert error_of(describe, clients, "stopped") == ("ValidationException", "Requested resource not found.")


def test_a_failed_job_counts_and_the_search_goes_on(clients):
    record = run(clients, request_for("one-fails", categories(width=["9", "1"]), "Grid"))
    counters = record["TrainingJobStatusCounters"]
    assert (record["HyperParameterTuningJobStatus"], counters["NonRetryableError"]) == ("Completed", 1)
    assert record["ObjectiveStatusCounters"] == {"Succeeded": 1, "Pending": 0, "Failed": 1}
    assert len(children(clients, "one-fails")) == 2
    assert len(children(clients, "one-fails", SortBy="FinalObjectiveMetricValue")) == 1


@pytest.mark.parametrize(
    "name, width, words", [("fail", "9", "No training job succeeded"), ("mute", "8", "No objective")]
)
def test_a_search_without_any_objective_fails_after_five_jobs(clients, name, width, words):
    ranges = categories(width=[width], other=list("abcdefgh"))
    record = run(clients, request_for(name, ranges, "Grid", parallel=1))
    assert record["HyperParameterTuningJobStatus"] == "Failed" and record["FailureReason"].startswith(words)
    assert record["ObjectiveStatusCounters"]["Failed"] == 5


def test_a_search_waits_where_the_quota_is_full(clients):
    clients.rehearsal.max_running_jobs = 1
    try:
        record = run(clients, request_for("quota", categories(width=["1", "2"]), "Grid", parallel=2))
    finally:
        clients.rehearsal.max_running_jobs = None
    assert record["TrainingJobStatusCounters"]["Completed"] == 2


def test_a_warm_start_counts_the_parents_best(clients, searched):
    parents = [{"HyperParameterTuningJobName": "random"}]
    warm = {"ParentHyperParameterTuningJobs": parents, "WarmStartType": "IdenticalDataAndAlgorithm"}
    request = request_for("warm", categories(width=["7"]), n_jobs=1)
    record = run(clients, request, WarmStartConfig=warm)
    assert record["BestTrainingJob"]["TunedHyperParameters"] == {"width": "7"}
    assert record["OverallBestTrainingJob"] == searched["BestTrainingJob"]
    missing = {**warm, "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "nobody"}]}
    request["HyperParameterTuningJobName"] = "orphan"
    call = clients.sagemaker.create_hyper_parameter_tuning_job
    assert error_of(call, **request, WarmStartConfig=missing)[1] == "Requested resource not found."


# What is refused


@pytest.mark.parametrize("strategy", ["Bayesian", "Hyperband"])
def test_a_strategy_that_needs_aws_is_refused_by_name(clients, strategy):
    request = request_for("needs-aws", {"ContinuousParameterRanges": [WIDTH]}, strategy, n_jobs=2)
    code, message = error_of(clients.sagemaker.create_hyper_parameter_tuning_job, **request)
    assert code == "ValidationException"
    assert f"does not support the tuning strategy {strategy!r}: it needs AWS" in message


def refused(clients, change):
    request = request_for("refused", {"ContinuousParameterRanges": [dict(WIDTH)]}, n_jobs=2)
    change(request["HyperParameterTuningJobConfig"], request["TrainingJobDefinition"], request)
    code, message = error_of(clients.sagemaker.create_hyper_parameter_tuning_job, **request)
    assert code == "ValidationException"
    return message


def range_of(**fields):
    """Return a change of the range, or its removal where a field is None."""

    def change(config, definition, request):
        kept = {**WIDTH, **fields}
        kept = {name: value for name, value in kept.items() if value is not None}
        config["ParameterRanges"] = {"ContinuousParameterRanges": [kept]}

    return change


def integers(config, definition, request):
    config["ParameterRanges"] = {"IntegerParameterRanges": [{**WIDTH, "MaxValue": "2.5"}]}


CHANGES = [
    (range_of(ScalingType=None), "the ScalingType 'Auto' of 'width'"),
    (range_of(MinValue="6"), "MinValue must be at most MaxValue, got 6.0 and 5.0"),
    (range_of(MinValue="one"), "no numbers"),
    (range_of(MinValue="nan"), "MinValue must be at most"),
    (range_of(MinValue="0", ScalingType="Logarithmic"), "values above 0"),
    (range_of(ScalingType="ReverseLogarithmic"), "within 0 <= x < 1"),
    (range_of(Name="sagemaker_program"), "both static hyperparameters and ranges"),
    (integers, "no numbers"),
    (lambda config, *_: config.update(ParameterRanges={}), "at least one parameter range"),
    (lambda config, *_: config["ParameterRanges"].update(categories(width=["1"])), "must be unique"),
    (lambda config, *_: config.update(Strategy="Grid"), "Grid search takes categorical ranges only"),
    (lambda config, *_: config["ResourceLimits"].pop("MaxNumberOfTrainingJobs"), "needs ResourceLimits"),
    (
        lambda config, *_: config.pop("HyperParameterTuningJobObjective"),
        "needs a HyperParameterTuningJobObjective",
    ),
    (
        lambda config, *_: config["HyperParameterTuningJobObjective"].update(MetricName="loss"),
        "'loss' must be among",
    ),
    (lambda config, definition, _: definition["ResourceConfig"].update(InstanceCount=2), "InstanceCount=2"),
    (lambda config, definition, _: definition.update(EnableNetworkIsolation=True), "EnableNetworkIsolation"),
    (
        lambda config, definition, _: definition["StaticHyperParameters"].pop("sagemaker_program"),
        "script mode",
    ),
    (lambda config, definition, request: request.update(Autotune={"Mode": "Enabled"}), "Autotune"),
    (
        lambda config, definition, request: request.pop("TrainingJobDefinition"),
        "needs a TrainingJobDefinition",
    ),
    (
        lambda config, *_: config.update(
            TuningJobCompletionCriteria={"ConvergenceDetected": {"CompleteOnConvergence": "Enabled"}}
        ),
        "ConvergenceDetected",
    ),
    (
        lambda config, *_: config.update(
            Strategy="Grid",
            ParameterRanges=categories(width=["1", "2", "3"]),
        ),
        "the size of the grid, 3, got 2",
    ),
]


@pytest.mark.parametrize("change, words", CHANGES, ids=[words for _, words in CHANGES])
def test_what_cannot_be_tuned_is_refused(clients, change, words):
    assert words in refused(clients, change)


def test_names_are_unique_and_at_most_32_characters(clients, searched):
    request = request_for("random", categories(width=["1"]), n_jobs=1)
    call = clients.sagemaker.create_hyper_parameter_tuning_job
    assert error_of(call, **request)[0] == "ResourceInUse"
    request["HyperParameterTuningJobName"] = "n" * 33
    assert "less than or equal to 32" in error_of(call, **request)[1]


# Draws


def draws_of(kind, n=2000, **entry):
    draws = random_draws({kind: [{"Name": "x", **entry}]}, 0)
    return [float(draw["x"]) for draw in itertools.islice(draws, n)]


@pytest.mark.parametrize(
    "scaling, low, high, place",
    [
        ("Linear", 2.0, 6.0, lambda x: (x - 2) / 4),
        ("Logarithmic", 1e-4, 1.0, lambda x: math.log(x / 1e-4) / math.log(1e4)),
        ("ReverseLogarithmic", 0.0, 0.999, lambda x: math.log(1 - x) / math.log(0.001)),
    ],
)
def test_draws_are_even_on_the_scale_that_was_asked_for(scaling, low, high, place):
    places = [
        place(x)
        for x in draws_of(
            "ContinuousParameterRanges", MinValue=str(low), MaxValue=str(high), ScalingType=scaling
        )
    ]
    assert -1e-9 <= min(places) < 0.01 and 0.99 < max(places) <= 1 + 1e-9
    assert statistics.fmean(places) == pytest.approx(0.5, abs=0.03)
    assert statistics.pstdev(places) == pytest.approx(math.sqrt(1 / 12), abs=0.02)


@pytest.mark.parametrize("scaling", ["Linear", "Logarithmic"])
def test_whole_numbers_come_up_with_both_bounds_among_them(scaling):
    drawn = draws_of("IntegerParameterRanges", MinValue="2", MaxValue="9", ScalingType=scaling)
    assert set(drawn) == set(range(2, 10))
    if scaling == "Logarithmic":  # 2 stands for [2, 3): log(3 / 2) of log(10 / 2)
        assert drawn.count(2) / len(drawn) == pytest.approx(math.log(1.5) / math.log(5), abs=0.03)


def test_a_grid_of_categories_is_their_product():
    ranges = categories(x=["1", "2"], y=["a", "b", "c"])
    assert [tuple(draw.values()) for draw in grid(ranges)] == list(itertools.product("12", "abc"))


def test_every_category_comes_up():
    draws = itertools.islice(random_draws(categories(x=["a", "b", "c"]), random.randrange(10)), 200)
    assert {draw["x"] for draw in draws} == {"a", "b", "c"}


# It closes the rehearsal of this file, so it comes last.


def test_the_end_of_a_rehearsal_ends_its_searches_at_once(clients):
    before = set(psutil.Process().children(recursive=True))  # joblib's, of other tests
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + SCRIPT
    clients.s3.put_object(Bucket=BUCKET, Key="code.tar.gz", Body=archive_of({"train.py": stubborn}))
    for name in ("last", "very-last"):
        request = request_for(
            name, {"ContinuousParameterRanges": [WIDTH]}, n_jobs=50, static={"epochs": "5000"}
        )
        clients.sagemaker.create_hyper_parameter_tuning_job(**request)
        until(lambda: describe(clients, name)["TrainingJobStatusCounters"]["InProgress"] == 2)
    # A monitor and a script for each of four.
    until(lambda: len(set(psutil.Process().children(recursive=True)) - before) >= 8)
    start = time.monotonic()
    clients.rehearsal.close()
    assert time.monotonic() - start < 10
    assert not set(psutil.Process().children(recursive=True)) - before
    names = {thread.name.partition(" job ")[0] for thread in threading.enumerate()}
    assert not names & {"training", "tuning", "rehearsal"}
