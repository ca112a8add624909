"""Write what follows from the rest into all that holds it: where the lessons live, setup cells, alternative texts.

``python notebooks/publish.py owner/name`` does so; ``make publish REPOSITORY=owner/name`` calls it. The
setting itself is kept in ``pyproject.toml``. With no name it stays, and what has drifted from it, from
``SETUP_CELL`` or from the text below a figure is written anew.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from nbconvert.filters import markdown2html
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]

#: By itself it leads to Colab's own chooser of a repository on GitHub.
COLAB = "https://colab.research.google.com/github/"

#: The first code cell of every notebook, known by its id. It leaves NumPy alone, which Colab has loaded
#: already: the package asks for no newer one, and of what MXNet asks for it installs all but an older NumPy.
SETUP_CELL_ID = "80420446"
SETUP_CELL = """\
# On a fresh Colab runtime this cell installs the course. Anywhere else it does nothing.
import importlib.util
import sys

REPOSITORY = ""  # where the course lives on GitHub: "owner/name"
if "google.colab" in sys.modules and importlib.util.find_spec("hpo_helpers") is None:
    assert REPOSITORY, 'Fill in REPOSITORY above, as in "jane/hpo-lessons", and run this cell again.'
    %pip install -q "hpo_helpers @ git+https://github.com/{REPOSITORY}" graphviz requests
    %pip install -q --no-deps mxnet"""


#: The extras of the package that a lesson needs, by the lesson's number; the others need none.
EXTRAS = {"07": "evolution", "10": "cluster", "11": "aws,evolution", "12": "azure"}


def check_repository(name: str) -> str:
    """Return `name` if GitHub could have a repository of that name.

    Raises
    ------
    ValueError
        If it is not of the form ``owner/name``, in letters that GitHub allows.
    """
    owner, word = r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}", r"(?!\.\.?$)(?!.*\.git$)[\w.-]{1,100}"
    if not re.fullmatch(f"{owner}/{word}", name, re.ASCII):
        raise ValueError(f"REPOSITORY must be the owner and the name on GitHub, as in jane/hpo-lessons; got {name!r}")
    return name


def read_repository(root: Path = ROOT) -> str:
    """Return the repository that ``pyproject.toml`` names, or an empty text."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "").removeprefix("https://github.com/")


def published(root: Path, repository: str) -> dict[Path, str]:
    """Return every file that names the repository, as it should read."""
    files = {path: publish_notebook(path, root, repository) for path in sorted(root.glob("notebooks/**/*.ipynb"))}
    for name, publish in [
        ("README.md", publish_readme),
        ("pyproject.toml", publish_pyproject),
        ("CITATION.cff", publish_citation),
    ]:
        files[root / name] = publish((root / name).read_text(encoding="utf-8"), repository)
    return files


def colab_url(repository: str, notebook: str = "") -> str:
    """Return the page on which Colab opens a notebook, or lets one choose where that is not known."""
    if not repository or not notebook:
        return COLAB + repository
    return f"{COLAB}{repository}/blob/main/{notebook}"


def site_url(repository: str) -> str:
    """Return where GitHub Pages shows the site of a repository."""
    owner, _, name = repository.partition("/")
    return f"https://{owner.lower()}.github.io/{name}/"


def publish_notebook(path: Path, root: Path, repository: str) -> str:
    """Return a notebook with its badge and setup cell."""
    notebook = nbformat.read(path, as_version=4)
    first, setup = notebook.cells[0], [cell for cell in notebook.cells if cell.id == SETUP_CELL_ID]
    if not setup:
        raise ValueError(f"{path.name} has no setup cell: give its first code cell the id {SETUP_CELL_ID!r}")
    setup[0].source = setup_cell(path.stem, repository)
    first.source = lead_badges(first.source, colab_url(repository, path.relative_to(root).as_posix()))
    describe_figures(notebook)
    return nbformat.writes(notebook) + "\n"


def setup_cell(name: str, repository: str) -> str:
    """Return the setup cell of the notebook of that name."""
    cell = SETUP_CELL.replace('REPOSITORY = ""', f'REPOSITORY = "{repository}"')
    extra = EXTRAS.get(name[:2])
    return cell.replace("hpo_helpers @", f"hpo_helpers[{extra}] @") if extra else cell


def describe_figures(notebook: NotebookNode) -> None:
    """Give each figure, in place, the first paragraph of the text below it as its alternative text.

    It goes where nbconvert, and what builds on it, looks for it. JupyterLab 4.6 does not look.
    """
    below = ""
    for cell in reversed(notebook.cells):
        below = cell.source if cell.cell_type == "markdown" else below
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                paragraph = BeautifulSoup(markdown2html(below), "html.parser").p
                text = " ".join(paragraph.get_text().split()) if paragraph else ""
                output.metadata = nbformat.from_dict({"image/png": {"alt": text}})


def lead_badges(text: str, url: str) -> str:
    """Let Colab's badges in a text lead to `url`."""
    return re.sub(r"(\[!\[Open in Colab\]\([^)]*\)\])\([^)]*\)", rf"\1({url})", text)


def publish_readme(text: str, repository: str) -> str:
    """Return the README, each of its badges leading to the lesson of its line."""
    actions = f"https://github.com/{repository}/actions/workflows/ci.yml"
    site = f"[Read the lessons as a site]({site_url(repository)})"
    tests = f"[![tests]({actions}/badge.svg)]({actions}) {site}\n" if repository else ""
    text = re.sub(r"(<!-- badges -->\n)(?:\[!\[tests\].*\n)?", rf"\1{tests}", text)
    lines = []
    for line in text.splitlines():
        lesson = re.search(r"\((notebooks/[^)]+\.ipynb)\)", line)
        lines.append(lead_badges(line, colab_url(repository, lesson[1] if lesson else "")))
    return "\n".join(lines) + "\n"


def publish_pyproject(text: str, repository: str) -> str:
    """Return ``pyproject.toml`` with the repository's address, or without."""
    text = re.sub(r'\[project\.urls\]\n(\w+ = ".*"\n)+\n', "", text)
    urls = f'Repository = "https://github.com/{repository}"\nDocumentation = "{site_url(repository)}"\n'
    address = f"[project.urls]\n{urls}\n" if repository else ""
    return text.replace("[project.optional-dependencies]", f"{address}[project.optional-dependencies]", 1)


def publish_citation(text: str, repository: str) -> str:
    """Return ``CITATION.cff`` with the repository's address, or without."""
    text = re.sub(r"^(repository-code|url): .*\n", "", text, flags=re.MULTILINE)
    address = f"repository-code: https://github.com/{repository}\nurl: {site_url(repository)}\n" if repository else ""
    return re.sub(r"^(version: .*\n)", rf"\1{address}", text, flags=re.MULTILINE)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write what the command line says and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("repository", nargs="?", help="owner/name; by default the one that is set")
    options = parser.parse_args(arguments)
    try:
        repository = read_repository(root) if options.repository is None else check_repository(options.repository)
        files = published(root, repository)
    except ValueError as error:
        parser.error(str(error))
    changed = [path for path, text in files.items() if path.read_text(encoding="utf-8") != text]
    for path in changed:
        path.write_text(files[path], encoding="utf-8")
        print(f"written: {path.relative_to(root)}")
    print(f"{repository or 'No repository is set'}: {len(changed)} of {len(files)} files were written.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
