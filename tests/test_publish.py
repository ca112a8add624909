"""Where the lessons live on GitHub: one setting, written into all that names it."""

import shutil
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from notebook_files import LESSONS, NOTEBOOKS, SOLUTIONS, publisher

ROOT = NOTEBOOKS.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that names no repository."""
    for path in [*LESSONS, *SOLUTIONS, ROOT / "README.md", ROOT / "pyproject.toml", ROOT / "CITATION.cff"]:
        copied = tmp_path / path.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copied)
    for path, text in publisher.published(tmp_path, "").items():
        path.write_text(text, encoding="utf-8")
    return tmp_path


def read_all(root: Path) -> dict[Path, str]:
    """Return the text of every file in a checkout."""
    return {path: path.read_text(encoding="utf-8") for path in root.rglob("*") if path.is_file()}


def test_every_file_names_the_repository_that_is_set() -> None:
    files = publisher.published(ROOT, publisher.read_repository())
    changed = [path.name for path, text in files.items() if path.read_text(encoding="utf-8") != text]
    assert changed == [], "run: python notebooks/publish.py"


def test_the_name_is_written_into_badges_setup_cells_and_metadata(checkout: Path) -> None:
    assert publisher.main(["ann/tuning"], checkout) == 0
    for path in LESSONS:
        first, setup = nbformat.read(checkout / path.relative_to(ROOT), as_version=4).cells[:2]
        colab = f"(https://colab.research.google.com/github/ann/tuning/blob/main/notebooks/{path.name})"
        assert colab in first.source.splitlines()[0]
        assert colab in (checkout / "README.md").read_text(encoding="utf-8")
        assert 'REPOSITORY = "ann/tuning"  #' in setup.source
    address = "https://github.com/ann/tuning"
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    site = "https://ann.github.io/tuning/"
    assert project["urls"] == {"Repository": address, "Documentation": site}
    citation = yaml.safe_load((checkout / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["repository-code"], citation["url"]) == (address, site)
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    assert f"[![tests]({address}/actions/" in readme and f"]({site})" in readme
    assert publisher.read_repository(checkout) == "ann/tuning"


def test_another_name_takes_the_place_of_the_first_everywhere(checkout: Path) -> None:
    before = read_all(checkout)
    publisher.main(["ann/tuning"], checkout)
    publisher.main(["j-d/Tuning_2.0"], checkout)
    once = read_all(checkout)
    assert [path.name for path, text in once.items() if "ann/tuning" in text] == []
    publisher.main(["j-d/Tuning_2.0"], checkout)
    assert read_all(checkout) == once
    for path, text in publisher.published(checkout, "").items():
        assert text == before[path]


def test_without_a_name_an_older_setup_cell_is_brought_up_to_date(checkout: Path) -> None:
    publisher.main(["ann/tuning"], checkout)
    expected = read_all(checkout)
    path = checkout / "notebooks" / LESSONS[0].name
    path.write_text(path.read_text(encoding="utf-8").replace("install -q --no-deps", "install --no-deps"))
    assert publisher.main([], checkout) == 0
    assert read_all(checkout) == expected


@pytest.mark.parametrize(
    "name",
    ["", "jane", "jane/", "/lessons", "jane/a/b", "https://github.com/jane/lessons", "jane/lessons.git",
     "jane/..", "jane-/lessons", "ja--ne/lessons", "jane_d/lessons", 'jane/"; x', "jane/lessons\n",
     "jäne/lessons"],
)  # fmt: skip
def test_a_bad_name_is_refused_with_its_value_and_nothing_is_written(
    name: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_all(checkout)
    with pytest.raises(SystemExit) as ended:
        publisher.main([name], checkout)
    assert ended.value.code == 2
    assert f"as in jane/hpo-lessons; got {name!r}" in capsys.readouterr().err
    assert read_all(checkout) == before


def test_a_notebook_without_the_setup_cell_is_named(checkout: Path) -> None:
    path = checkout / "notebooks" / LESSONS[0].name
    path.write_text(path.read_text(encoding="utf-8").replace(publisher.SETUP_CELL_ID, "12345678"))
    with pytest.raises(ValueError, match=f"{path.name} has no setup cell.*'80420446'"):
        publisher.published(checkout, "")


class NoShell:
    """Stands for IPython where no magic command may run."""
    def run_line_magic(self, name: str, line: str) -> None:
        raise AssertionError(f"%{name} {line} ran")


def run_setup_cell() -> None:
    exec(TransformerManager().transform_cell(publisher.SETUP_CELL), {"get_ipython": NoShell})


def test_on_colab_with_no_name_the_setup_cell_says_in_a_sentence_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.colab", type(sys)("google.colab"))
    monkeypatch.setitem(sys.modules, "hpo_helpers", None)
    with pytest.raises(AssertionError, match='Fill in REPOSITORY above, as in "jane/hpo-lessons", and run'):
        run_setup_cell()
