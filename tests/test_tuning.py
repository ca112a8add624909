"""tune() by its contract, in virtual time: what is asked, reported, pruned and told, and when."""

import itertools
import math
import socket
import threading
import time
from collections import Counter

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from virtual import VirtualLauncher

from hpo_helpers import resuming
from hpo_helpers.comparing import anytime, reports
from hpo_helpers.jobs import make_report
from hpo_helpers.jobs.replay import ReplayLauncher
from hpo_helpers.progress import ProgressBar
from hpo_helpers.tuning import tune

SPACE = {"x": FloatDistribution(0.0, 1.0)}

DEAD = {"host": socket.gethostname(), "pid": 2**22 + 1, "started": 0.0}


def new_study(pruner=None, direction="minimize", sampler=None, **settings):
    settings["sampler"] = sampler or optuna.samplers.RandomSampler(seed=0)
    settings["pruner"] = pruner or optuna.pruners.NopPruner()
    return optuna.create_study(study_name="s", direction=direction, **settings)


def falling(params):
    """Nine epochs of one second; the better configuration has the smaller x."""
    for epoch in range(1, 10):
        yield 1.0, params["x"] + 1 / epoch


def run(study, curve=falling, n_workers=2, space=SPACE, launcher=None, **limits):
    launcher = launcher or VirtualLauncher(curve, n_workers)
    tune(study, space, launcher, **{"epochs": 9, "progress": False, **limits})
    return launcher


class InterruptedLauncher(VirtualLauncher):
    """Somebody presses Ctrl-C when its clock reads so many seconds."""

    def __init__(self, curve, n_workers, seconds):
        super().__init__(curve, n_workers)
        self.seconds = seconds

    def wait(self, jobs, timeout=None):
        super().wait(jobs, timeout)
        if self.clock() >= self.seconds:
            raise KeyboardInterrupt


class RecordingPruner(optuna.pruners.BasePruner):
    """Prunes above `limit`, and remembers what it was asked."""

    def __init__(self, limit=math.inf):
        self.limit, self.asked = limit, []

    def prune(self, study, trial):
        self.asked.append((trial.number, trial.last_step))
        return trial.intermediate_values[trial.last_step] > self.limit


def test_a_trial_is_told_the_value_of_its_last_epoch():
    study = new_study()
    assert list(anytime(study).columns) == ["trial", "epoch", "time", "value"]  # nothing yet
    run(study, n_trials=3)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 3
    for trial in study.trials:
        assert trial.value == trial.params["x"] + 1 / 9
        assert list(trial.intermediate_values) == list(range(1, 10))
    for direction, incumbents in (("minimize", [0.1]), ("maximize", [0.1, 0.5])):
        study = new_study(direction=direction)
        run(study, lambda params: iter([(1, 0.1), (1, 0.5), (1, 0.3)]), n_trials=1, epochs=3)
        assert (study.trials[0].value, anytime(study)["value"].tolist()) == (0.3, incumbents)


def test_the_pruner_is_asked_once_an_epoch_in_order_but_not_after_the_last():
    pruner = RecordingPruner()
    run(new_study(pruner), n_trials=2, n_workers=2)
    assert [step for number, step in pruner.asked if number == 0] == list(range(1, 9))
    assert pruner.asked[:4] == [(0, 1), (1, 1), (0, 2), (1, 2)]


def test_a_pruned_trial_stops_at_once_and_frees_its_worker():
    study = new_study(RecordingPruner(limit=0.0))
    launcher = run(study, n_trials=4, n_workers=1)
    assert launcher.clock() == 4.0
    assert {t.state for t in study.trials} == {TrialState.PRUNED}
    assert {t.user_attrs["stop_reason"] for t in study.trials} == {"pruned after epoch 1"}
    assert all(job.finished for job in launcher.jobs)


def test_reports_read_together_are_taken_one_by_one():
    class Hasty(VirtualLauncher):
        """Delivers all reports of all jobs in one go."""

        def wait(self, jobs, timeout=None):
            self.advance(100.0)

    pruner = RecordingPruner(limit=0.5)
    study = new_study(pruner)
    run(study, launcher=Hasty(falling, 2), n_trials=2)
    assert pruner.asked[:2] == [(0, 1), (1, 1)]
    assert all(list(t.intermediate_values) == [1] for t in study.trials)


def test_pruned_and_failed_jobs_hold_their_worker_until_they_are_gone():
    class Slow(VirtualLauncher):
        """A job told to stop takes three more seconds, as in a cloud."""

        def submit(self, params, epochs):
            job = super().submit(params, epochs)
            job.stop = lambda: (job._coming.clear(), setattr(job, "_end", self._now + 3.0))
            return job

    study = new_study(RecordingPruner(limit=0.0))
    launcher = run(study, launcher=Slow(falling, 1), n_trials=3)
    assert launcher.clock() == 12.0
    assert len(study.trials) == 3


def test_the_same_seeds_give_the_same_table():
    def table():
        pruner = optuna.pruners.HyperbandPruner(1, 9, 3)
        study = new_study(pruner, sampler=optuna.samplers.TPESampler(seed=0))
        run(study, lambda p: ((0.3 + p["x"], v) for _, v in falling(p)), n_trials=40, n_workers=4)
        return reports(study)

    assert table().equals(table())


def test_times_are_when_reports_were_made_and_metrics_are_kept_but_not_judged():
    study, metrics = new_study(), {"valid_error": 0.5, "test_error": np.float32(0.25), "seconds": 1.0}
    run(study, launcher=ReplayLauncher(n_workers=1, curves=lambda params: [metrics] * 9), n_trials=2)
    table = reports(study)
    assert table["time"].tolist() == [float(second) for second in range(1, 19)]
    assert set(table["valid_error"]) == set(table["value"]) == {0.5}
    assert set(table["test_error"]) == {0.25}  # a number of Python's


def test_n_trials_counts_those_of_earlier_calls_and_the_clock_goes_on():
    study = new_study()
    for n_trials in (2, 3, 3):
        run(study, n_trials=n_trials, n_workers=1)
    assert len(study.trials) == 3
    assert reports(study)["time"].max() == 27.0


def test_a_resumed_sampler_goes_on_with_its_sequence_and_a_new_one_does_not_repeat_it():
    study, whole = new_study(), new_study()
    run(whole, n_trials=6)
    for n_trials in (3, 6):
        run(study, n_trials=n_trials)
    assert [trial.params for trial in study.trials] == [trial.params for trial in whole.trials]
    study.sampler = optuna.samplers.RandomSampler(seed=0)  # as a new process makes it
    run(study, n_trials=9)
    assert len({trial.params["x"] for trial in study.trials}) == 9


def test_at_the_timeout_running_trials_are_told_pruned_with_the_reason():
    study = new_study()
    launcher = run(study, timeout=12.5, n_workers=1)
    assert launcher.clock() == 12.5
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert study.trials[1].user_attrs["stop_reason"] == "the study's 12.5 s were over"
    assert list(study.trials[1].intermediate_values) == [1, 2, 3]
    assert all(job.finished for job in launcher.jobs)
    assert run(study, timeout=14.0, n_workers=1).clock() == 1.5  # the time of earlier calls is included


def test_a_deadline_that_floats_cannot_meet_exactly_is_met():
    study = new_study()
    run(study, lambda params: iter([(0.1, 1.0)] * 9), n_trials=1, n_workers=1)
    launcher = run(study, lambda params: iter([(1e9, 1.0)] * 9), timeout=0.9 + 1e-17 + 0.3, n_workers=1)
    assert launcher.clock() == pytest.approx(0.3)


def test_a_study_that_only_fails_is_ended_with_the_last_error():
    def fails(params):
        raise ZeroDivisionError("never")
        yield

    study = new_study()
    with pytest.raises(RuntimeError, match=r"(?s)3 trials in a row failed, .*ZeroDivisionError: never.*max_failures=3"):
        run(study, fails, n_trials=100, max_failures=3)
    assert [t.state for t in study.trials if "requeued" not in t.user_attrs].count(TrialState.FAIL) == 3


def test_a_job_that_ends_without_a_report_has_failed():
    class Silent(VirtualLauncher):
        def submit(self, params, epochs):
            job = super().submit(params, epochs)
            job._coming.clear()
            return job

    study = new_study()
    run(study, launcher=Silent(falling), n_trials=1)
    assert study.trials[0].user_attrs["error"] == "the job ended without a report"


def test_an_interrupted_trial_is_closed_and_its_configuration_comes_first_next_time():
    study = new_study()
    launcher = InterruptedLauncher(falling, 2, 12.0)
    with pytest.raises(KeyboardInterrupt):
        run(study, launcher=launcher, n_trials=4)
    assert all(job.finished for job in launcher.jobs)
    cut_off = [t for t in study.trials if t.user_attrs.get("requeued")]
    assert len(cut_off) == 2
    assert {t.user_attrs["error"] for t in cut_off} == {"interrupted by KeyboardInterrupt"}
    run(study, n_trials=4)
    done = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(done) == 4
    assert [t.params for t in done[2:]] == [t.params for t in cut_off]
    assert [t.user_attrs["retry_of"] for t in done[2:]] == [t.number for t in cut_off]


def test_an_interrupt_while_a_configuration_is_drawn_leaves_no_trial_that_nobody_knows():
    class Interrupted(optuna.samplers.RandomSampler):
        def sample_independent(self, *arguments):
            if len(arguments[0].trials) == 3:
                raise KeyboardInterrupt
            return super().sample_independent(*arguments)

    study = new_study(sampler=Interrupted(seed=0))
    with pytest.raises(KeyboardInterrupt):
        run(study, n_trials=5, n_workers=1)
    assert TrialState.RUNNING not in {trial.state for trial in study.trials}
    (cut_off,) = [trial for trial in study.trials if trial.user_attrs.get("requeued")]
    assert cut_off.number == 2


def test_the_space_may_be_a_function_whose_errors_leave_no_trial_running():
    def space(trial):
        kind = trial.suggest_categorical("kind", ["plain", "deep"])
        depth = trial.suggest_int("depth", 2, 9) if kind == "deep" else 1
        return {"x": depth / 10, "constant": 7}

    study = new_study()
    launcher = run(study, space=space, n_trials=12)
    assert {len(t.params) for t in study.trials} == {1, 2}
    assert all(job.params["constant"] == 7 for job in launcher.jobs)
    study = new_study()
    with pytest.raises(ZeroDivisionError):
        run(study, space=lambda trial: 1 / 0, n_trials=3)
    assert [t.state for t in study.trials] == [TrialState.FAIL]


def test_a_space_that_searches_epochs_sets_the_length_of_the_job():
    space = SPACE | {"epochs": IntDistribution(1, 20)}
    study = new_study()
    run(study, space=space, n_trials=20)
    for trial in study.trials:
        assert max(trial.intermediate_values) == min(9, trial.params["epochs"])
        assert trial.state == TrialState.COMPLETE


CELLS = {"x": [0.1, 0.2, 0.3], "y": [1, None]}
GRID_SPACE = {name: CategoricalDistribution(values) for name, values in CELLS.items()}


def trained_cells(study):
    """Return how often each cell was trained to an end."""
    counted = [trial for trial in study.trials if "requeued" not in trial.user_attrs]
    assert all(trial.state.is_finished() for trial in counted)
    return Counter(tuple(trial.params.values()) for trial in counted)


EACH_ONCE = dict.fromkeys(itertools.product(*CELLS.values()), 1)


@pytest.mark.parametrize("n_workers", [1, 4, 9])
def test_a_grid_ends_by_itself_when_each_cell_was_trained_once(n_workers):
    study = new_study(sampler=optuna.samplers.GridSampler(CELLS, seed=0))
    for n_trials in (None, 100):
        run(study, space=GRID_SPACE, n_workers=n_workers, n_trials=n_trials)
        assert trained_cells(study) == EACH_ONCE and len(study.trials) == 6
    with pytest.raises(RuntimeError, match="supposed to be invoked"):
        study.stop()  # Optuna's own again
    assert type(study.sampler) is optuna.samplers.GridSampler
    assert study.sampler.is_exhausted(study)


def test_a_grid_that_is_interrupted_trains_each_cell_once():
    study = new_study(sampler=optuna.samplers.GridSampler(CELLS, seed=0))
    for seconds in (8.0, 12.0):
        with pytest.raises(KeyboardInterrupt):
            run(study, space=GRID_SPACE, launcher=InterruptedLauncher(falling, 2, seconds))
    abandoned = study.ask(GRID_SPACE)  # by a process that died
    abandoned.set_user_attr("owner", DEAD)
    study.sampler = optuna.samplers.GridSampler(CELLS, seed=0)
    run(study, space=GRID_SPACE, n_workers=4)
    assert trained_cells(study) == EACH_ONCE


def test_a_trial_of_a_living_process_is_left_alone():
    study = new_study()
    study.set_user_attr("tuned by a process of the past", DEAD)
    study.ask(SPACE)  # by hand, in this process
    run(study, n_trials=3)
    assert study.trials[0].state == TrialState.RUNNING


def test_what_a_process_on_another_machine_left_is_trained_here_unless_it_gives_a_sign_of_life(monkeypatch):
    monkeypatch.setattr(resuming, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(resuming, "SILENCE_SECONDS", 0.5)
    study, ended = new_study(), threading.Event()
    owners = {host: {"host": host, "pid": 1, "started": 0.0} for host in ("silent", "alive")}
    for owner in owners.values():
        study.ask(SPACE).set_user_attr("owner", owner)

    def live():
        while not ended.wait(0.05):
            study.set_user_attr(resuming._name(owners["alive"]), {**owners["alive"], "at": time.time()})

    thread = threading.Thread(target=live)
    thread.start()
    with pytest.warns(UserWarning) as warned:
        run(study, n_trials=4)
    numbers = [str(warning.message).partition(" are in training on ")[0] for warning in warned]
    assert numbers == ["trials 0, 1", "trials 1"]
    ended.set()
    thread.join()
    states = Counter(trial.state for trial in study.trials)
    assert states == {TrialState.COMPLETE: 3, TrialState.FAIL: 1, TrialState.RUNNING: 1}
    assert [t.params for t in study.trials if t.user_attrs.get("retry_of") == 0] == [study.trials[0].params]


@pytest.mark.parametrize("owner", [DEAD, DEAD | {"host": "gone"}])
def test_what_a_process_of_the_past_had_asked_for_but_not_signed_is_closed(monkeypatch, owner):
    monkeypatch.setattr(resuming, "BEGUN", math.inf)
    study = new_study()
    study.set_user_attr(resuming._name(owner), owner)
    study.ask(SPACE)
    run(study, n_trials=2)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] + [TrialState.COMPLETE] * 2


def test_a_configuration_whose_process_dies_each_time_fails_after_two_retries():
    study = new_study()
    study.enqueue_trial({"x": 0.5})
    for _ in range(3):
        study.ask(SPACE).set_user_attr("owner", DEAD)
        with pytest.raises(KeyboardInterrupt):  # which is no death of a process
            run(study, launcher=InterruptedLauncher(falling, 1, 1.0), n_trials=2)
    run(study, n_trials=2)
    counted = [trial for trial in study.trials if "requeued" not in trial.user_attrs]
    assert [trial.state for trial in counted] == [TrialState.FAIL, TrialState.COMPLETE]
    assert counted[0].params == {"x": 0.5} != counted[1].params
    assert counted[0].user_attrs["error"] == "its process ended before the trial did, 3 times"


def test_a_process_that_begins_beside_another_does_not_draw_the_same():
    alone, beside = new_study(), new_study()
    beside.set_user_attr("tuned by another", DEAD)
    for study in (alone, beside):
        run(study, n_trials=2)
    assert {t.params["x"] for t in alone.trials}.isdisjoint(t.params["x"] for t in beside.trials)


def test_the_space_may_prune_a_configuration_but_not_all():
    def space(trial):
        x = trial.suggest_int("x", 0, 3)
        if any(x == t.params["x"] for t in trial.study.get_trials(states=(TrialState.COMPLETE,))):
            raise optuna.TrialPruned("seen before")
        return {"x": x}

    study = new_study()
    launcher = run(study, space=space, n_trials=30, n_workers=1)
    assert sorted(job.params["x"] for job in launcher.jobs) == [0, 1, 2, 3]
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert {t.user_attrs["stop_reason"] for t in pruned} == {"pruned by the space: seen before"} and len(pruned) == 26
    with pytest.raises(RuntimeError, match="1000 configurations in a row, the last one with: seen before"):
        run(study, space=space, timeout=1e6)


def test_bad_settings_are_refused_with_their_value():
    with pytest.raises(ValueError, match="n_trials, timeout, or both"):
        run(new_study())
    bad = {"n_trials": 0, "timeout": -1.0, "trial_timeout": math.nan, "epochs": 2.5, "max_failures": 0}
    for name, value in bad.items():
        with pytest.raises(ValueError, match=f"{name} must be .* got {value}"):
            run(new_study(), **{"n_trials": 1, name: value})


def test_hyperband_on_a_study_without_a_name_warns():
    study = optuna.create_study(pruner=optuna.pruners.HyperbandPruner(1, 9, 3))
    with pytest.warns(UserWarning, match="pass study_name"):
        run(study, n_trials=1)


@pytest.mark.parametrize(
    "metrics, message",
    [
        ({"loss": 1.0}, r"must yield 'valid_error', got only \['loss'\]"),
        ({"valid_error": "0.1"}, "must be a number, got '0.1'"),
        ({"valid_error": True}, "must be a number, got True"),
        ({"valid_error": 0.1, "epoch": 3}, "must be a whole number over 3, got 3"),
        ({"valid_error": 0.1, "epoch": 4.5}, "must be a whole number over 3, got 4.5"),
    ],
)
def test_what_is_no_report_is_refused(metrics, message):
    with pytest.raises(ValueError, match=message):
        make_report(metrics, "valid_error", previous_epoch=3, time=0.0)


def test_progress_is_drawn_at_most_ten_times_a_second(monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    begun = time.monotonic()
    with ProgressBar(10, None) as bar:
        for _ in range(1000):
            bar.show(5, 0.0, 0.1)
        time.sleep(0.11)
        bar.show(6, 0.0, 0.1)
    drawn = capsys.readouterr().err
    assert "6/10 trials, incumbent 0.1" in drawn and drawn.count("\r") < 4 + 10 * (time.monotonic() - begun)
