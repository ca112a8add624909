"""What is installed, and by whom: pyproject.toml, constraints.txt, environment.yml, Makefile and CI."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from notebook_files import LESSONS, SOLUTIONS, publisher, runner
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PYTHONS = ["3.11", "3.12", "3.13"]


def read(name: str) -> str:
    """Return the text of a file of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


project = tomllib.loads(read("pyproject.toml"))["project"]
base = [Requirement(line) for line in project["dependencies"]]
extras = {name: [Requirement(line) for line in lines] for name, lines in project["optional-dependencies"].items()}
by_hand = extras.pop("torch")  # make leaves it out
declared = base + [requirement for requirements in extras.values() for requirement in requirements]
pins = [Requirement(line) for line in read("constraints.txt").splitlines() if not line.startswith("#")]


def pinned(name: str, python: str) -> Version:
    """Return the version that constraints.txt names under a Python."""
    fitting = [
        pin
        for pin in pins
        if canonicalize_name(pin.name) == canonicalize_name(name)
        and (pin.marker is None or pin.marker.evaluate({"python_version": python}))
    ]
    assert len(fitting) == 1, f"{name} has {len(fitting)} pins for Python {python}"
    return Version(next(iter(fitting[0].specifier)).version)


def test_requirements_are_lower_bounds_only() -> None:
    assert {specifier.operator for requirement in declared for specifier in requirement.specifier} == {">="}
    assert all(requirement.specifier for requirement in declared)


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_one_exact_version_within_its_bounds(python: str) -> None:
    assert {specifier.operator for pin in pins for specifier in pin.specifier} == {"=="}
    assert all(requirement.specifier.contains(pinned(requirement.name, python)) for requirement in declared)
    assert python in SpecifierSet(project["requires-python"])


def test_constraints_name_no_host_no_path_and_no_torch() -> None:
    assert [str(pin) for pin in pins if pin.url or pin.extras or pin.name == "torch"] == []
    assert not re.search(r"://|^-|^/|@", read("constraints.txt"), re.MULTILINE)


def test_numpy_is_the_last_that_mxnet_asks_for_where_there_is_a_wheel_of_it() -> None:
    assert pinned("numpy", "3.11") == pinned("numpy", "3.12") < Version("2") < pinned("numpy", "3.13")


def test_all_that_is_installed_for_the_package_is_pinned() -> None:
    installed = {canonicalize_name(found.name): found for found in importlib.metadata.distributions()}
    needed, waiting = set(), list(declared)
    while waiting:
        name = canonicalize_name(waiting.pop().name)
        if name in installed and name not in needed:
            needed.add(name)
            needs = map(Requirement, installed[name].requires or [])
            waiting += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    assert needed - {canonicalize_name(pin.name) for pin in pins} == set() != needed


def test_recordings_are_installed_where_the_package_looks_for_them() -> None:
    build = tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["force-include"] == {"data": "hpo_helpers/data"}
    assert 'package / "data"' in read("hpo_helpers/datasets.py")


def test_what_the_package_imports_is_what_it_asks_for() -> None:
    ours = {path.stem for path in (ROOT / "hpo_helpers").rglob("*.py")} | {"hpo_helpers"}
    imported = {
        name
        for path in (ROOT / "hpo_helpers").rglob("*.py")
        for name in imported_names(path)
        if name not in sys.stdlib_module_names and name not in ours
    }
    names = {imported_as(requirement.name) for requirement in base}
    in_extras = {
        imported_as(requirement.name)
        for extra in ("mxnet", "evolution", "cluster", "aws", "azure")
        for requirement in extras[extra]
    }
    # The first three come with boto3, flask and distributed; a notebook has the next; the last runs on Azure alone.
    others = {"botocore", "werkzeug", "dask", "IPython", "mlflow", *(requirement.name for requirement in by_hand)}
    assert imported - names - in_extras <= others
    # Optuna imports cmaes, a command starts the dashboard, and lessons import scikit-learn.
    assert names - imported <= {"cmaes", "optuna_dashboard", "sklearn"}


@pytest.mark.parametrize("path", [*LESSONS, *SOLUTIONS], ids=lambda path: path.stem)
def test_a_lesson_imports_what_its_setup_cell_installs(path: Path) -> None:
    names = publisher.EXTRAS.get(path.stem[:2], "").split(",")
    wanted = [*base, *(requirement for name in names for requirement in extras.get(name, []))]
    installed = {imported_as(requirement.name) for requirement in wanted}
    source = "\n".join(cell.source for cell in runner.code_cells(nbformat.read(path, as_version=4)))
    known = installed | {"hpo_helpers", "mxnet", "IPython", *sys.stdlib_module_names}
    known |= {"botocore"} if "boto3" in installed else set()
    assert names_in(TransformerManager().transform_cell(source)) <= known


def imported_as(name: str) -> str:
    """Return the first name under which a distribution is imported."""
    return {"scikit-learn": "sklearn", "azure-ai-ml": "azure", "pyyaml": "yaml"}.get(name, name).replace("-", "_")


def imported_names(path: Path) -> set[str]:
    """Return the first names of all that a file imports."""
    return names_in(path.read_text(encoding="utf-8"))


def names_in(source: str) -> set[str]:
    """Return the first names of all that Python source imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


def test_conda_gets_what_make_installs() -> None:
    python, pip, section = yaml.safe_load(read("environment.yml"))["dependencies"]
    assert pip == "pip"
    assert python.removeprefix("python=") in SpecifierSet(project["requires-python"])
    assert Version(python.removeprefix("python=")) < Version("3.13"), "pip cannot resolve MXNet from 3.13 on"
    constraint, editable = section["pip"]
    assert constraint == "--constraint constraints.txt"
    installed = re.fullmatch(r"--editable \.\[(.+)\]", editable)[1].split(",")
    assert installed == list(extras)
    assert f"'.[{','.join(installed)}]'" in read("Makefile")
    assert f'".[{",".join(installed)}]"' in read("README.md")
    container = json.loads(read(".devcontainer/devcontainer.json"))
    assert container["postCreateCommand"].startswith(f"pip install --constraint constraints.txt --editable '.[{','.join(installed)}]'")
    assert re.search(r"python:(.+)-bookworm", container["image"])[1] == python.removeprefix("python=")


def test_pip_resolves_mxnet_where_make_adds_it() -> None:
    (mxnet,) = [requirement for requirement in extras["mxnet"] if requirement.name == "mxnet"]
    platforms = str(mxnet.marker).partition(" and (")[2].removesuffix(")").replace('"', "'")
    assert f'"mxnet; {platforms}"' in read("Makefile")


def test_continuous_integration_runs_the_readme_s_command_on_every_supported_python() -> None:
    job = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]["test"]
    assert job["strategy"]["matrix"]["python-version"] == PYTHONS
    assert job["steps"][-1]["run"] == "make PYTHON=python test"
    assert f"SUPPORTED := {' '.join(PYTHONS)}\n" in read("Makefile")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert read(".ci/run").splitlines()[-1] == "make test"
    assert "\nmake test" in read("README.md")


def test_the_licences_are_named_alike_everywhere() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["license"] == ["Apache-2.0", "CC-BY-4.0"]
    images = "CC-BY-SA-3.0"  # those of MNIST in data/ are not ours to license
    assert project["license"].split(" AND ") == [*citation["license"], images]
    assert citation["version"] == project["version"]
    day = f"{citation['date-released']:%-d %B %Y}"
    assert re.search(r"^## (.+)$", read("CHANGELOG.md"), re.M)[1] == f"{project['version']}, {day}"
    assert "Apache License" in read("LICENSE") and "Version 2.0" in read("LICENSE")
    assert "Attribution 4.0 International" in read("LICENSE-CC-BY-4.0")
    assert all((ROOT / name).exists() for name in project["license-files"])


FAKE_PYTHON = """#!/bin/sh
# Answers as a Python would, and makes environments whose Python writes down what it is asked to do.
case "$*" in
  *sys.base_prefix*) echo "$FAKE_VERSION $FAKE_VERSION.1 /an installation" ;;
  *ensurepip*) test -z "$FAKE_LACKS_VENV" ;;
  "-m venv --clear"*)
    mkdir -p "$4/bin"
    echo '#!/bin/sh' > "$4/bin/python"
    echo 'echo "$*" >> log' >> "$4/bin/python"
    echo 'case "$*" in *pip*) test -z "$FAKE_PIP_FAILS" ;; esac' >> "$4/bin/python"
    chmod +x "$4/bin/python"
    echo venv "$4" >> log ;;
esac
"""

#: What `make test` has Python do.
TEST = "-m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder"

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout at a path that is not easy, and a Python beside it."""
    folder = tmp_path / "a chäckout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    python = tmp_path / "a python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    return folder


def make(checkout: Path, *targets: str, version: str = "3.12", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run make in `checkout` with the fake Python."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    environment |= {"FAKE_VERSION": version, "PYTHON": "../a python"} | variables
    return subprocess.run(["make", *targets], cwd=checkout, env=environment, capture_output=True, text=True, timeout=60)


def log(checkout: Path) -> list[str]:
    """Return what the fake Pythons were asked to do since the last call."""
    lines = (checkout / "log").read_text().splitlines()
    (checkout / "log").unlink()
    return lines


@needs_make
def test_make_sets_the_environment_up_once(checkout: Path) -> None:
    first = make(checkout, "test")
    assert (first.returncode, first.stderr) == (0, "")
    assert "two to four minutes" in first.stdout
    venv, package, mxnet, test = log(checkout)
    assert venv == "venv .venv/3.12"
    assert package.endswith("install --constraint constraints.txt --editable .[mxnet,evolution,cluster,aws,azure,dev]")
    assert "--no-deps mxnet; sys_platform" in mxnet
    assert test == TEST

    assert make(checkout, "run", LESSONS="05").stdout == ""
    assert log(checkout) == ["notebooks/run.py 05"]

    make(checkout, "outputs", LESSONS="05")
    assert log(checkout) == ["notebooks/run.py --write 05", "notebooks/minutes.py"]


@needs_make
@pytest.mark.parametrize("repository", ["jane/lessons", "", "jane/a b'; touch x"])
def test_make_publish_hands_the_name_on_as_it_is(checkout: Path, repository: str) -> None:
    make(checkout, "publish", f"REPOSITORY={repository}")
    assert log(checkout)[-1].rstrip() == f"notebooks/publish.py {repository}".rstrip()
    assert not (checkout / "x").exists()


@needs_make
@pytest.mark.parametrize("change", ["constraints", "pyproject", "place"])
def test_make_sets_a_stale_environment_up_anew(checkout: Path, change: str) -> None:
    make(checkout, "test")
    if change == "place":
        checkout = checkout.rename(checkout.with_name("elsewhere"))
    else:
        (path,) = checkout.glob(f"{change}.t*")
        path.write_text(path.read_text() + "# changed\n")
    log(checkout)
    make(checkout, "test")
    assert log(checkout)[0] == "venv .venv/3.12"
    make(checkout, "test")
    assert log(checkout) == [TEST]


@needs_make
def test_make_keeps_an_environment_for_each_python(checkout: Path) -> None:
    for version in ("3.12", "3.13"):
        make(checkout, "test", version=version)
        assert log(checkout)[0] == f"venv .venv/{version}"
    make(checkout, "test", version="3.12")
    assert log(checkout) == [TEST]


@needs_make
def test_make_does_not_take_a_half_made_environment_for_a_whole_one(checkout: Path) -> None:
    assert make(checkout, "test", FAKE_PIP_FAILS="1").returncode != 0
    assert TEST not in log(checkout)
    assert make(checkout, "test").returncode == 0
    assert log(checkout)[0] == "venv .venv/3.12"


INSTALL = "install Python 3.11, 3.12 or 3.13"
REFUSED = [
    ({"version": "3.10"}, f"make: '../a python' is Python 3.10; {INSTALL}, and name it: "),
    ({"version": "3.14"}, f"make: '../a python' is Python 3.14; {INSTALL}, and name it: "),
    ({"PYTHON": "false"}, f"make: 'false' does not start; {INSTALL}, or name one "),
    ({"PYTHON": "python3.99"}, f"make: 'python3.99' does not start; {INSTALL}, or name one "),
    ({"FAKE_LACKS_VENV": "1"}, "lacks its venv module; install it (Debian, Ubuntu: apt install python3.12-venv)"),
]


@needs_make
@pytest.mark.parametrize(("variables", "sentence"), REFUSED)
def test_make_refuses_a_python_that_will_not_do_in_one_sentence(
    checkout: Path, variables: dict[str, str], sentence: str
) -> None:
    result = make(checkout, "run", **variables)
    assert result.returncode != 0
    said, verdict = result.stderr.splitlines()
    assert sentence in said
    assert verdict.startswith("make: ***")
    assert not (checkout / ".venv").exists()


@needs_make
def test_make_help_lists_every_command_in_a_line(checkout: Path) -> None:
    commands = re.search(r"^\.PHONY: (.*)", read("Makefile"), re.MULTILINE)[1].split()
    lines = make(checkout, "help").stdout.splitlines()
    assert [line.split()[1] for line in lines] == [name for name in commands if name != "environment"]
    assert make(checkout).stdout.splitlines() == lines, "it is also what make says by itself"
    assert [name for name in commands[:-1] if f"`make {name}`" not in read("README.md")] == []


@needs_make
def test_make_clean_removes_what_make_made(checkout: Path) -> None:
    make(checkout, "test")
    (checkout / "build").mkdir()
    (checkout / "tests" / "__pycache__").mkdir(parents=True)
    assert make(checkout, "clean").returncode == 0
    left = ["Makefile", "constraints.txt", "log", "pyproject.toml", "tests"]
    assert sorted(path.name for path in checkout.iterdir()) == left
    assert list((checkout / "tests").iterdir()) == []
