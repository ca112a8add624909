"""Check a machine before a workshop: ``python -m hpo_helpers``.

It prints a line for Python, each package, MXNet, the data and the processors, and says which lessons will
train here. The exit status is 1 where something is wrong, and the line below it says what to do.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Seconds after which one epoch of training is taken to hang; it takes two.
TRAINING_TIMEOUT = 120

#: The extras that one lesson needs alone.
EXTRAS = {"evolution": "07", "aws": "11", "azure": "12"}

TRAIN_ONE_EPOCH = """
from hpo_helpers.mxnet_compat import mx
from hpo_helpers.train_mnist import train

(metrics,) = train(epochs=1)
print(f"{mx.__version__}, one epoch of training in {metrics['seconds']:.1f} s", end="")
"""


class Finding(NamedTuple):
    """What was found about one thing."""

    subject: str
    said: str
    to_do: str = ""  #: what to do, where something is wrong


def check_python() -> Finding:
    """Hold this Python against what the package asks for."""
    said = f"{platform.python_version()} on {platform.system()} ({platform.machine()})"
    to_do = "" if sys.version_info >= (3, 11) else "install Python 3.11, 3.12 or 3.13"
    return Finding("Python", said, to_do)


def check_packages() -> Iterator[Finding]:
    """Hold the installed packages against the lower bounds; of the extras, Jupyter alone."""
    try:
        lines = importlib.metadata.requires("hpo_helpers")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("hpo_helpers", "not installed", "run `pip install .` in the folder of the course")
        return
    from packaging.requirements import Requirement

    for requirement in map(Requirement, lines):
        if requirement.name == "jupyter" or not requirement.marker:
            yield check_package(requirement.name, requirement.specifier)


def check_extras() -> Iterator[Finding]:
    """Say what a lesson needs beyond the others, where it lacks that. Nothing is wrong if it does."""
    from packaging.requirements import Requirement

    requirements = [Requirement(line) for line in importlib.metadata.requires("hpo_helpers")]
    for extra, lesson in EXTRAS.items():
        wanted = [needed for needed in requirements if needed.marker and needed.marker.evaluate({"extra": extra})]
        missing = [needed for needed in wanted if check_package(needed.name, needed.specifier).to_do]
        if missing:
            names = " ".join(f'"{needed.name}{needed.specifier}"' for needed in missing)
            yield Finding("lesson " + lesson, f"needs more than the others: pip install {names}")


def check_package(name: str, needed: object) -> Finding:
    """Hold one installed package against the versions that are needed, a ``SpecifierSet``."""
    to_do = f'run `pip install "{name}{needed}"`'
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed", to_do)
    return Finding(name, version, "" if needed.contains(version, prereleases=True) else to_do)


def has_mxnet_package() -> bool:
    """Whether MXNet was ever packaged for this system."""
    return platform.system() == "Linux" or (platform.system(), platform.machine()) == ("Darwin", "x86_64")


def check_mxnet() -> Finding:
    """Train for one epoch, in a process of its own, as MXNet's libraries can take a whole process down."""
    if importlib.util.find_spec("mxnet") is None and not has_mxnet_package():
        return Finding("MXNet", "there is none for this system; the lessons run on recorded training")
    try:
        process = subprocess.run(
            [sys.executable, "-c", TRAIN_ONE_EPOCH], capture_output=True, text=True, timeout=TRAINING_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        said = f"still training after {TRAINING_TIMEOUT} s"
        return Finding("MXNet", said, "end other programs and try again")
    if process.returncode == 0:
        return Finding("MXNet", process.stdout)
    lines = process.stderr.strip().splitlines()
    anew = f"it ended with code {process.returncode}: run `pip install --force-reinstall --no-deps mxnet`"
    return Finding("MXNet", "cannot train here", lines[-1].removeprefix("ImportError: ") if lines else anew)


def check_data() -> Iterator[Finding]:
    """Load MNIST and every recording."""
    try:
        from .datasets import load_mnist

        mnist = load_mnist()
    except Exception as error:
        yield Finding("MNIST", f"{type(error).__name__}: {error}", "repair what the message names")
        return
    yield Finding("MNIST", f"{sum(len(labels) for _, labels in mnist):,} images")
    yield check_recordings()


def check_recordings() -> Finding:
    """Read every file that the course recorded."""
    import optuna

    from .datasets import load_study, load_table, recordings

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    unreadable = []
    for path in recordings():
        name, _, kind = path.name.partition(".")
        try:
            (load_study if kind == "journal" else load_table)(name)
        except Exception as error:
            unreadable.append(f"{name} ({type(error).__name__}: {error})")
    if recordings() and not unreadable:
        return Finding("recordings", f"{len(recordings())} read")
    to_do = "install the course anew: run `pip install --force-reinstall --no-deps .` in its folder"
    return Finding("recordings", f"unreadable: {', '.join(unreadable) or 'all, as none is there'}", to_do)


def check_processors() -> Finding:
    """Count what this process may use, containers' limits included."""
    from joblib import cpu_count

    n_processors = cpu_count()
    slow = "" if n_processors > 1 else "; lessons that train take about twice as long"
    return Finding("processors", f"{n_processors}{slow}")


def check_lessons(mxnet: Finding) -> Finding:
    """Say which lessons train here and which replay what was recorded, after what was found about MXNet."""
    folder = Path(__file__).resolve().parents[1] / "notebooks"
    lessons = sorted(folder.glob("[0-9]*.ipynb"))
    live = [path.stem[:2] for path in lessons if "HAS_MXNET" in path.read_text(encoding="utf-8")]
    if not lessons:
        return Finding("lessons", "not here; they are in the folder notebooks/ of the course")
    if importlib.util.find_spec("mxnet") is None:
        return Finding("lessons", f"all {len(lessons)} run, on recorded training")
    if mxnet.to_do:
        return Finding("lessons", f"failing where they train, until MXNet is repaired: {', '.join(live)}")
    return Finding("lessons", f"training here: {', '.join(live)}; the others replay recorded training")


def check_machine() -> Iterator[Finding]:
    """Check everything, the quick things first."""
    yield check_python()
    packages = list(check_packages())
    yield from packages
    if any(finding.to_do for finding in packages):
        return  # what follows would fail for the same reason
    yield from check_extras()
    yield check_processors()
    yield from check_data()
    mxnet = check_mxnet()
    yield mxnet
    yield check_lessons(mxnet)


def main() -> int:
    """Print what was found and return the exit status."""
    n_wrong = 0
    for finding in check_machine():
        n_wrong += bool(finding.to_do)
        print(f"{'WRONG' if finding.to_do else 'ok':5}  {finding.subject:16} {finding.said}", flush=True)
        if finding.to_do:
            print(f"{'':7}-> {finding.to_do}", flush=True)
    print(f"\n{n_wrong} to repair, see WRONG above." if n_wrong else "\nThis machine is ready.")
    return int(n_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
