"""What is recorded in data/: whole, within the search space, and like what training gives anew."""

import gzip
import math
import re
import runpy
import shutil
from pathlib import Path

import pandas as pd
import pytest
from optuna.trial import TrialState

from hpo_helpers import datasets
from hpo_helpers.comparing import reports
from hpo_helpers.datasets import load_curves, load_study, load_table
from hpo_helpers.spaces import MNIST_CNN
from hpo_helpers.train_mnist import train

GRIDS = {"mnist_cnn_curves": 1008, "mnist_mlp_curves": 360}
DATA = datasets._recorded_folder()
RUNS = {**GRIDS, "mnist_cnn_noise": 12 * 20, "mnist_cnn_81_curves": 81}


def names_in(curves):
    return [name for name in MNIST_CNN if name in curves]


@pytest.mark.parametrize("name", RUNS)
def test_every_curve_is_whole_and_lies_in_the_search_space(name):
    curves = load_curves(name)
    runs = curves.groupby(["configuration", "seed"])
    assert len(runs) == RUNS[name]
    assert (runs["epoch"].apply(list).map(tuple) == tuple(range(1, 28))).all()
    for hyperparameter in names_in(curves):
        distribution = MNIST_CNN[hyperparameter]
        assert curves[hyperparameter].between(distribution.low, distribution.high).all()
        assert runs[hyperparameter].nunique().eq(1).all()
    assert curves[["valid_error", "test_error"]].stack().between(0, 1).all()
    assert curves["seconds"].between(0.01, 30).all()
    assert not curves.isna().any().any()


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_is_full_and_reaches_exactly_to_the_bounds_of_the_space(name):
    curves = load_curves(name)
    configurations = curves[names_in(curves)].drop_duplicates()
    n_levels = [curves[hyperparameter].nunique() for hyperparameter in configurations]
    assert len(configurations) == GRIDS[name] == math.prod(n_levels)
    for hyperparameter in configurations:
        distribution = MNIST_CNN[hyperparameter]
        low, high = curves[hyperparameter].min(), curves[hyperparameter].max()
        assert (low, high) == (distribution.low, distribution.high)
    assert set(MNIST_CNN) - set(configurations) <= {"n_channels"}


def test_the_noise_is_of_recorded_configurations_from_poor_to_best():
    grid = load_curves().query("epoch == 27").set_index("configuration")
    noise = load_curves("mnist_cnn_noise").query("epoch == 27")
    assert noise.groupby("configuration").size().eq(20).all()
    assert not set(noise["seed"]) & set(grid["seed"])
    params = noise.drop_duplicates("configuration").set_index("configuration")[list(MNIST_CNN)]
    pd.testing.assert_frame_equal(params, grid.loc[params.index, list(MNIST_CNN)])
    ranks = grid["valid_error"].rank(pct=True)[params.index]
    assert ranks.min() < 0.01 and ranks.max() > 0.85


def test_the_comparison_has_the_same_seeds_for_every_method_and_some_of_it_comes_out_again():
    script = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "methods.py"))
    recorded = load_table("method_comparison").query("setting == 'cnn'").drop(columns="setting")
    seeds = recorded.groupby("method")["seed"].agg(set)
    assert set(seeds.index) == {*script["METHODS"], script["ALONE"]}
    assert all(found == seeds["random search"] for found in seeds)
    few = {name: script["METHODS"][name] for name in ("random search + successive halving", "TPE", "Gaussian process")}
    anew = script["compare"](script["CNN"], [6003], n_jobs=1, methods=few)
    same = recorded[recorded["method"].isin([*few, script["ALONE"]]) & (recorded["seed"] == 6003)]
    anew, same = (table.sort_values(["method", "time"], ignore_index=True)[recorded.columns] for table in (anew, same))
    pd.testing.assert_frame_equal(anew, same, atol=2e-5, check_dtype=False)


def test_the_recordings_are_small():
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 3_000_000


# Seeds decide how the first epochs go. The recorded noise is of the configurations that were recorded
# twenty times, so those are trained anew, under a seed that they were recorded with.
@pytest.mark.parametrize("place", [0, 5])
def test_training_anew_gives_the_first_epochs_within_the_recorded_noise(place):
    noise = load_curves("mnist_cnn_noise").query("epoch <= 2")
    configuration = noise["configuration"].unique()[place]
    recorded = noise[noise["configuration"] == configuration]
    params = recorded.iloc[0][list(MNIST_CNN)].to_dict()
    params |= {name: int(params[name]) for name in ("batch_size", "n_channels")}
    anew = pd.DataFrame(train(**params, seed=int(recorded["seed"].iloc[0]), epochs=2))
    for name in ("valid_error", "test_error"):
        by_epoch = recorded.groupby("epoch")[name]
        # Another processor rounds otherwise, which is like another seed.
        distance = abs(anew.set_index("epoch")[name] - by_epoch.mean())
        assert (distance < 5 * by_epoch.std() + 0.01).all()


@pytest.mark.parametrize("name", ["lesson_05_live", "lesson_05_refits"])
def test_a_recorded_study_is_loaded_into_memory_and_names_no_machine(name):
    study = load_study(name)
    assert reports(study)["value"].between(0, 1).all()
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert all("owner" not in trial.user_attrs for trial in study.trials)
    before = (DATA / f"{name}.journal").read_bytes()
    study.ask()
    assert (DATA / f"{name}.journal").read_bytes() == before


def test_the_recorded_run_pruned():
    states = [trial.state for trial in load_study("lesson_05_live").trials]
    assert states.count(TrialState.PRUNED) > states.count(TrialState.COMPLETE) > 0


def test_the_datasheet_says_how_close_the_replay_comes():
    """The table in data/README.md is what benchmarks/replay_accuracy.py computes; interpolation is closer."""
    script = runpy.run_path(str(DATA.parent / "benchmarks" / "replay_accuracy.py"))
    measured, datasheet = script["accuracy"](), (DATA / "README.md").read_text(encoding="utf-8")
    for row in measured.itertuples(index=False):
        assert f"| {' | '.join(map(str, row))} |" in datasheet
    assert f"by {100 * script['noise']():.0f} % in the median" in datasheet
    deviation = measured["median deviation"].str.rstrip("%").astype(int)
    linear, nearest = (deviation[measured["way"] == way].to_numpy() for way in ("linear", "nearest"))
    assert (linear < nearest).all()


def test_an_installed_package_finds_its_recordings_inside_itself(tmp_path, monkeypatch):
    package = tmp_path / "hpo_helpers"
    (package / "data").mkdir(parents=True)
    for name in ("mnist_cnn_81_curves.csv.gz", "mnist_5000.npz"):
        shutil.copy(DATA / name, package / "data")
    monkeypatch.setattr(datasets, "__file__", str(package / "datasets.py"))
    assert len(load_curves("mnist_cnn_81_curves")) == 81 * 27
    assert len(datasets._load_5000.__wrapped__().train[1]) == 3000
    with pytest.raises(FileNotFoundError, match=f"'nothing.journal': it would lie in {package}/data"):
        load_study("nothing")


def test_no_recording_holds_a_path_or_a_host():
    for path in [*DATA.glob("*.md"), *DATA.glob("*.journal"), *DATA.glob("*.gz")]:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
        assert not re.search(r"/(home|root|tmp|work)/|\"host\"|\"pid\"", text), path.name
