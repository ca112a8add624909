"""Check a machine before a workshop: ``python -m hpo_helpers``.

Where something is wrong, a line says what to do, and the exit status is 1.
"""

import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

#: Seconds after which one epoch of training is taken to hang; it takes two.
TRAINING_TIMEOUT = 120

#: The extras that few lessons need.
EXTRAS = {"evolution": "07, 11", "cluster": "10", "aws": "11", "azure": "12"}

#: What lessons train with: the first of these that is installed.
TWINS = {"mxnet": ("MXNet", "train_mnist"), "torch": ("PyTorch", "train_mnist_torch")}

TRAIN_ONE_EPOCH = """
import importlib, sys

framework, twin = sys.argv[1:]
(metrics,) = importlib.import_module(f"hpo_helpers.{twin}").train(epochs=1)
version = sys.modules[framework].__version__
print(f"{version}, one epoch of training in {metrics['seconds']:.1f} s", end="")
"""


class Finding(NamedTuple):
    """What was found about one thing."""

    subject: str
    said: str
    to_do: str = ""  #: what to do, where something is wrong


def _check_python():
    said = f"{platform.python_version()} on {platform.system()} ({platform.machine()})"
    to_do = "" if sys.version_info >= (3, 11) else "install Python 3.11, 3.12 or 3.13"
    return Finding("Python", said, to_do)


def _check_packages():
    """Hold what is installed against the lower bounds; say which lessons need more."""
    try:
        lines = importlib.metadata.requires("hpo_helpers")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("hpo_helpers", "not installed", "run `pip install .` in the folder of the course")
        return
    from packaging.requirements import Requirement

    needed = [Requirement(line) for line in lines]
    yield from (_check_package(each) for each in needed if each.name == "jupyter" or not each.marker)
    for extra, lesson in EXTRAS.items():
        wanted = [each for each in needed if each.marker and each.marker.evaluate({"extra": extra})]
        missing = [f'"{each.name}{each.specifier}"' for each in wanted if _check_package(each).to_do]
        if missing:
            said = f"needs more than the others: pip install {' '.join(missing)}"
            yield Finding(f"lesson {lesson}", said)


def _check_package(needed):
    """Hold one installed package against a ``Requirement`` of packaging's."""
    to_do = f'run `pip install "{needed.name}{needed.specifier}"`'
    try:
        version = importlib.metadata.version(needed.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(needed.name, "not installed", to_do)
    will_do = needed.specifier.contains(version, prereleases=True)
    return Finding(needed.name, version, "" if will_do else to_do)


def _check_processors():
    from joblib import cpu_count

    slow = "" if cpu_count() > 1 else "; lessons that train take about twice as long"
    return Finding("processors", f"{cpu_count()}{slow}")


def _check_data():
    import optuna

    from .datasets import load_mnist, load_study, load_table, recordings

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    loaders = {"MNIST": load_mnist}
    for path in recordings():
        name, _, kind = path.name.partition(".")
        loaders[name] = partial(load_study if kind == "journal" else load_table, name)
    unreadable = []
    for name, load in loaders.items():
        try:
            load()
        except Exception as error:
            unreadable.append(f"{name} ({type(error).__name__}: {error})")
    if unreadable or len(loaders) == 1:
        said = f"unreadable: {', '.join(unreadable) or 'every recording, as none is there'}"
        anew = "install the course anew: run `pip install --force-reinstall --no-deps .` in its folder"
        return Finding("data", said, anew)
    return Finding("data", f"MNIST and {len(loaders) - 1} recordings read")


def _check_training():
    """Train for one epoch, in a process of its own: MXNet may take it down."""
    system = platform.system()
    is_packaged = system == "Linux" or (system, platform.machine()) == ("Darwin", "x86_64")
    framework = next(filter(importlib.util.find_spec, TWINS), "mxnet" if is_packaged else None)
    if framework is None:
        said = "none for this system; the lessons run on recorded training, or train by `pip install torch`"
        return Finding("MXNet", said)
    subject, twin = TWINS[framework]
    command = [sys.executable, "-c", TRAIN_ONE_EPOCH, framework, twin]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=TRAINING_TIMEOUT)
    except subprocess.TimeoutExpired:
        said = f"still training after {TRAINING_TIMEOUT} s"
        return Finding(subject, said, "end other programs and try again")
    if process.returncode == 0:
        return Finding(subject, process.stdout)
    again = f"run `pip install --force-reinstall --no-deps {framework}`"
    to_do = f"it ended with code {process.returncode}: {again}"
    if process.stderr.strip():
        to_do = process.stderr.strip().splitlines()[-1].removeprefix("ImportError: ")
    return Finding(subject, "cannot train here", to_do)


def _check_lessons(training):
    """Say which lessons train here, after what was found about training."""
    folder = Path(__file__).resolve().parents[1] / "notebooks"
    lessons = sorted(folder.glob("[0-9]*.ipynb"))
    asks = ("HAS_MXNET", "find_train")[training.subject == "PyTorch" :]
    texts = {path.stem[:2]: path.read_text(encoding="utf-8") for path in lessons}
    live = ", ".join(lesson for lesson, text in texts.items() if any(name in text for name in asks))
    if not lessons:
        return Finding("lessons", "not here; they are in the folder notebooks/ of the course")
    if not any(map(importlib.util.find_spec, TWINS)):
        return Finding("lessons", f"all {len(lessons)} run, on recorded training")
    if training.to_do:
        said = f"failing where they train, until {training.subject} is repaired: {live}"
        return Finding("lessons", said)
    return Finding("lessons", f"training here, with {training.subject}: {live}; the others replay")


def _check_machine():
    yield _check_python()
    packages = list(_check_packages())
    yield from packages
    if any(finding.to_do for finding in packages):
        return  # what follows would fail for the same reason
    yield _check_processors()
    yield _check_data()
    yield (training := _check_training())
    yield _check_lessons(training)


def main() -> int:
    """Print what was found and return the exit status."""
    n_wrong = 0
    for subject, said, to_do in _check_machine():
        n_wrong += bool(to_do)
        print(f"{'WRONG' if to_do else 'ok':5}  {subject:16} {said}", flush=True)
        if to_do:
            print(f"{'':7}-> {to_do}", flush=True)
    print(f"\n{n_wrong} to repair, see WRONG above." if n_wrong else "\nThis machine is ready.")
    return int(n_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
