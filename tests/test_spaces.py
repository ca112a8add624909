import json
import math

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpo_helpers import spaces
from hpo_helpers.spaces import MNIST_CNN, from_unit_cube, to_unit_cube

#: Everything that each of the dialects can say.
COMMON = {
    "rate": FloatDistribution(1e-5, 0.3, log=True),
    "momentum": FloatDistribution(0.0, 0.95),
    "shift": FloatDistribution(-0.3, -0.1),
    "width": IntDistribution(3, 70),
    "batch": IntDistribution(16, 128, log=True),
    "one": IntDistribution(4, 4),
    "optimizer": CategoricalDistribution(["sgd", "adam"]),
}
STEPS = {
    "share": FloatDistribution(0.2, 0.8, step=0.1),
    "layers": IntDistribution(8, 64, step=8),
    "whole": FloatDistribution(0.0, 4.0, step=1.0),
}
DIALECTS = {
    "Amazon SageMaker": spaces.to_sagemaker,
    "Azure": spaces.to_azure,
    "scipy.stats": spaces.to_scipy,
}
EVERY_DIALECT = pytest.mark.parametrize("dialect", DIALECTS)


def test_bounds_are_0_and_1_and_a_logarithmic_middle_is_one_half():
    space = {"rate": FloatDistribution(1e-4, 1.0, log=True), "width": IntDistribution(10, 30)}
    assert to_unit_cube(space, {"rate": 1e-4, "width": 30}) == {"rate": 0.0, "width": 1.0}
    assert to_unit_cube(space, {"rate": 1e-2, "width": 15}) == {"rate": pytest.approx(0.5), "width": 0.25}
    assert to_unit_cube({"one": IntDistribution(3, 3)}, {"one": 3}) == {"one": 0.5}


def test_what_lies_outside_is_named():
    with pytest.raises(ValueError, match=r"'learning_rate' must lie in \[0.001, 1.0\], got 2.0"):
        to_unit_cube({"learning_rate": MNIST_CNN["learning_rate"]}, {"learning_rate": 2.0})
    for place in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=rf"the place of 'dropout' must lie in \[0, 1\], got {place}"):
            from_unit_cube({"dropout": MNIST_CNN["dropout"]}, {"dropout": place})


def test_a_choice_has_no_bounds():
    for convert, value in ((to_unit_cube, "sgd"), (from_unit_cube, 0.5)):
        with pytest.raises(ValueError, match="'optimizer' has no lower and upper bound"):
            convert({"optimizer": COMMON["optimizer"]}, {"optimizer": value})


def test_what_is_drawn_comes_back_from_the_cube():
    space = {**MNIST_CNN, **COMMON, **STEPS}
    space.pop("optimizer")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    for _ in range(30):
        params = study.ask(space).params
        back = from_unit_cube(space, to_unit_cube(space, params))
        assert back == pytest.approx(params, rel=1e-12)
        assert [type(value) for value in back.values()] == [type(value) for value in params.values()]


def test_the_corners_of_the_cube_are_the_bounds_exactly():
    space = {**MNIST_CNN, **STEPS}
    for corner, bound in ((0, "low"), (1, "high")):
        found = from_unit_cube(space, dict.fromkeys(space, corner))
        assert found == {name: getattr(distribution, bound) for name, distribution in space.items()}
    layers = {"layers": STEPS["layers"]}
    assert [from_unit_cube(layers, {"layers": place})["layers"] for place in (0.07, 0.08)] == [8, 16]


def test_azure_reads_back_exactly_what_is_said_to_it():
    for space in (MNIST_CNN, COMMON, STEPS):
        assert spaces.from_azure(json.loads(json.dumps(spaces.to_azure(space)))) == space


@pytest.mark.parametrize(
    "dialect, distribution, advice",
    [
        ("Amazon SageMaker", STEPS["share"], "it has no steps: leave the step out and round"),
        ("Amazon SageMaker", STEPS["layers"], "it has no steps"),
        ("Amazon SageMaker", CategoricalDistribution([1, 2]), "write them as strings, and convert them"),
        ("Azure", IntDistribution(1, 9, step=4), "its q-steps are multiples of q: begin at a multiple"),
        ("Azure", FloatDistribution(0.05, 0.45, step=0.1), "its q-steps are multiples of q"),
        ("Azure", CategoricalDistribution([True, False]), "write 'true' or 'none', and convert"),
        ("Azure", CategoricalDistribution([None]), "its categories are strings and numbers"),
    ],
)
def test_what_a_dialect_cannot_say_is_an_error_that_names_it(dialect, distribution, advice):
    with pytest.raises(ValueError) as error:
        DIALECTS[dialect]({"fine": COMMON["rate"], "x": distribution})
    assert str(error.value).startswith(f"{dialect} cannot say 'x', {distribution!r}: ")
    assert advice in str(error.value)


@EVERY_DIALECT
def test_a_conditional_space_and_what_is_no_distribution_are_refused(dialect):
    def network_or_forest(trial):
        return {}

    there = DIALECTS[dialect]
    with pytest.raises(ValueError, match=f"{dialect} has no conditional .* 'network_or_forest': write one"):
        there(network_or_forest)
    with pytest.raises(ValueError, match=r"'rate' must be a distribution of Optuna's, got \[0, 1\]"):
        there({"rate": [0, 1]})


def azure_range(kind, low, high, q):
    return {"x": {"type": kind, "min_value": low, "max_value": high, "q": q}}


@pytest.mark.parametrize(
    "said, advice",
    [
        ({"x": {"type": "normal", "mu": 0, "sigma": 1}}, "it has no normal distributions"),
        (azure_range("quniform", 50, 128, 50), "q-steps leave the bounds"),
        (azure_range("qloguniform", 0, 3, 1), "between whole numbers"),
        (azure_range("qloguniform", 0, 0, 2), "by 1 alone"),
        ({"x": {"type": "choice", "values": [{"a": 1}]}}, "a choice within a choice is a condition"),
        ({"x": {"type": "choice", "values": [[1, 2]]}}, "its categories are strings and numbers"),
    ],
)
def test_what_optuna_cannot_say_is_an_error_too(said, advice):
    with pytest.raises(ValueError) as error:
        spaces.from_azure(said)
    assert str(error.value).startswith("Optuna cannot say 'x', ") and advice in str(error.value)
    assert " of Azure: " in str(error.value)


def test_azure_reads_randint_as_whole_numbers_below_its_upper_end():
    assert spaces.from_azure({"x": {"type": "randint", "upper": 11}}) == {"x": IntDistribution(0, 10)}


def test_sagemaker_s_own_model_takes_the_ranges():
    """botocore checks names and types; the values of ScalingType stand in the model only."""
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.get_session().get_service_model("sagemaker")
    shape = model.shape_for("ParameterRanges")
    for space in (MNIST_CNN, COMMON):
        ranges = spaces.to_sagemaker(space)
        assert ParamValidator().validate(ranges, shape).generate_report() == ""
        scales = {entry.get("ScalingType", "Auto") for entries in ranges.values() for entry in entries}
        assert scales <= set(model.shape_for("HyperParameterScalingType").enum)


def test_sagemaker_s_ranges_are_what_its_documentation_shows():
    said = {"Name": "rate", "MinValue": "1e-05", "MaxValue": "0.1", "ScalingType": "Logarithmic"}
    assert spaces.to_sagemaker({"rate": FloatDistribution(1e-5, 0.1, log=True)}) == {
        "ContinuousParameterRanges": [said],
        "IntegerParameterRanges": [],
        "CategoricalParameterRanges": [],
    }


def test_azure_s_expressions_are_what_its_package_writes_back():
    """As azure-ai-ml 1.35.2 dumped a sweep job that it had loaded with these expressions."""
    space = {**MNIST_CNN, "step": FloatDistribution(0.0, 1.0, step=0.25), "name": COMMON["optimizer"]}
    said = spaces.to_azure(space | {"width": IntDistribution(1, 4000)})
    assert said["learning_rate"] == {"max_value": 0.0, "min_value": -6.907755278982137, "type": "loguniform"}
    assert said["momentum"] == {"max_value": 0.95, "min_value": 0.0, "type": "uniform"}
    assert said["width"] == {"max_value": 4000, "min_value": 1, "q": 1, "type": "quniform"}
    bounds = {"max_value": 4.852030263919617, "min_value": 2.772588722239781}
    assert said["batch_size"] == {**bounds, "q": 1, "type": "qloguniform"}
    assert said["step"] == {"max_value": 1.0, "min_value": 0.0, "q": 0.25, "type": "quniform"}
    assert said["name"] == {"type": "choice", "values": ["sgd", "adam"]}


def test_scikit_learn_draws_inside_the_space():
    from sklearn.model_selection import ParameterSampler

    space = {**COMMON, **STEPS, "single": FloatDistribution(2, 2)}
    for params in ParameterSampler(spaces.to_scipy(space), n_iter=100, random_state=0):
        assert params.pop("optimizer") in space["optimizer"].choices
        to_unit_cube({name: space[name] for name in params}, params)  # refuses what lies outside


@pytest.mark.parametrize("name", ["batch", "share", "layers", "width", "rate", "momentum"])
def test_scipy_draws_as_optuna_does(name):
    """Two samples of 4,000 each: their distribution functions are no further apart than chance allows."""
    from scipy.stats import ks_2samp

    distribution, sampler = {**COMMON, **STEPS}[name], optuna.samplers.RandomSampler(0)
    drawn = [sampler.sample_independent(None, None, name, distribution) for _ in range(4000)]
    said = spaces.to_scipy({name: distribution})[name].rvs(size=4000, random_state=1)
    assert ks_2samp(np.round(drawn, 9), np.round(said, 9)).pvalue > 0.01
