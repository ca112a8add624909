"""HyperDrive's policies against their definition, written out a second time: slowly, over lists."""

import math
import random

import optuna
import pytest
from optuna.trial import TrialState

from hpo_helpers.policies import BanditPolicy, MedianStoppingPolicy, TruncationSelectionPolicy

DIRECTIONS = pytest.mark.parametrize("direction", ["maximize", "minimize"])
POLICIES = {
    "bandit_factor": lambda **when: BanditPolicy(slack_factor=0.25, **when),
    "bandit_amount": lambda **when: BanditPolicy(slack_amount=0.25, **when),
    "median": MedianStoppingPolicy,
    "truncation": lambda **when: TruncationSelectionPolicy(truncation_percentage=40, **when),
}
ENDS = {True: TrialState.PRUNED, False: TrialState.COMPLETE}
EVERY_POLICY = pytest.mark.parametrize("name", POLICIES)


# The definition. `logged` holds one list a run: what it logged for the intervals 1, 2, ...


def reference(name, logged, judged, direction, evaluation_interval=1, delay_evaluation=0):
    interval = len(logged[judged])
    multiples = [evaluation_interval * factor for factor in range(1, 100)]
    if interval not in [multiple for multiple in multiples if multiple >= delay_evaluation]:
        return False
    known = [run[:interval] for run in logged if run]
    here = [run[:interval] for run in logged if len(run) >= interval]
    best = max if direction == "maximize" else min
    rule = REFERENCES[name, direction]
    return rule(best(logged[judged]), [best(run) for run in known], known, [best(run) for run in here])


def lowest(bests, quality):
    """Return the values that end when 40 % of the runs do, all that are equal or none."""
    ranked = sorted(bests, key=quality)
    n_ending = len([rank for rank in range(1, len(ranked) + 1) if rank / len(ranked) <= 0.4])
    return [value for value in ranked[:n_ending] if value not in ranked[n_ending:]]


def middle(runs):
    averages = sorted(sum(run) / len(run) for run in runs)
    upper = averages[len(averages) // 2]
    return upper if len(averages) % 2 else (averages[len(averages) // 2 - 1] + upper) / 2


REFERENCES = {
    ("bandit_factor", "maximize"): lambda mine, bests, runs, here: mine + mine * 0.25 < max(bests),
    ("bandit_factor", "minimize"): lambda mine, bests, runs, here: mine > min(bests) + min(bests) * 0.25,
    ("bandit_amount", "maximize"): lambda mine, bests, runs, here: mine < max(bests) - 0.25,
    ("bandit_amount", "minimize"): lambda mine, bests, runs, here: mine > min(bests) + 0.25,
    ("median", "maximize"): lambda mine, bests, runs, here: mine < middle(runs),
    ("median", "minimize"): lambda mine, bests, runs, here: mine > middle(runs),
    ("truncation", "maximize"): lambda mine, bests, runs, here: mine in lowest(here, lambda value: value),
    ("truncation", "minimize"): lambda mine, bests, runs, here: mine in lowest(here, lambda value: -value),
}


def new_study(policy, direction="minimize"):
    return optuna.create_study(study_name="s", direction=direction, pruner=policy)


def log(study, *curves):
    """Add one running trial for each curve, and return them."""
    trials = [study.ask() for _ in curves]
    for trial, curve in zip(trials, curves, strict=True):
        for interval, value in enumerate(curve, start=1):
            trial.report(value, interval)
    return trials


def decisions(study, seed, n_runs=7, n_intervals=8):
    """Yield ``(logged, judged, ended)`` while runs log in random turns; those that are ended stop."""
    draw = random.Random(seed)
    trials = [study.ask() for _ in range(n_runs)]
    levels = [draw.randint(1, 7) for _ in trials]
    logged = [[] for _ in trials]
    running = list(range(n_runs))
    while running:
        judged = draw.choice(running[:4])  # not all start at once
        # Eighths are exact in floats, and few enough that runs are often equal or on the limit.
        logged[judged].append((levels[judged] + draw.randint(-1, 1)) / 8)
        trials[judged].report(logged[judged][-1], len(logged[judged]))
        ended = trials[judged].should_prune()
        yield logged, judged, ended
        if ended or len(logged[judged]) == n_intervals:
            study.tell(trials[judged], None if ended else logged[judged][-1], ENDS[ended])
            running.remove(judged)


@DIRECTIONS
@EVERY_POLICY
@pytest.mark.parametrize("when", [{}, {"evaluation_interval": 2, "delay_evaluation": 3}])
def test_a_policy_decides_as_its_definition_does(name, direction, when):
    seen = {True: 0, False: 0}
    for seed in range(20):
        study = new_study(POLICIES[name](**when), direction)
        for logged, judged, ended in decisions(study, seed):
            assert ended == reference(name, logged, judged, direction, **when), (seed, judged, logged)
            best = max if direction == "maximize" else min
            everyone = [value for run in logged for value in run]
            assert not (ended and best(logged[judged]) == best(everyone)), "the best so far goes on"
            seen[ended] += 1
    assert min(seen.values()) > 20


@EVERY_POLICY
@DIRECTIONS
def test_equal_runs_never_end_one_another(name, direction):
    # A plain mean of three equal numbers, of these two for instance, is not that number.
    for value in (0.8279099346958143, 0.9012872054264569):
        for n_intervals in range(1, 6):
            study = new_study(POLICIES[name](), direction)
            trials = log(study, [value] * n_intervals, *[[value] * n_intervals] * 4)
            assert not trials[0].should_prune() and not trials[-1].should_prune()


@DIRECTIONS
def test_a_ratio_of_a_negative_metric_raises_and_an_amount_serves(direction):
    best, bad = (-1.0, -2.0) if direction == "maximize" else (-2.0, -1.0)
    _, run = log(new_study(BanditPolicy(slack_factor=0.2), direction), [best], [bad])
    with pytest.raises(ValueError, match=f"got {best}: use slack_amount"):
        run.should_prune()
    good, run = log(new_study(BanditPolicy(slack_amount=0.2), direction), [best], [bad])
    assert (good.should_prune(), run.should_prune()) == (False, True)


@EVERY_POLICY
def test_a_run_without_a_number_is_ended_and_counts_for_nothing(name):
    study = new_study(POLICIES[name]())
    nothing, good = log(study, [math.nan, math.nan], [0.5, 0.5])
    assert nothing.should_prune()
    good.report(math.nan, 3)
    assert not good.should_prune()


def test_a_bandit_needs_one_slack_and_in_its_range():
    with pytest.raises(ValueError, match="got {'slack_factor': 0.1, 'slack_amount': 0.2}"):
        BanditPolicy(slack_factor=0.1, slack_amount=0.2)
    with pytest.raises(ValueError, match="got {'slack_factor': None, 'slack_amount': None}"):
        BanditPolicy()
    for name in ("slack_factor", "slack_amount"):
        for slack in (-0.1, math.nan, math.inf, "much"):
            with pytest.raises(ValueError, match=f"{name} must be .* got {slack!r}"):
                BanditPolicy(**{name: slack})


def test_a_percentage_out_of_range_raises_with_its_value():
    for percentage in (0, 100, 20.5):
        with pytest.raises(ValueError, match=f"from 1 to 99, got {percentage!r}"):
            TruncationSelectionPolicy(truncation_percentage=percentage)


def test_a_bad_interval_or_delay_raises_with_its_value():
    for bad in ({"evaluation_interval": 0}, {"evaluation_interval": 1.5}, {"delay_evaluation": -1}):
        ((name, value),) = bad.items()
        with pytest.raises(ValueError, match=f"{name} must be a whole number .*, got {value!r}"):
            MedianStoppingPolicy(**bad)
