"""What is recorded in data/: whole, within the search space, and like what training gives anew."""

from __future__ import annotations

import gzip
import re
import shutil

import pandas as pd
import pytest
from optuna.trial import TrialState

from hpo_helpers import datasets
from hpo_helpers.comparing import reports
from hpo_helpers.datasets import load_curves, load_study
from hpo_helpers.spaces import MNIST_CNN
from hpo_helpers.train_mnist import train


def test_every_curve_is_whole_and_lies_in_the_search_space():
    curves = load_curves()
    assert curves.groupby("configuration")["epoch"].apply(list).map(len).eq(27).all()
    assert sorted(curves["configuration"].unique()) == list(range(81))
    for name, distribution in MNIST_CNN.items():
        assert curves[name].between(distribution.low, distribution.high).all()
        assert curves.groupby("configuration")[name].nunique().eq(1).all()
    assert curves[["valid_error", "test_error"]].stack().between(0, 1).all()
    assert not curves.isna().any().any()


def test_training_anew_gives_what_was_recorded():
    curves = load_curves()
    configuration = curves.loc[curves[curves["epoch"] == 27]["valid_error"].idxmin(), "configuration"]
    recorded = curves[curves["configuration"] == configuration].head(3)
    params = recorded.iloc[0][list(MNIST_CNN)].to_dict()
    params |= {name: int(params[name]) for name in ("batch_size", "n_channels")}
    anew = pd.DataFrame(train(**params, seed=0, epochs=3))
    # Another processor rounds otherwise, and after an epoch the errors are a few images apart.
    for name in ("valid_error", "test_error"):
        difference = recorded[name].to_numpy() - anew[name].to_numpy()
        assert abs(difference[0]) < 0.06 and abs(difference[2]) < 0.025


@pytest.mark.parametrize("name", ["lesson_05_live", "lesson_05_refits"])
def test_a_recorded_study_is_loaded_into_memory_and_names_no_machine(name):
    study = load_study(name)
    assert reports(study)["value"].between(0, 1).all()
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert all("owner" not in trial.user_attrs for trial in study.trials)
    before = [path.read_bytes() for path in (datasets._recording(f"{name}.journal"),)]
    study.ask()
    assert [path.read_bytes() for path in (datasets._recording(f"{name}.journal"),)] == before


def test_the_recorded_run_pruned():
    states = [trial.state for trial in load_study("lesson_05_live").trials]
    assert states.count(TrialState.PRUNED) > states.count(TrialState.COMPLETE) > 0


def test_an_unknown_recording_is_named():
    with pytest.raises(FileNotFoundError, match="'nothing.journal'"):
        load_study("nothing")


def test_an_installed_package_finds_its_recordings_inside_itself(tmp_path, monkeypatch):
    package = tmp_path / "hpo_helpers"
    (package / "data").mkdir(parents=True)
    shutil.copy(datasets._recording("mnist_cnn_81_curves.csv.gz"), package / "data")
    monkeypatch.setattr(datasets, "__file__", str(package / "datasets.py"))
    assert len(load_curves()) == 81 * 27


def test_no_recording_holds_a_path_or_a_host():
    folder = datasets._recording("README.md").parent
    for path in folder.iterdir():
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
        if path.suffix != ".py":
            assert not re.search(r"/home/|/root/|/tmp/|/work/|\"host\"|\"pid\"", text), path.name
