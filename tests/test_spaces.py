from __future__ import annotations

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpo_helpers.spaces import MNIST_CNN, to_unit_cube


def test_bounds_are_0_and_1_and_a_logarithmic_middle_is_one_half():
    space = {"rate": FloatDistribution(1e-4, 1.0, log=True), "width": IntDistribution(10, 30)}
    assert to_unit_cube(space, {"rate": 1e-4, "width": 30}) == {"rate": 0.0, "width": 1.0}
    assert to_unit_cube(space, {"rate": 1e-2, "width": 15}) == {"rate": pytest.approx(0.5), "width": 0.25}


def test_a_range_of_one_value_has_its_middle_there():
    assert to_unit_cube({"width": IntDistribution(3, 3)}, {"width": 3}) == {"width": 0.5}


def test_a_value_outside_its_range_is_named():
    with pytest.raises(ValueError, match=r"'learning_rate' must lie in \[0.001, 1.0\], got 2.0"):
        to_unit_cube({"learning_rate": MNIST_CNN["learning_rate"]}, {"learning_rate": 2.0})


def test_a_choice_has_no_bounds():
    with pytest.raises(ValueError, match="'kind' has no lower and upper bound"):
        to_unit_cube({"kind": CategoricalDistribution(["a", "b"])}, {"kind": "a"})
