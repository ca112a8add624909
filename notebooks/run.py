"""Execute notebooks from top to bottom, each in a fresh kernel of the running Python.

``python notebooks/run.py`` runs the lessons, ``python notebooks/run.py 05`` all whose names begin so, and
``python notebooks/run.py solutions`` the solutions. It prints a table and leaves HTML under ``build/``. With ``--write`` each notebook that ran without an error is
also replaced by what was executed, without anything that changes from one run or machine to the next, and
``minutes.csv`` notes how long each lesson took.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import csv
import math
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from publish import describe_figures
from surroundings import leave_clouds
from traitlets import default

NOTEBOOKS = Path(__file__).resolve().parent
BUILD = NOTEBOOKS.parent / "build"

#: Seconds after which a cell is taken to hang.
CELL_TIMEOUT = 600
#: Notebooks that are executed at a time: most cells keep one core busy.
AT_ONCE = 2


class KernelOfThisPython(AsyncKernelManager):
    """Starts the kernel of the running Python, whatever kernels its user has installed."""

    @default("kernel_spec_manager")
    def _no_installed_kernels(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])

    @default("transport_encryption")
    def _encrypt(self) -> str:
        return "auto"  # or else newer kernels warn on the terminal


@dataclass
class Outcome:
    """How the execution of one notebook ended."""

    name: str
    seconds: float
    failure: str | None  #: the failing cell, its first line and the error; None if every cell ran


class Progress:
    """Says which cells run: on a terminal in one line that is drawn anew, elsewhere once a notebook."""

    running: list[Progress] = []

    def __init__(self, name: str, n_cells: int) -> None:
        self.cell = 0
        self._name, self._n_cells = name, n_cells
        self._start = time.monotonic()
        self.running.append(self)
        if not sys.stdout.isatty():
            print(f"{name}: running {n_cells} cells", flush=True)

    def __str__(self) -> str:
        return f"{self._name}: cell {self.cell} of {self._n_cells}, {self.seconds:.0f} s"

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @classmethod
    async def show(cls) -> None:
        """Show all that runs until cancelled."""
        while sys.stdout.isatty():
            print(f"\r\033[K{' | '.join(map(str, cls.running))}", end="", flush=True)
            await asyncio.sleep(0.5)

    def end(self, result: str) -> None:
        """Leave one line that says how it ended."""
        self.running.remove(self)
        clear = "\r\033[K" if sys.stdout.isatty() else ""
        print(f"{clear}{self._name}: {result}, {self.seconds:.1f} s", flush=True)


def find_notebooks(names: Sequence[str] = (), folder: Path = NOTEBOOKS) -> list[Path]:
    """Return the lessons in order; or all notebooks that `names` name: beginnings of names, or ``solutions``.

    Raises
    ------
    ValueError
        If one of `names` fits no notebook.
    """
    lessons, solutions = (sorted(folder.glob(pattern)) for pattern in ("*.ipynb", "solutions/*.ipynb"))
    if not names:
        return lessons
    paths = sorted([*lessons, *solutions], key=lambda path: path.stem)
    chosen = {name: solutions if name == "solutions" else beginning_with(name, paths) for name in names}
    for name in [name for name, found in chosen.items() if not found]:
        known = ", ".join(path.stem for path in paths) or "none"
        raise ValueError(f"no lesson's name begins with {name!r}; there are: {known}")
    return [path for path in paths if any(path in found for found in chosen.values())]


def beginning_with(name: str, paths: Sequence[Path]) -> list[Path]:
    """Return the notebooks whose names begin as that of a path does."""
    return [path for path in paths if path.stem.startswith(Path(name).stem)]


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the cells that are executed."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


async def execute(notebook: NotebookNode, name: str, folder: Path, whole: asyncio.Task) -> Outcome:
    """Execute `notebook` in place, in `folder`, and shut its kernel down whatever happens; `whole` may be cancelled."""
    progress = Progress(name, len(code_cells(notebook)))

    def count(**_: object) -> None:
        progress.cell += 1

    client = NotebookClient(
        notebook,
        kernel_manager_class=KernelOfThisPython,
        kernel_name="python3",
        timeout=CELL_TIMEOUT,
        coalesce_streams=True,
        store_widget_state=False,
        record_timing=False,
        on_notebook_start=lambda **_: cancel_at_signals(whole),
        on_cell_execute=count,
    )
    failure = None
    try:
        await client.async_execute(cwd=str(folder))
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        if asyncio.current_task().cancelling():
            raise asyncio.CancelledError from None  # KeyboardInterrupt would hide what cancelled it
        failure = describe_failure(progress.cell, code_cells(notebook)[progress.cell - 1], error)
    cancel_at_signals(whole)  # nbclient stops listening at the end of each notebook
    progress.end("failed" if failure else "ok")
    return Outcome(name, progress.seconds, failure)


def cancel_at_signals(task: asyncio.Task) -> None:
    """Let Ctrl-C and SIGTERM cancel a task: by nbclient's own handlers an interruption looks like a dead kernel."""
    with contextlib.suppress(NotImplementedError):  # Windows raises KeyboardInterrupt by itself
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def describe_failure(number: int, cell: NotebookNode, error: Exception) -> str:
    """Return the cell's number, its first line, and the error in one line."""
    if isinstance(error, CellExecutionError):
        said = f"{error.ename}: {error.evalue}".strip().splitlines()[-1]
    elif isinstance(error, CellTimeoutError):
        said = f"still running after {CELL_TIMEOUT} s"
    else:
        said = "the kernel died"
    return f"cell {number}: {cell.source.strip().splitlines()[0]} -> {said}"


def normalise(notebook: NotebookNode) -> None:
    """Take out, in place, what another run or another machine would write differently."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
    for number, cell in enumerate(code_cells(notebook), start=1):
        cell.execution_count = number
        cell.outputs = [output for output in cell.outputs if is_kept(output)]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
            if "metadata" in output:
                output.metadata = NotebookNode()
    describe_figures(notebook)


def is_kept(output: NotebookNode) -> bool:
    """Whether an output is committed: all but widgets, which need a live kernel, and what went to stderr."""
    is_widget = "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    return not is_widget and output.get("name") != "stderr"


def to_html(notebook: NotebookNode) -> str:
    """Return a page that stands alone: links to lessons lead to pages, pictures have alternative texts."""
    page = copy.deepcopy(notebook)
    text = [cell for cell in page.cells if cell.cell_type == "markdown"]
    title = re.search(r"^# (.+)", "\n".join(cell.source for cell in text), re.MULTILINE)
    for cell in text:
        cell.source = re.sub(r"(\]\((?!\w+:)[^)#\s]+)\.ipynb", r"\1.html", cell.source)
    describe_figures(page)
    resources = {"metadata": {"name": title[1] if title else "Notebook"}}
    # This template reads the alternative texts. Not embed_images: it closes every tag at once, so that <sub> and
    # <details> hold nothing.
    return HTMLExporter(template_name="classic").from_notebook_node(page, resources)[0]


def replace_file(path: Path, text: str) -> None:
    """Write a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def foresee(paths: Sequence[Path], at_once: int) -> str:
    """Return what lies ahead: how many notebooks, for how long, and where their pages will be."""
    minutes = read_minutes(NOTEBOOKS / "minutes.csv")
    lessons = [path.stem for path in paths if path.stem in minutes]
    ahead = math.ceil(sum(int(minutes[name]) for name in lessons) / at_once)
    time_ahead = f", about {ahead} min on two quiet cores" if len(lessons) == len(paths) else ""
    return f"Notebooks to run: {len(paths)}, {at_once} at a time{time_ahead}. Their pages go to build/."


def read_minutes(path: Path) -> dict[str, str]:
    """Return how long each lesson ran when its outputs were written."""
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        return {row["notebook"]: row["minutes"] for row in csv.DictReader(file)}


def record_minutes(outcome: Outcome, path: Path = NOTEBOOKS / "minutes.csv") -> None:
    """Note how long a lesson ran: to the nearest minute, so that it is the same on most machines."""
    minutes = read_minutes(path)
    minutes[outcome.name] = str(max(1, round(outcome.seconds / 60)))
    rows = [f"{name},{minutes[name]}\n" for name in sorted(minutes)]
    replace_file(path, "".join(["notebook,minutes\n", *rows]))


async def run(paths: Sequence[Path], write: bool) -> list[Outcome]:
    """Execute notebooks, failing ones included: two at a time, but those to be written alone, as they are timed."""
    whole = asyncio.current_task()
    room = asyncio.Semaphore(1 if write else AT_ONCE)

    async def run_in_turn(path: Path) -> Outcome:
        async with room:
            return await run_one(path, write, whole)

    shown = asyncio.create_task(Progress.show())
    try:
        return await asyncio.gather(*map(run_in_turn, paths))
    finally:
        shown.cancel()


async def run_one(path: Path, write: bool, whole: asyncio.Task) -> Outcome:
    """Execute a notebook and leave its page; write the notebook itself if that is asked for and no cell failed."""
    notebook = nbformat.read(path, as_version=4)
    outcome = await execute(notebook, path.stem, path.parent, whole)
    page = BUILD / path.relative_to(NOTEBOOKS).with_suffix(".html")
    replace_file(page, to_html(notebook))
    if write and outcome.failure is None:
        normalise(notebook)
        replace_file(path, nbformat.writes(notebook) + "\n")
        if path.parent == NOTEBOOKS:
            record_minutes(outcome)
    return outcome


def print_table(outcomes: Sequence[Outcome]) -> None:
    """Print a line for each notebook: its name, the seconds it took, and ok or what failed."""
    width = max(len("lesson"), *(len(outcome.name) for outcome in outcomes))
    print(f"\n{'lesson':{width}}  seconds  result")
    for outcome in outcomes:
        print(f"{outcome.name:{width}}  {outcome.seconds:7.1f}  {outcome.failure or 'ok'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says and return the exit status: 1 if a notebook failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="beginnings of names, such as 05, or: solutions")
    parser.add_argument("--write", action="store_true", help="also put the outputs into the notebooks")
    options = parser.parse_args(arguments)
    try:
        paths = find_notebooks(options.names)
    except ValueError as error:
        parser.error(str(error))
    if not paths:
        print("There are no lessons yet.")
        return 0
    print(foresee(paths, 1 if options.write else min(AT_ONCE, len(paths))), flush=True)
    outcomes = asyncio.run(run(paths, options.write))
    print_table(outcomes)
    return int(any(outcome.failure for outcome in outcomes))


if __name__ == "__main__":
    # A bar that vanishes at its end leaves marks in recorded outputs.
    os.environ["TQDM_DISABLE"] = "1"
    leave_clouds(os.environ)
    try:
        sys.exit(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
