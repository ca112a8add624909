"""What a release hands out: the wheel holds all that a lesson needs, in an environment that has nothing of ours."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from notebook_files import NOTEBOOKS

ROOT = NOTEBOOKS.parent
SCRIPT = runpy.run_path(str(NOTEBOOKS / "dist.py"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, as a release builds it."""
    return SCRIPT["build"](tmp_path_factory.mktemp("dist"))


@pytest.fixture
def python(wheel: Path, tmp_path: Path) -> Path:
    """The Python of an environment in which the wheel is installed, and what it depends on is borrowed from here."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    # Borrowed folders come last, and the editable installation of this checkout does not come with them.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", packages, wheel], check=True)
    return tmp_path / "venv" / "bin" / "python"


def test_the_first_lesson_runs_from_the_wheel_alone(python: Path, tmp_path: Path) -> None:
    shutil.copytree(NOTEBOOKS, tmp_path / "notebooks", ignore=shutil.ignore_patterns("__pycache__", ".*", "solutions"))
    found = subprocess.check_output([python, "-P", "-c", "import hpo_helpers; print(hpo_helpers.__file__)"], text=True)
    assert Path(found).is_relative_to(python.parents[1])
    run = [python, tmp_path / "notebooks" / "run.py", "01"]
    borrowed = {"JUPYTER_PATH": str(Path(sys.prefix) / "share" / "jupyter")}  # nbconvert's templates
    ended = subprocess.run(run, cwd=tmp_path, env=os.environ | borrowed, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "01_problem_definition" in ended.stdout and (tmp_path / "build" / "01_problem_definition.html").is_file()


def test_the_sources_hold_what_a_checkout_holds(wheel: Path) -> None:
    (sources,) = wheel.parent.glob("*.tar.gz")
    listed = subprocess.check_output(["tar", "-tzf", sources], text=True).splitlines()
    names = {name.partition("/")[2] for name in listed}
    assert {"Makefile", "README.md", "constraints.txt", "tests/test_dist.py", "notebooks/run.py"} <= names
    assert not any(re.match(r"\.venv|build|dist/", name) for name in names)


def test_the_bundles_readme_names_what_is_in_the_bundle() -> None:
    facts = {"name": "hpo_helpers", "version": "1", "python": "3.11", "system": "Linux x86_64", "command": "python3.11"}
    text = SCRIPT["README"].format(**facts, extras=SCRIPT["EXTRAS"])
    assert f'--find-links wheels "hpo_helpers[{SCRIPT["EXTRAS"]}]"' in text and "--notebook-dir=notebooks" in text
    assert f".[{SCRIPT['EXTRAS']}]" in (ROOT / "Makefile").read_text(encoding="utf-8")
