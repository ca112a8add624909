"""Record what lesson 04 says of dimensions, names and noise: three samplers in four cases, over many seeds.

    OMP_NUM_THREADS=1 python data/record_lesson_04.py    # about 10 minutes on one core; nothing is trained
Interrupt it at any time: it goes on with what the file lacks.
"""

from itertools import product
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import RandomSampler, TPESampler

from hpo_helpers.curves import NoisyCurves, cnn_curves
from hpo_helpers.gaussian_process import GaussianProcessSampler
from hpo_helpers.spaces import MNIST_CNN

PATH = Path(__file__).resolve().parent / "lesson_04_cases.csv.gz"
SEEDS, N_TRIALS, KEYS = range(100), 40, ["case", "method", "seed"]

IDLE = {f"idle_{number}": FloatDistribution(0, 1) for number in range(15)}
RATES = CategoricalDistribution([float(f"{rate:.3g}") for rate in np.geomspace(1e-3, 1, 100)])
CASES = {  # what is searched, and whether the errors that the sampler is told have noise
    "as it is, without noise": (MNIST_CNN, False),
    "15 more that do nothing": (MNIST_CNN | IDLE, False),
    "100 names for the rate": (MNIST_CNN | {"learning_rate": RATES}, False),
    "noise of training": (MNIST_CNN, True),
}
SAMPLERS = {
    "random search": RandomSampler,
    "TPE": lambda seed: TPESampler(seed=seed),
    "Gaussian process": GaussianProcessSampler,
}


def search(case: str, method: str, seed: int) -> dict:
    """Return a row: the error of the incumbent of 40 trials, without noise."""
    space, is_noisy = CASES[case]
    told = NoisyCurves(seed) if is_noisy else cnn_curves()
    study = optuna.create_study(sampler=SAMPLERS[method](seed))
    for _ in range(N_TRIALS):
        trial = study.ask(space)
        error = told({name: trial.params[name] for name in MNIST_CNN})[-1]["valid_error"]
        trial.report(error, 27)
        study.tell(trial, error)
    found = cnn_curves()({name: study.best_params[name] for name in MNIST_CNN})[-1]
    return {"case": case, "method": method, "seed": seed, "valid_error": found["valid_error"]}


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table = pd.read_csv(PATH) if PATH.exists() else pd.DataFrame(columns=KEYS)
    done = set(table[KEYS].itertuples(index=False, name=None))
    for seed in SEEDS:
        missing = [run for run in product(CASES, SAMPLERS, [seed]) if run not in done]
        if missing:
            table = pd.concat([table, pd.DataFrame([search(*run) for run in missing])])
            table.to_csv(PATH, index=False, compression={"method": "gzip", "mtime": 0})
