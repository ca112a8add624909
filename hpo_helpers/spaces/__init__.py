"""What is searched: named search spaces, the unit cube, and the same space in other systems' dialects.

Each dialect has a function from a dict of Optuna distributions to what that system takes; Azure has one back.
What a dialect cannot say is a ValueError; nothing is rounded or left out in silence.
"""

from hpo_helpers import ties  # noqa: F401 (changes Optuna's TPE)
from hpo_helpers.spaces.azure import from_azure, to_azure
from hpo_helpers.spaces.named import MNIST_CNN, MNIST_MLP_13
from hpo_helpers.spaces.sagemaker import to_sagemaker
from hpo_helpers.spaces.scipy_stats import to_scipy
from hpo_helpers.spaces.unit_cube import from_unit_cube, to_unit_cube

__all__ = [
    "MNIST_CNN",
    "MNIST_MLP_13",
    "from_azure",
    "from_unit_cube",
    "to_azure",
    "to_sagemaker",
    "to_scipy",
    "to_unit_cube",
]
