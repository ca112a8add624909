"""The MLP with 13 hyperparameters: its space, its training, and a recording that goes on where it stopped."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import optuna
import pandas as pd
import pytest

from hpo_helpers.datasets import load_mnist, load_table
from hpo_helpers.spaces import MNIST_MLP_13

DATA = Path(__file__).parents[1] / "data"
SCRIPT = runpy.run_path(str(DATA / "record_mlp_13.py"))


def test_the_space_has_a_momentum_under_sgd_alone():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    trials = [(trial := study.ask(), MNIST_MLP_13(trial)) for _ in range(30)]
    assert {(params["optimizer"], len(params)) for _, params in trials} == {("sgd", 13), ("adam", 12)}
    ends = {name: (d.low, d.high) for trial, _ in trials for name, d in trial.distributions.items() if hasattr(d, "low")}
    assert [ends[name] for name in ("learning_rate", "width", "momentum")] == [(1e-4, 1), (16, 256), (0, 0.99)]


def test_a_seed_gives_the_same_bits_in_another_process():
    settings = "schedule='cosine', shift=2, dropout_input=0.2, dropout_hidden=0.2"
    code = f"from mnist_mlp_13 import *; [print(*train(1, seed, {settings})) for seed in (5, 6)]"
    paths = {"PYTHONPATH": f"{DATA.parent}{os.pathsep}{DATA}"}
    run = [sys.executable, "-W", "ignore", "-c", code]
    first, again = (subprocess.check_output(run, env=os.environ | paths, text=True).splitlines() for _ in range(2))
    assert first == again and first[0] != first[1]


def test_a_diverged_network_counts_as_guessing():
    assert [row["valid_error_1000"] for row in SCRIPT["train"](3, 0, optimizer="sgd", learning_rate=1e20)] == [0.9, 0.9]


if os.environ.get("HPO_HELPERS_MNIST"):

    def test_no_image_to_train_on_validates_or_tests():
        few, whole = load_mnist(), load_mnist(full=True)
        trained = {image.tobytes() for image in few.train[0]}
        assert not any(image.tobytes() in trained for images, _ in few[1:] + whole[1:] for image in images)


def test_what_two_methods_train_alike_is_trained_once(tmp_path, monkeypatch):
    trained = []
    for name in ("random", "random + successive halving"):
        monkeypatch.setitem(SCRIPT["METHODS"], name, SCRIPT["METHODS"][name]._replace(epochs=10 * 27))

    def train(epochs, seed, **params):
        trained.append((seed, epochs))
        for epoch in [epoch for epoch in (1, 3, 9, 27) if epoch <= epochs]:
            yield {"epoch": epoch, "valid_error": params["learning_rate"] + params["dropout_input"] / epoch}

    method, run, columns = "random + successive halving", SCRIPT["run"], slice("method", "valid_error")
    alone = run(method, 3, tmp_path / "alone.csv", train)
    n_alone = len(trained)
    run("random", 3, tmp_path / "random_3.csv", train)
    trained.clear()
    shared = run(method, 3, tmp_path / "random_successive_halving_3.csv", train)
    pd.testing.assert_frame_equal(shared.loc[:, columns], alone.loc[:, columns])
    assert len(trained) <= n_alone - 10  # all that random search had drawn


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("method", ["multivariate TPE", "CMA-ES", "random + Hyperband"])
def test_an_interrupted_run_goes_on_to_the_same_table_and_trains_nothing_twice(method, tmp_path):
    run, read, path, trained = SCRIPT["run"], SCRIPT["read"], tmp_path / "run.csv", []

    def train(epochs, seed, **params):
        trained.append(seed)
        if len(trained) in (4, 40):
            raise KeyboardInterrupt
        for epoch in [epoch for epoch in (1, 3, 9, 27) if epoch <= epochs]:
            yield {"epoch": epoch, "valid_error": params["learning_rate"] + params["dropout_input"] / epoch}

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(method, 3, path, train)
    run(method, 3, path, train)
    interrupted = read(path).drop(columns="seconds")
    assert len(trained) - 2 == len(set(trained)) == interrupted["network_seed"].nunique()
    run(method, 3, tmp_path / "at_once.csv", train)
    pd.testing.assert_frame_equal(interrupted, read(tmp_path / "at_once.csv").drop(columns="seconds"))
    assert interrupted.groupby("network_seed")["epoch"].max().sum() == 27 * (50 + 5)
    path.write_text(path.read_text().replace(",relu,", ",tanh,"))
    with pytest.raises(ValueError, match="recorded {.*tanh.*}, proposed {.*relu"):
        run(method, 3, path, train)


@pytest.fixture(scope="module")
def recorded():
    return load_table("mnist_mlp_13")


@pytest.mark.parametrize("network_seed", [10_000_003, 10_000_016, 2_000_006])
def test_a_recorded_training_comes_out_again_but_for_how_a_processor_rounds(recorded, network_seed):
    rows = pd.concat([recorded, load_table("mnist_mlp_13_wide")]).query("network_seed == @network_seed").head(4)
    params = {name: value for name, value in rows.iloc[0][SCRIPT["NAMES"]].items() if pd.notna(value)}
    params |= {name: int(params[name]) for name in ("n_layers", "width", "batch_size", "shift")}
    anew = pd.DataFrame(SCRIPT["train"](3, int(rows["network_seed"].iloc[0]), **params))
    for name in ("valid_error_1000", "test_error_1000"):
        assert abs(anew[name].to_numpy() - rows[name].to_numpy()[:2]).max() < 0.03


def test_the_gate_came_to_what_the_datasheet_says(recorded):
    gate = runpy.run_path(str(DATA.parent / "benchmarks" / "mlp_13.py"))
    found = gate["verdict"](gate["gains"](recorded))
    text = " ".join((DATA / "README.md").read_text(encoding="utf-8").split())
    assert "gain {gain:.2f} points (95 % interval {low:.2f} to {high:.2f}), *p* = {p_value:.3f} by".format(**found) in text
    assert f"ten seeds would have shown {found['detectable']:.2f} points" in text
    alone = recorded.query("method == 'default alone' and state == 'refit' and epoch == 27")["test_error"].mean()
    assert f"the default once gives {alone:.2%}".replace("%", " %") in text
    refits = recorded.query("state == 'refit' and epoch == 27 and 1000 <= seed < 1010")
    means = refits.groupby(["seed", "method"])["test_error"].mean().groupby("method").mean()
    others = "random + successive halving", "multivariate TPE + Hyperband", "Gaussian process"
    assert "found {:.2%} and {:.2%} and {:.2%}".format(*means.loc[[*others]]).replace("%", " %") in text


def test_the_noise_is_of_twenty_configurations_under_twenty_seeds_and_as_the_datasheet_says():
    noise = load_table("mnist_mlp_13_noise").query("epoch == 27")
    configurations = noise.groupby(SCRIPT["NAMES"], dropna=False, sort=False)["test_error"]
    assert configurations.size().tolist() == [20] * 20 and noise["network_seed"].is_unique
    assert not set(noise["network_seed"]) & set(load_table("mnist_mlp_13")["network_seed"])
    ordered = pd.DataFrame({"mean": configurations.mean(), "variance": configurations.var()}).mul([100, 1e4])
    best, others = ordered["variance"].iloc[:10].mean() ** 0.5, ordered["variance"].iloc[10:].mean() ** 0.5
    text = " ".join((DATA / "README.md").read_text(encoding="utf-8").split())
    said = f"{best:.2f} points for the ten best and {others:.2f} for the others, whose means go up to {ordered['mean'].max():.0f} %"
    assert said in text
