"""A grid whose cells are each trained once, by however many workers and processes."""

import time
from typing import Any

import optuna
from optuna.samplers import GridSampler
from optuna.trial import FrozenTrial, TrialState

from hpo_helpers.resuming import is_being_asked_for


class EachCellOnce(GridSampler):
    """Optuna's GridSampler, with a cell for each new trial that no trial before it has.

    Optuna draws cells at random once there are as many trials as cells, twice where two workers ask at the
    same time, and knows no cell of a trial that was queued by hand or queued again.
    """

    def __init__(self, sampler: GridSampler) -> None:
        self.__dict__.update(vars(sampler))
        self.n_cells = len(self._all_grids)
        self._known: dict[int, int] = {}  # cells by trial

    def is_open(self, study: optuna.Study) -> bool:
        """Return whether a cell is without a trial, or a trial waits in the queue."""
        trials = self._trials(study)
        is_waiting = any(trial.state == TrialState.WAITING for trial in trials)
        return is_waiting or len({*map(self._cell_of, trials)} - {None}) < self.n_cells

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Write down the trial's cell, or that it does not count if none is left."""
        storage, trial_id = study._storage, trial._trial_id
        *cells, cell = self._cells_up_to(study, trial.number)
        if cell is None and trial.system_attrs.get("fixed_params"):
            return  # somebody's own configuration
        if cell is None:
            cell = min(set(range(self.n_cells)) - set(cells), default=None)
        if cell is None:
            storage.set_trial_user_attr(trial_id, "requeued", True)
            cell = 0
        # What stands there of a trial that was queued; by it, it is queued again.
        values = dict(zip(self._param_names, self._all_grids[cell], strict=True))
        storage.set_trial_system_attr(trial_id, "fixed_params", values)
        storage.set_trial_system_attr(trial_id, "grid_id", cell)
        storage.set_trial_system_attr(trial_id, "search_space", self._search_space)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: Any, values: Any) -> None:
        """Leave it to `tune` when the grid is through."""

    def _cells_up_to(self, study, number):
        """Return the cells of the first trials, once others have written down theirs."""
        while True:
            trials = self._trials(study)[: number + 1]
            cells = [self._cell_of(trial) for trial in trials]
            asked_for = [trial for trial in trials[:-1] if is_being_asked_for(trial)]
            if all(trial.system_attrs.get("fixed_params") for trial in asked_for):
                return cells
            time.sleep(0.01)

    def _cell_of(self, trial):
        if trial.number not in self._known and (cell := self._look_up(trial)) is not None:
            self._known[trial.number] = cell
        return self._known.get(trial.number)

    def _look_up(self, trial):
        values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        cell = tuple(values.get(name, self) for name in self._param_names)
        if cell in self._all_grids:  # also where another order of cells was drawn
            return self._all_grids.index(cell)
        if self._same_search_space(trial.system_attrs.get("search_space", {})):
            return trial.system_attrs["grid_id"]
        return None

    def _trials(self, study):
        # Not study.get_trials: a pruner may show the sampler a part of the study.
        return study._storage.get_all_trials(study._study_id, deepcopy=False)
