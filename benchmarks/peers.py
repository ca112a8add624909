"""Compare the series' methods with other tuning libraries, on the same recorded curves.

    make peers                  # or: python benchmarks/peers.py --seeds 30

Each library gets an environment of its own, ``.venv/peers-NAME``, in which a script of ``benchmarks/peers/``
drives its scheduler and searcher: the same curves, time, workers and seeds for all. Every run is a file under
``build/peers/``; the next call goes on from there. The tables in ``benchmarks/README.md`` are written anew from
what is there. A library that cannot be installed, or fails, is named there with the reason.
"""

import argparse
import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "peers"
sys.path[:0] = [str(HERE), str(HERE / "peers")]

import methods as ours  # noqa: E402
import tables  # noqa: E402
from driving import result_path  # noqa: E402

from hpo_helpers.datasets import load_curves  # noqa: E402

SEEDS_AT_A_TIME = 5  # of one method, in one process


class LeftOut(Exception):
    """Why a library or a method is not in the tables."""


@dataclass(frozen=True, eq=False)
class Library:
    """A library, the script that drives it, and its methods."""

    name: str
    distribution: str
    script: str
    methods: dict[str, int]  #: with how many seeds at most: some take minutes for one

    @property
    def requirements(self) -> Path:
        return HERE / "peers" / f"requirements-{self.name}.txt"

    @property
    def environment(self) -> Path:
        return ROOT / ".venv" / f"peers-{self.name}"

    @property
    def sources(self) -> list[Path]:
        """The files on which its runs depend."""
        scripts = [HERE / "peers" / "driving.py", HERE / "peers" / self.script]
        return [*scripts, HERE / "methods.py" if self is OURS else self.requirements]


ALL = 1000
MOBSTER = {"Syne Tune MOBSTER, fewer fits": 5}
SYNCHRONOUS = "Syne Tune synchronous Hyperband"
SMAC = {"SMAC": 10, "SMAC, 5 initial": 10}
SYNE_TUNE = ("Syne Tune ASHA", "Syne Tune BOHB", "Syne Tune BOHB, unit cube")
RAY = ("Ray Tune ASHA", "Ray Tune ASHA + OptunaSearch")

#: All that can be told to begin with the default are told so.
OUR_METHODS = ours.methods_of(ours.SETTINGS["cnn, default first"])
OURS = Library("optuna", "optuna", "drive_tune.py", dict.fromkeys(OUR_METHODS, ALL))
PEERS = [  # the slowest first, as they are started in this order
    Library("syne-tune-0.13", "syne-tune", "drive_syne_tune.py", {SYNCHRONOUS: ALL, **MOBSTER}),
    Library("smac", "smac", "drive_smac.py", SMAC),
    Library("syne-tune-0.16", "syne-tune", "drive_syne_tune.py", dict.fromkeys(SYNE_TUNE, ALL)),
    Library("ray", "ray", "drive_ray.py", dict.fromkeys(RAY, ALL)),
    Library("dehb", "dehb", "drive_dehb.py", {"DEHB": ALL}),
]


@dataclass(frozen=True)
class Task:
    """Some seeds of a method, for one process."""

    library: Library
    method: str
    seeds: list[int]


def main() -> None:
    """Install, run what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=30, help="how many; slow methods take fewer")
    parser.add_argument("--first-seed", type=int, default=6000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="libraries, 'optuna' for ours")
    parser.add_argument("--out", type=Path, default=HERE / "README.md", help="where the tables are written")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    libraries = [one for one in [OURS, *PEERS] if not arguments.only or one.name in arguments.only]
    left_out: dict[str, str] = {}
    pythons = {library: python for library in libraries if (python := install(library, left_out))}
    tasks = [task for library in [*PEERS, OURS] if library in pythons for task in split(library, seeds)]
    run_all(tasks, pythons, arguments.jobs, left_out)
    rows = [
        tables.Row(method, f"{library.distribution} {version(python, library)}")
        for library, python in pythons.items()
        for method in library.methods
    ]
    tables.write(arguments.out, tables.tables(read_runs(pythons, seeds), rows, left_out))


def folder_of(library: Library, method: str) -> Path:
    """Return where a method's runs lie: elsewhere if anything that they depend on has changed."""
    digest = hashlib.sha256(what_all_share().encode())
    for source in library.sources:
        digest.update(source.read_bytes())
    return BUILD / "".join(letter if letter.isalnum() else "-" for letter in method) / digest.hexdigest()[:8]


@functools.cache
def what_all_share() -> str:
    recordings = [load_curves(name).to_csv(index=False) for name in ("mnist_cnn_curves", "mnist_cnn_noise")]
    return repr([*recordings, timeout(), ours.FIRST])


@functools.cache
def timeout() -> float:
    """Return the seconds of the virtual clock that every run has."""
    return ours.seconds_of(max(ours.BUDGETS))


def install(library: Library, left_out: dict[str, str]) -> Path | None:
    """Return the Python of a library's environment, made anew if its requirements have changed."""
    if library is OURS:
        return Path(sys.executable)
    python, made_from = library.environment / "bin" / "python", library.environment / "made-from"
    wanted = f"{sys.version}\n{library.requirements.read_text()}"
    if made_from.exists() and made_from.read_text() == wanted:
        return python
    print(f"installing {library.name} in {library.environment.relative_to(ROOT)}", flush=True)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--no-compile"]
    log = BUILD / f"install-{library.name}.log"
    try:
        execute([sys.executable, "-m", "venv", "--clear", library.environment], log)
        execute([*pip, "--requirement", library.requirements], log)
    except LeftOut as reason:
        left_out.update(dict.fromkeys(library.methods, f"it could not be installed: {reason}"))
        return None
    made_from.write_text(wanted)
    return python


def split(library: Library, seeds: Sequence[int]) -> list[Task]:
    """Return tasks for the runs that have no file yet."""
    tasks = []
    for method, n_seeds in library.methods.items():
        folder = folder_of(library, method)
        missing = [seed for seed in seeds[:n_seeds] if not all(map(Path.exists, results(folder, seed)))]
        parts = [missing[i : i + SEEDS_AT_A_TIME] for i in range(0, len(missing), SEEDS_AT_A_TIME)]
        tasks += [Task(library, method, part) for part in parts]
    return tasks


def results(folder: Path, seed: int) -> list[Path]:
    """Return a seed's two files: the optimizer's time not charged, and charged."""
    return [result_path(folder, seed, charge) for charge in (False, True)]


def run_all(tasks: list[Task], pythons: dict[Library, Path], n_jobs: int, left_out: dict) -> None:
    """Run the tasks, some at a time, and tell how far it is."""
    with ThreadPoolExecutor(n_jobs) as pool:
        running = {pool.submit(run_task, task, pythons[task.library]): task for task in tasks}
        for n_done, future in enumerate(as_completed(running), start=1):
            task = running[future]
            outcome = "done"
            try:
                future.result()
            except LeftOut as reason:
                left_out[task.method] = outcome = f"it failed: {reason}"
            print(f"{n_done} of {len(tasks)}: {task.method}, seeds {task.seeds}: {outcome}", flush=True)


def run_task(task: Task, python: Path) -> None:
    folder = folder_of(task.library, task.method)
    command = [python, HERE / "peers" / task.library.script, "--method", task.method]
    command += ["--timeout", timeout(), "--first", json.dumps(ours.FIRST), "--folder", folder]
    execute([*command, "--seeds", *task.seeds], folder / f"{task.seeds[0]}.log")


def execute(command: list, log: Path) -> None:
    """Run a command with one thread for linear algebra, its output in a file."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    path = os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        ended = subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **one_thread, "PYTHONPATH": path},
        )
    if ended.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines() or [f"exit code {ended.returncode}"]
        raise LeftOut(f"{lines[-1]} ({log.relative_to(ROOT)})")


def version(python: Path, library: Library) -> str:
    """Return the installed version of a library."""
    code = f"from importlib.metadata import version; print(version({library.distribution!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def read_runs(libraries: Iterable[Library], seeds: Sequence[int]) -> pd.DataFrame:
    """Return the incumbents of all runs that are there, and their ``method``, ``seed`` and ``charged``."""
    runs = [
        pd.read_csv(path).assign(method=method, seed=seed, charged=charged)
        for library in libraries
        for method, n_seeds in library.methods.items()
        for seed in seeds[:n_seeds]
        for charged, path in enumerate(results(folder_of(library, method), seed))
        if path.exists()
    ]
    if not runs:
        sys.exit("no run came to its end: the logs are under build/peers")
    return pd.concat(runs, ignore_index=True).astype({"charged": bool})


if __name__ == "__main__":
    main()
