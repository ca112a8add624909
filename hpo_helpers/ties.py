"""The same proposals of Optuna's TPE on every processor.

TPE gives each observation a width by its neighbours in the order of ``numpy.argsort``, which leaves equal
observations, as whole numbers often are, in an order that depends on the processor's instructions and on
NumPy's version. With this module imported they keep the order of their trials. Optuna sees to the same where
it splits the trials (its pull request 4056).
"""

from types import ModuleType

import numpy as np
from optuna.samplers._tpe import parzen_estimator


class _StableNumPy(ModuleType):
    """NumPy, but for the order of what is equal."""

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def argsort(values):
        return np.argsort(values, kind="stable")


parzen_estimator.np = _StableNumPy("numpy")
