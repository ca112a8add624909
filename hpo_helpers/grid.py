"""A grid whose cells are each trained once, by however many workers and processes."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.samplers import GridSampler
from optuna.trial import FrozenTrial, TrialState


class EachCellOnce(GridSampler):
    """Optuna's GridSampler, with cells that follow from the trials' numbers alone.

    A new trial takes the first cell that no trial before it has. Whoever asks reckons the same, so no two
    take one cell. Optuna draws cells at random once the grid's size is reached, twice where two ask at the
    same time, and knows no cell of a trial that was queued by hand or queued again.

    Parameters
    ----------
    sampler
        Whose grid it is, in its order of cells.
    """

    def __init__(self, sampler: GridSampler) -> None:
        self.__dict__.update(vars(sampler))

    def is_open(self, study: optuna.Study) -> bool:
        """Return whether a cell is without a trial, or a trial waits in the queue."""
        taken = set(self._cells(study).values())
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return bool(waiting) or len(taken - {None}) < len(self._all_grids)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Write down the trial's cell, as Optuna does; if none is left, that the trial does not count."""
        storage, number = study._storage, trial._trial_id
        cell = self._cells(study)[trial.number]
        if cell is None and trial.system_attrs.get("fixed_params"):
            return  # somebody's own configuration
        if cell is None:
            storage.set_trial_user_attr(number, "requeued", True)
        storage.set_trial_system_attr(number, "search_space", self._search_space)
        storage.set_trial_system_attr(number, "grid_id", cell or 0)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: Any, values: Any) -> None:
        """Leave it to `tune` when the grid is through."""

    def _cells(self, study):
        """Return each trial's cell, by number; None for one without."""
        cells, free = {}, set(range(len(self._all_grids)))
        # Not study.get_trials: a pruner may show the sampler a part of the study.
        for trial in study._storage.get_all_trials(study._study_id, deepcopy=False):
            cell = self._known_cell(trial)
            is_new = not trial.state.is_finished() and not trial.system_attrs.get("fixed_params")
            if cell is None and is_new:
                cell = min(free, default=None)
            cells[trial.number] = cell
            free.discard(cell)
        return cells

    def _known_cell(self, trial):
        values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        cell = tuple(values.get(name, self) for name in self._param_names)
        if cell in self._all_grids:
            return self._all_grids.index(cell)
        if self._same_search_space(trial.system_attrs.get("search_space", {})):
            return trial.system_attrs["grid_id"]
        return None
