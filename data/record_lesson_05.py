"""Record what lesson 05 reads: the curves of 81 random configurations, one run of its live part, and its refits.

    python data/record_lesson_05.py          # about 15 minutes on 2 cores

It may be interrupted at any time: run again, it goes on with the configuration at which it stood.
"""

import tempfile
from pathlib import Path

import optuna
import pandas as pd
from optuna.distributions import CategoricalDistribution
from optuna.pruners import HyperbandPruner, NopPruner
from optuna.samplers import GridSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from hpo_helpers.comparing import anytime, reports
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
SEEDS = {"seed": [1, 2, 3, 4]}


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    configurations = draw_configurations()
    curves = make_study("lesson-05-curves", RandomSampler(), NopPruner())
    for params in configurations:
        curves.enqueue_trial(params, skip_if_exists=True)
    run(curves, MNIST_CNN, {"seed": 0}, epochs=CURVE_EPOCHS, n_trials=N_CURVES)
    write_curves(curves, configurations, HERE / "mnist_cnn_81_curves.csv.gz")

    live = make_study("lesson-05", TPESampler(seed=5), HyperbandPruner(1, LIVE_EPOCHS, 3))
    run(live, MNIST_CNN, {"seed": 0}, epochs=LIVE_EPOCHS, timeout=LIVE_SECONDS)
    write_study(live, HERE / "lesson_05_live.journal")

    incumbent = live.trials[int(anytime(live)["trial"].iloc[-1])].params
    refits = make_study("lesson-05-refits", GridSampler(SEEDS, seed=0), NopPruner())
    space = {"seed": CategoricalDistribution(SEEDS["seed"])}
    run(refits, space, incumbent, epochs=LIVE_EPOCHS, n_trials=len(SEEDS["seed"]))
    write_study(refits, HERE / "lesson_05_refits.journal")
    JOURNAL.unlink()


def draw_configurations() -> list[dict]:
    """Draw all configurations beforehand: a sampler that is interrupted begins its seed's sequence anew."""
    study = optuna.create_study(sampler=RandomSampler(seed=5))
    return [study.ask(MNIST_CNN).params for _ in range(N_CURVES)]


def make_study(name: str, sampler, pruner) -> optuna.Study:
    """Make a study in the journal, or open it if it is there."""
    return optuna.create_study(
        study_name=name, sampler=sampler, pruner=pruner, storage=open_journal(JOURNAL), load_if_exists=True
    )


def run(study: optuna.Study, space: dict, fixed: dict, **limits) -> None:
    """Train on two workers."""
    with LocalLauncher(train, n_workers=2, fixed=fixed) as launcher:
        tune(study, space, launcher, **limits)


def write_curves(study: optuna.Study, configurations: list[dict], path: Path) -> None:
    """Write one row an epoch: the configuration, its hyperparameters, the errors and the seconds."""
    trials = {str(trial.params): trial.number for trial in study.trials if trial.state == TrialState.COMPLETE}
    numbers = {trials[str(params)]: configuration for configuration, params in enumerate(configurations)}
    curves = reports(study).query("trial in @numbers")
    curves = curves.assign(configuration=curves["trial"].map(numbers))
    params = pd.DataFrame(configurations).rename_axis("configuration").reset_index()
    table = params.merge(curves[["configuration", "epoch", "valid_error", "test_error", "seconds"]])
    table = table.assign(seed=0)[["configuration", *MNIST_CNN, "seed", "epoch", "valid_error", "test_error", "seconds"]]
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
