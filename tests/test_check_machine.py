"""``python -m hpo_helpers``: what it says of a machine, sound or not."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from hpo_helpers import __main__ as check
from hpo_helpers.datasets import recordings

ROOT = Path(__file__).parents[1]
HIDE_MXNET = 'import sys\nsys.modules["mxnet"] = None\n'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH that says of the package what its installation would say."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = project["dependencies"] + [
        f'{line}; extra == "dev"' for line in project["optional-dependencies"]["dev"]
    ]
    write_metadata(tmp_path, needs)
    return tmp_path


def write_metadata(site: Path, needs: list[str]) -> None:
    """Write the metadata of an installed package that needs others."""
    folder = site / "hpo_helpers-0.1.0.dist-info"
    folder.mkdir(exist_ok=True)
    lines = [
        "Metadata-Version: 2.1",
        "Name: hpo_helpers",
        "Version: 0.1.0",
        *(f"Requires-Dist: {need}" for need in needs),
    ]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")


def check_machine(site: Path) -> subprocess.CompletedProcess[str]:
    """Run the check with `site` first on the path."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    command = [sys.executable, "-m", "hpo_helpers"]
    return subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True, timeout=300)


def test_a_sound_machine_is_told_what_will_train(site: Path) -> None:
    result = check_machine(site)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    subjects = [line.split()[1] for line in lines if line.startswith("ok ")]
    assert subjects[0] == "Python" and {"numpy", "optuna", "jupyter"} <= set(subjects)
    assert subjects[-5:] == ["processors", "MNIST", "recordings", "MXNet", "lessons"]
    assert "one epoch of training in" in result.stdout
    assert "5,000 images" in result.stdout
    assert "training here: " in result.stdout and lines[-1] == "This machine is ready."


def test_it_says_which_lessons_need_more_and_nothing_is_wrong_with_that(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = ["numpy>=1.26", 'inspyred>=99; extra == "evolution"', 'no-such-package>=1; extra == "aws"', 'numpy>=1; extra == "azure"']
    monkeypatch.setattr(check.importlib.metadata, "requires", lambda name: needs)
    found = list(check.check_extras())
    assert [(finding.subject, finding.to_do) for finding in found] == [("lesson 07", ""), ("lesson 11", "")]
    assert [finding.said.partition("pip install ")[2] for finding in found] == ['"inspyred>=99"', '"no-such-package>=1"']


def test_without_mxnet_where_there_is_one_it_says_how_to_install_it(site: Path) -> None:
    (site / "sitecustomize.py").write_text(HIDE_MXNET)
    result = check_machine(site)
    assert result.returncode == 1
    assert "WRONG  MXNet            cannot train here\n       -> MXNet is not installed" in result.stdout
    assert "pip install" in result.stdout
    assert "run, on recorded training" in result.stdout


def test_without_mxnet_where_there_is_none_the_machine_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mxnet", None)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    mxnet = check.check_mxnet()
    assert not mxnet.to_do and "recorded training" in mxnet.said
    assert "run, on recorded training" in check.check_lessons(mxnet).said


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        ("raise OSError('libgomp.so.1 is missing')", "OSError: libgomp.so.1 is missing"),
        (
            "import os; os._exit(9)",
            "it ended with code 9: run `pip install --force-reinstall --no-deps mxnet`",
        ),
    ],
)
def test_a_broken_mxnet_is_found_and_the_lessons_that_would_fail_are_named(
    source: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mxnet.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    mxnet = check.check_mxnet()
    assert mxnet.said == "cannot train here" and advice in mxnet.to_do
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: "found")
    assert (
        "05" in check.check_lessons(mxnet).said
        and "failing where they train" in check.check_lessons(mxnet).said
    )


def test_training_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "TRAIN_ONE_EPOCH", "import time; time.sleep(600)")
    monkeypatch.setattr(check, "TRAINING_TIMEOUT", 0.1)
    assert check.check_mxnet().to_do == "end other programs and try again"


def test_a_package_that_is_missing_or_too_old_is_named_with_the_command(site: Path) -> None:
    write_metadata(site, ["numpy>=99", "no-such-package>=1.0", "optuna>=1", 'boto3>=99; extra == "aws"'])
    result = check_machine(site)
    assert result.returncode == 1
    assert '-> run `pip install "numpy>=99"`' in result.stdout
    assert (
        'no-such-package  not installed\n       -> run `pip install "no-such-package>=1.0"`' in result.stdout
    )
    assert "ok     optuna" in result.stdout and "boto3" not in result.stdout
    assert "MXNet" not in result.stdout, "what would fail for the same reason is left out"
    assert "2 to repair" in result.stdout


def test_a_prerelease_of_a_package_will_do() -> None:
    assert check.check_package("packaging", SpecifierSet(">=1")).to_do == ""


def test_a_course_that_is_not_installed_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> None:
        raise check.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(check.importlib.metadata, "requires", requires)
    (found,) = check.check_packages()
    assert "pip install ." in found.to_do


def test_an_old_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    assert "install Python 3.11" in check.check_python().to_do


def test_a_recording_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in recordings():
        shutil.copy(path, tmp_path)
    (tmp_path / "mnist_cnn_noise.csv.gz").write_bytes(b"damaged")
    monkeypatch.setattr("hpo_helpers.datasets._recorded_folder", lambda: tmp_path)
    found = check.check_recordings()
    assert "mnist_cnn_noise (BadGzipFile" in found.said and "curves (" not in found.said
    assert "install the course anew" in found.to_do


def test_recordings_that_are_not_there_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpo_helpers.datasets._recorded_folder", lambda: tmp_path)
    assert "none is there" in check.check_recordings().said


def test_every_recording_of_the_course_is_read() -> None:
    assert {path.name for path in recordings()} >= {"mnist_cnn_curves.csv.gz", "lesson_05_live.journal"}
    assert check.check_recordings().said == f"{len(recordings())} read"


def test_one_processor_is_enough_and_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)
    found = check.check_processors()
    assert "twice as long" in found.said and not found.to_do
