"""The PyTorch twin of `train_mnist`: what needs no PyTorch here, the rest in an environment that has it."""

import importlib.util
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from test_train_mnist import BAD

from hpo_helpers import train_mnist, train_mnist_torch

HERE = Path(__file__).parent

#: PyTorch without CUDA, gigabytes of which come with the package of PyPI.
TORCH = "torch==2.13.0+cpu"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has PyTorch: this one, or one of an environment that is made here, with this one's packages."""
    if importlib.util.find_spec("torch"):
        return sys.executable
    folder = tmp_path_factory.mktemp("torch")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:", TORCH]
    result = subprocess.run(install, capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"torch is not installed, and pip finds no {TORCH}: {result.stderr[-300:]}")
    return python


def test_it_trains_where_pytorch_is(python: str) -> None:
    command = [python, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", HERE / "with_torch.py"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent, timeout=1200)
    assert result.returncode == 0, result.stdout + result.stderr


def refusal(train, **arguments) -> str:
    with pytest.raises(ValueError) as refused:
        train(**arguments)
    return str(refused.value)


def test_it_takes_what_its_twin_takes_and_refuses_the_rest_in_the_same_words(tmp_path: Path) -> None:
    assert train_mnist_torch.train.__kwdefaults__ == train_mnist.train.__kwdefaults__
    assert train_mnist_torch.LINE == train_mnist.LINE
    good = np.zeros((4, 28, 28)), np.zeros(4)
    data = ["no folder", tmp_path, [good] * 2, [good, (good[0], good[1][:3]), good], [good, (good[0], good[1] + 0.5), good]]
    refused = [{name: value} for name in BAD for value in BAD[name]] + [{"data": value} for value in data]
    for arguments in refused:
        said = refusal(train_mnist_torch.train, **arguments)
        assert said == refusal(train_mnist.train, **arguments)
    flags = [parser.format_usage().partition(" ")[2] for parser in (train_mnist._parser(), train_mnist_torch._parser())]
    assert set(re.findall(r"--[\w-]+", flags[0])) == set(re.findall(r"--[\w-]+", flags[1]))


def test_the_script_fails_with_one_line_and_a_status() -> None:
    for arguments, said in ([], "import of torch halted"), (["--momentum", "1"], "momentum must be a number from 0"):
        code = f"import sys; sys.modules['torch'] = None\nfrom hpo_helpers.train_mnist_torch import main\nmain({arguments})"
        process = subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, capture_output=True, text=True)
        assert process.returncode == 1 and process.stderr.count("\n") == 1 and said in process.stderr
