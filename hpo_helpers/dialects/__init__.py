"""One search space in the dialects of other systems, and back.

Each dialect has two functions: one from a dict of Optuna distributions to what that system takes, and one back.
What a dialect cannot say is a ValueError that names the hyperparameter, its distribution and the dialect, and says
what to do. Nothing is rounded or left out in silence.
"""

from hpo_helpers.dialects.azure import from_azure, to_azure
from hpo_helpers.dialects.sagemaker import from_sagemaker, to_sagemaker
from hpo_helpers.dialects.scipy_stats import from_scipy, to_scipy
from hpo_helpers.dialects.syne_tune import from_syne_tune, to_syne_tune

__all__ = [
    "from_azure",
    "from_sagemaker",
    "from_scipy",
    "from_syne_tune",
    "to_azure",
    "to_sagemaker",
    "to_scipy",
    "to_syne_tune",
]
