"""The series' own methods, driven by `tune` as the lessons drive them."""

from __future__ import annotations

import optuna
from driving import EPOCHS, Report, Space, TimedLauncher, main
from methods import SETTINGS, methods_of

from hpo_helpers.resuming import reports_of
from hpo_helpers.tuning import tune


def tuned(method):
    """Return a function that makes a new study, and the space to tune over."""
    return lambda space, seed, first: (method(seed), space)


def run_tune(peer: tuple[optuna.Study, Space], launcher: TimedLauncher, timeout: float) -> list[Report]:
    """Tune, and return all reports in the order of their time."""
    study, space = peer
    tune(study, space, launcher, epochs=EPOCHS, timeout=timeout, progress=False)
    attributes = [metrics for trial in study.trials for metrics in reports_of(trial)]
    reports = [Report(m["epoch"], m[launcher.metric], m["time"], m) for m in attributes]
    return sorted(reports, key=lambda report: report.time)


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ours = methods_of(SETTINGS["cnn, default first"])
    main({name: tuned(method) for name, method in ours.items()}, run_tune)
