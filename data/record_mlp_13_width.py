"""Train what random search draws on the second problem from a wide space, and the same configurations under many seeds.

    HPO_HELPERS_MNIST=/folder/of/the/four/files python data/record_mlp_13_width.py     # half an hour on one core

``mnist_mlp_13_wide.csv.gz``: 180 random configurations from a space whose ranges are wider, for what width costs.
``mnist_mlp_13_noise.csv.gz``: 20 configurations under 20 seeds each, for how far training alone scatters; they are
every 12th of the better half of what random search trained to the end under the gate's seeds, sorted by validation error.

Interrupt it at any time: each training is written when it ends, and is not done again.
"""

import runpy
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pandas as pd
from optuna.samplers import RandomSampler

from hpo_helpers.spaces import MNIST_MLP_13

HERE = Path(__file__).resolve().parent
METHODS = runpy.run_path(str(HERE / "record_mlp_13.py"))
NAMES, read, write, params_of = (METHODS[name] for name in ("NAMES", "read", "write", "params_of"))

#: Ranges of the wide space, where they differ from those of `MNIST_MLP_13`.
WIDE = {
    "learning_rate": (1e-5, 10.0),
    "weight_decay": (1e-7, 0.1),
    "dropout_input": (0.0, 0.8),
    "dropout_hidden": (0.0, 0.8),
    "init_scale": (0.1, 10.0),
}
N_WIDE, N_CONFIGURATIONS, N_SEEDS = 180, 20, 20
WIDE_SEED, NOISE_SEED = 2_000_000, 3_000_000  # of the first network: no run of a method has these


class WideTrial:
    """A trial whose floats are suggested from the wide ranges."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.suggest_int, self.suggest_categorical, self._trial = trial.suggest_int, trial.suggest_categorical, trial

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Suggest a number; the range that is asked for counts where no wider one is known."""
        return self._trial.suggest_float(name, *WIDE.get(name, (low, high)), log=log)


def wide() -> Iterator[tuple[int, dict]]:
    """Yield the seed of a network and its configuration, drawn at random from the wide space."""
    study = optuna.create_study(sampler=RandomSampler(0))
    for number in range(N_WIDE):
        yield WIDE_SEED + number, MNIST_MLP_13(WideTrial(study.ask()))


def repeated() -> Iterator[tuple[int, dict]]:
    """Yield the seed of a network and its configuration, each configuration once a seed, seed by seed."""
    rows = read(HERE / "mnist_mlp_13.csv.gz").query(
        "method == 'random' and state == 'complete' and epoch == 27 and 1000 <= seed < 1010"
    ).sort_values(["valid_error", "network_seed"])
    chosen = rows.iloc[:: len(rows) // 2 // N_CONFIGURATIONS][:N_CONFIGURATIONS].to_dict("records")
    for seed in range(N_SEEDS):
        for number, row in enumerate(chosen):
            yield NOISE_SEED + N_SEEDS * number + seed, params_of(row)


def record(jobs: Iterator[tuple[int, dict]], path: Path) -> None:
    """Train what the table lacks, with the first configurations first; write after each training."""
    table = read(path) if path.exists() else pd.DataFrame({"network_seed": []}, dtype=int)
    for network_seed, params in jobs:
        if (table["network_seed"] == network_seed).any():
            continue
        start = time.process_time()
        integers = {name: int(params[name]) for name in ("n_layers", "width", "batch_size", "shift")}
        curve = pd.DataFrame(METHODS["train"](METHODS["FULL_LENGTH"], network_seed, **params | integers))
        seconds = round(time.process_time() - start, 3)
        values = {name: params.get(name) for name in NAMES}
        rows = curve.assign(network_seed=network_seed, **values, seconds=seconds)
        table = pd.concat([table, rows[["network_seed", *NAMES, *curve.columns, "seconds"]]], ignore_index=True)
        write(table, path)


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if "valid_error" not in METHODS["parts"]():
        raise SystemExit("HPO_HELPERS_MNIST must name the folder of MNIST's files: errors are measured on them")
    record(wide(), HERE / "mnist_mlp_13_wide.csv.gz")
    record(repeated(), HERE / "mnist_mlp_13_noise.csv.gz")


if __name__ == "__main__":
    main()
