"""Make what a release hands out, under ``dist/``: a wheel, the sources, and a bundle for rooms without a network.

``make dist`` calls it. The bundle is a zip file for the running Python and platform: every wheel that the lessons
need, the notebooks, and the site where ``make site`` has built it. Its README says how to install from it.
"""

import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "mxnet,evolution,cluster,aws,azure,dev"

README = """\
{name} {version}, for Python {python} on {system}. Nothing here needs a network.

To read: open site/index.html in a browser. Search needs a server: in a terminal in this folder,

    {command} -m http.server --directory site

and http://localhost:8000 in the browser.

To run, in a terminal in this folder:

    {command} -m venv course
    course/bin/python -m pip install --no-index --find-links wheels "{name}[{extras}]"
    course/bin/python -m pip install --no-index --find-links wheels --no-deps mxnet    # on Python 3.13 alone
    course/bin/python -m hpo_helpers
    course/bin/python -m jupyterlab --notebook-dir=notebooks

On Windows it is course\\Scripts\\python.
"""


def main() -> None:
    """Build all three; the wheels are downloaded, some hundreds of megabytes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wheel = build(ROOT / "dist")
    python, system = platform.python_version().rpartition(".")[0], f"{platform.system()} {platform.machine()}"
    named = f"{project['name']}-{project['version']}-python{python}-{system.replace(' ', '-').lower()}"
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / named
        collect_wheels(wheel, bundle / "wheels")
        shutil.copytree(ROOT / "notebooks", bundle / "notebooks", ignore=shutil.ignore_patterns("__pycache__", ".*"))
        if (ROOT / "build" / "site").is_dir():
            shutil.copytree(ROOT / "build" / "site", bundle / "site")
        facts = {**project, "python": python, "system": system, "command": f"python{python}", "extras": EXTRAS}
        (bundle / "README.txt").write_text(README.format_map(facts), encoding="utf-8")
        archive = Path(shutil.make_archive(ROOT / "dist" / named, "zip", folder, named))
    for path in [wheel, *wheel.parent.glob("*.tar.gz"), archive]:
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1e6:.1f} MB")


def build(folder: Path) -> Path:
    """Build wheel and sources into an empty folder, and return the wheel."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def collect_wheels(wheel: Path, folder: Path) -> None:
    """Put the wheel and all that it needs into a folder, in the versions that the tests run with."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "wheel", "--wheel-dir", folder]
    constrained = [*pip, "--constraint", ROOT / "constraints.txt"]
    subprocess.run([*constrained, f"{wheel}[{EXTRAS}]"], check=True)
    if platform.system() == "Linux":  # on Python 3.13 the extra leaves MXNet itself out: it asks for an older NumPy
        subprocess.run([*constrained, "--no-deps", "mxnet"], check=True)


if __name__ == "__main__":
    main()
