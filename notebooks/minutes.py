"""Say how many minutes each lesson takes: in its first cell, and in the tables of the two READMEs.

``python notebooks/minutes.py`` counts what there is to read and takes the minutes of running from
``minutes.csv``, where ``run.py --write`` notes them; ``make outputs`` calls both. In a table, whatever stands
below ``read``, ``run``, ``exercises`` and ``minutes`` is written anew in the rows that link to a lesson;
``minutes`` is the lesson with the exercises that its row names, and a row ``**together**`` is the sum.
"""

import csv
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]

#: Prose is read at about 240 words a minute (M. Brysbaert, Journal of Memory and Language 109, 2019); with
#: formulas, predictions to make and answers to check, in a language that need not be one's own, more slowly.
WORDS_PER_MINUTE = 150
SECONDS_PER_LINE_OF_CODE = 4
SECONDS_PER_FIGURE = 30

#: Reading is rounded up to a multiple of so many minutes: the estimate is no better than that.
STEP = 5


@dataclass(frozen=True)
class Minutes:
    """How long one lesson takes, in minutes."""

    read: int
    run: int
    exercises: tuple[int, ...]  #: as the lesson says behind each of them


def prose(notebook: NotebookNode) -> str:
    """Return the text of all text cells, without blocks of code."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def count_words(text: str) -> int:
    """Count words, the targets of links and HTML tags left out."""
    text = re.sub(r"\]\([^)]*\)|<[^>]+>", " ", text)
    return len(re.findall(r"\w[\w'’-]*", text))


def minutes_to_read(notebook: NotebookNode) -> int:
    """Estimate the minutes that a notebook's text, code and figures take to read."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    n_lines = sum(bool(line.strip()) for cell in code for line in cell.source.splitlines())
    n_figures = sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    seconds = 60 * count_words(prose(notebook)) / WORDS_PER_MINUTE
    seconds += SECONDS_PER_LINE_OF_CODE * n_lines + SECONDS_PER_FIGURE * n_figures
    return STEP * math.ceil(seconds / 60 / STEP)


def measure(root: Path = ROOT) -> dict[str, Minutes]:
    """Return the minutes of every lesson by the name of its file.

    Raises
    ------
    ValueError
        If a lesson was not yet run by ``run.py --write``.
    """
    with open(root / "notebooks" / "minutes.csv", newline="", encoding="utf-8") as file:
        recorded = {row["notebook"]: int(row["minutes"]) for row in csv.DictReader(file)}
    lessons = {}
    for path in sorted(root.glob("notebooks/*.ipynb")):
        if path.stem not in recorded:
            raise ValueError(f"minutes.csv lacks {path.stem}: run notebooks/run.py --write {path.stem}")
        notebook = nbformat.read(path, as_version=4)
        exercises = re.findall(r"^\d\. .*\((\d+) minutes\)", prose(notebook), re.MULTILINE)
        run = recorded[path.stem]
        lessons[path.name] = Minutes(minutes_to_read(notebook), run, tuple(map(int, exercises)))
    return lessons


def timed(root: Path = ROOT) -> dict[Path, str]:
    """Return the lessons and both READMEs as they should read."""
    lessons = measure(root)
    paths = {root / "notebooks" / name: minutes for name, minutes in lessons.items()}
    files = {path: time_lesson(path, minutes) for path, minutes in paths.items()}
    for path in (root / "README.md", root / "notebooks" / "README.md"):
        files[path] = "".join(fill_tables(path.read_text(encoding="utf-8"), lessons))
    return files


def time_lesson(path: Path, minutes: Minutes) -> str:
    """Return a lesson whose first cell says its minutes."""
    notebook = nbformat.read(path, as_version=4)
    said = f"**Minutes.** {minutes.read} to read, {minutes.run} to run."
    text, found = re.subn(r"^\*\*Minutes\.\*\*.*", said, notebook.cells[0].source, flags=re.MULTILINE)
    if found != 1:
        needs = "one line that begins with **Minutes.**"
        raise ValueError(f"the first cell of {path.name} needs {needs}; it has {found}")
    notebook.cells[0].source = text
    return nbformat.writes(notebook) + "\n"


def fill_tables(text: str, lessons: Mapping[str, Minutes]) -> Iterator[str]:
    """Yield the lines of a page, those of tables with their minutes."""
    columns: list[str] = []
    together = 0
    for line in text.splitlines(keepends=True):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            columns, together = [], 0
        elif not columns:
            columns = cells
        else:
            filled = fill_row(dict(zip(columns, cells, strict=True)), lessons, together)
            together += int(filled["minutes"]) if filled.get("minutes", "").isdecimal() else 0
            line = f"| {' | '.join(filled.values())} |\n" if list(filled.values()) != cells else line
        yield line


def fill_row(row: dict[str, str], lessons: Mapping[str, Minutes], together: int) -> dict[str, str]:
    """Return a row of a table with its minutes, where it links to a lesson or sums the rows above."""
    text = " | ".join(row.values())
    link = re.search(r"\((?:notebooks/)?(\d\d_\w+\.ipynb)\)", text)
    if "**together**" in text:
        return row | {"minutes": f"**{together}**"}
    if not link:
        return row
    if link[1] not in lessons:
        raise ValueError(f"a table links to {link[1]}, which is not there")
    lesson = lessons[link[1]]
    chosen = re.findall(r"\d", "".join(re.findall(r"exercises? ([\d, and]+)", text)))
    known = {
        "read": lesson.read,
        "run": lesson.run,
        "exercises": " + ".join(map(str, lesson.exercises)),
        "minutes": lesson.read + lesson.run + sum(lesson.exercises[int(number) - 1] for number in chosen),
    }
    return {column: str(known.get(column, value)) for column, value in row.items()}


def main(root: Path = ROOT) -> int:
    """Write what has changed and return the exit status."""
    try:
        files = timed(root)
    except ValueError as error:
        print(f"minutes.py: {error}", file=sys.stderr)
        return 1
    for path, text in files.items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"minutes written: {path.relative_to(root)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
