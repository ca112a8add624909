"""Record what lesson 05 reads: the curves of 81 random configurations, and one run of its live part.

    python data/record_lesson_05.py          # about 15 minutes on 2 cores

It may be interrupted at any time: run again, it goes on with the configuration at which it stood.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import optuna
import pandas as pd
from optuna.pruners import HyperbandPruner, NopPruner
from optuna.samplers import RandomSampler, TPESampler

from hpo_helpers.comparing import reports
from hpo_helpers.jobs.local import LocalLauncher
from hpo_helpers.journal import open_journal
from hpo_helpers.spaces import MNIST_CNN
from hpo_helpers.train_mnist import train
from hpo_helpers.tuning import tune

HERE = Path(__file__).resolve().parent
JOURNAL = Path(tempfile.gettempdir()) / "record_lesson_05.journal"

N_CURVES = 81
CURVE_EPOCHS = 27
LIVE_EPOCHS = 9
LIVE_SECONDS = 25


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    curves = run("lesson-05-curves", RandomSampler(seed=5), NopPruner(), epochs=CURVE_EPOCHS, n_trials=N_CURVES)
    live_pruner = HyperbandPruner(min_resource=1, max_resource=LIVE_EPOCHS, reduction_factor=3)
    live = run("lesson-05", TPESampler(seed=5), live_pruner, epochs=LIVE_EPOCHS, timeout=LIVE_SECONDS)
    write_curves(curves, HERE / "mnist_cnn_81_curves.csv.gz")
    write_study(live, HERE / "lesson_05_live.journal")
    JOURNAL.unlink()


def run(name: str, sampler, pruner, **limits) -> optuna.Study:
    study = optuna.create_study(
        study_name=name, sampler=sampler, pruner=pruner, storage=open_journal(JOURNAL), load_if_exists=True
    )
    with LocalLauncher(train, n_workers=2, fixed={"seed": 0}) as launcher:
        tune(study, MNIST_CNN, launcher, **limits)
    return study


def write_curves(study: optuna.Study, path: Path) -> None:
    """Write one row an epoch: the configuration, its hyperparameters, the errors and the seconds."""
    params = pd.DataFrame({trial.number: trial.params for trial in study.trials}).T.rename_axis("trial")
    params = params.astype({"batch_size": int, "n_channels": int}).reset_index()
    curves = reports(study)[["trial", "epoch", "valid_error", "test_error", "seconds"]]
    table = params.merge(curves, on="trial").rename(columns={"trial": "configuration"})
    table = table.sort_values(["configuration", "epoch"])
    table.to_csv(path, index=False, float_format="%.6g", compression={"method": "gzip", "mtime": 0})


def write_study(study: optuna.Study, path: Path) -> None:
    """Write a study as a journal of its own, without the host and the process that ran it."""
    path.unlink(missing_ok=True)
    copy = optuna.create_study(study_name=study.study_name, storage=open_journal(path))
    for trial in study.trials:
        trial.user_attrs.pop("owner")
        copy.add_trial(trial)


if __name__ == "__main__":
    main()
