"""``python -m hpo_helpers``: what it says of a machine, sound or not."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpo_helpers import __main__ as check
from hpo_helpers.datasets import recordings

ROOT = Path(__file__).parents[1]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Return a function that has the installed package need what it is given."""
    return lambda *needs: monkeypatch.setattr(check.importlib.metadata, "requires", lambda name: needs)


@pytest.fixture
def fake_mxnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that puts some source in MXNet's place, for processes that are started."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    return (tmp_path / "mxnet.py").write_text


def test_a_sound_machine_is_told_what_will_train(tmp_path: Path) -> None:
    (tmp_path / "hpo_helpers-0.1.0.dist-info").mkdir()
    needs = 'Requires-Dist: numpy>=1\nRequires-Dist: optuna>=1\nRequires-Dist: jupyter>=1; extra == "dev"\n'
    metadata = f"Metadata-Version: 2.1\nName: hpo_helpers\nVersion: 0.1.0\n{needs}"
    (tmp_path / "hpo_helpers-0.1.0.dist-info" / "METADATA").write_text(metadata)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "hpo_helpers"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    subjects = [line.split()[1] for line in lines if line.startswith("ok ")]
    assert subjects[:4] == ["Python", "numpy", "optuna", "jupyter"]
    assert subjects[4:] == ["processors", "data", "MXNet", "lessons"]
    assert "one epoch of training in" in result.stdout
    assert f"MNIST and {len(recordings())} recordings read" in result.stdout
    assert "training here, with MXNet: 01" in result.stdout and lines[-1] == "This machine is ready."


def test_it_says_which_lessons_need_more_and_nothing_is_wrong_with_that(installed) -> None:
    aws = 'no-such-package>=1; extra == "aws"'
    installed("numpy>=1", 'inspyred>=99; extra == "evolution"', aws, 'numpy>=1; extra == "azure"')
    _, *found = check._check_packages()
    assert [(subject, to_do) for subject, _, to_do in found] == [("lesson 07, 11", ""), ("lesson 11", "")]
    commands = [said.partition("pip install ")[2] for _, said, _ in found]
    assert commands == ['"inspyred>=99"', '"no-such-package>=1"']


def test_without_mxnet_it_says_how_to_install_it_where_there_is_one(fake_mxnet, monkeypatch) -> None:
    fake_mxnet("raise ModuleNotFoundError(name='mxnet')")
    found = check._check_training()
    assert found.said == "cannot train here" and found.to_do.startswith("MXNet is not installed")
    assert "pip install" in found.to_do
    monkeypatch.setitem(sys.modules, "mxnet", None)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    training = check._check_training()
    assert not training.to_do and "recorded training" in training.said
    assert "run, on recorded training" in check._check_lessons(training).said


def test_where_pytorch_alone_is_installed_its_twin_will_train(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: "found" if name == "torch" else None)
    (tmp_path / "torch.py").write_text("raise OSError('libgomp.so.1 is missing')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    found = check._check_training()
    assert found == ("PyTorch", "cannot train here", "OSError: libgomp.so.1 is missing")
    said = check._check_lessons(found._replace(to_do="")).said
    assert said.startswith("training here, with PyTorch: 01, 05") and "11" not in said, "which sends MXNet's script"


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        ("raise OSError('libgomp.so.1 is missing')", "OSError: libgomp.so.1 is missing"),
        ("import os; os._exit(9)", "ended with code 9: run `pip install --force-reinstall --no-deps mxnet`"),
    ],
)
def test_a_broken_mxnet_is_found_and_the_lessons_that_would_fail_are_named(
    source: str, advice: str, fake_mxnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_mxnet(source)
    mxnet = check._check_training()
    assert mxnet.said == "cannot train here" and advice in mxnet.to_do
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: "found")
    said = check._check_lessons(mxnet).said
    assert "05" in said and "failing where they train" in said


def test_training_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "TRAIN_ONE_EPOCH", "import time; time.sleep(600)")
    monkeypatch.setattr(check, "TRAINING_TIMEOUT", 0.1)
    assert check._check_training().to_do == "end other programs and try again"


def test_a_package_that_is_missing_or_too_old_is_named_with_the_command(installed, capsys) -> None:
    installed("numpy>=99", "no-such-package>=1.0", "optuna>=1", 'boto3>=1; extra == "aws"')
    assert check.main() == 1
    said = capsys.readouterr().out
    assert '-> run `pip install "numpy>=99"`' in said
    assert 'no-such-package  not installed\n       -> run `pip install "no-such-package>=1.0"`' in said
    assert "ok     optuna" in said and "boto3" not in said
    assert "MXNet" not in said, "what would fail for the same reason is left out"
    assert "2 to repair" in said


def test_a_course_that_is_not_installed_and_an_old_python_are_named(monkeypatch) -> None:
    def requires(name: str) -> None:
        raise check.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(check.importlib.metadata, "requires", requires)
    (found,) = check._check_packages()
    assert "pip install ." in found.to_do
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    assert "install Python 3.11" in check._check_python().to_do


def test_recordings_that_are_damaged_or_missing_are_named(tmp_path: Path, monkeypatch) -> None:
    whole = recordings()
    monkeypatch.setattr("hpo_helpers.datasets._recorded_folder", lambda: tmp_path)
    monkeypatch.setattr("hpo_helpers.datasets.load_mnist", lambda: None)
    assert "none is there" in check._check_data().said
    for path in whole:
        shutil.copy(path, tmp_path)
    (tmp_path / "mnist_cnn_noise.csv.gz").write_bytes(b"damaged")
    found = check._check_data()
    assert "mnist_cnn_noise (BadGzipFile" in found.said and "curves (" not in found.said
    assert "install the course anew" in found.to_do
