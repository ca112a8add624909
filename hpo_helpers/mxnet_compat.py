"""MXNet 1.9.1 under whatever NumPy and Python are installed.

``from hpo_helpers.mxnet_compat import mx`` takes the place of ``import mxnet as mx``. MXNet's last release
dates from 2022, and at its import it reads names from NumPy and the standard library that are gone since.
They are put back while it is imported and taken away again, so that NumPy is as it was.

MXNet computes on one thread then: two jobs on two cores with two threads each are many times slower than with
one, and the number of threads changes a loss in its last digits. Where MXNet was imported before by other
means it is returned as it is, with the threads that it has.

The file needs nothing but MXNet and NumPy and may be copied, as ``train_mnist.py`` may.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import platform
import re
import sys
import types
from typing import Any, Callable, Iterator, Mapping, MutableMapping, Sequence

import numpy

__all__ = ["mx"]

_SYSTEMS_WITH_A_WHEEL = {("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "x86_64")}


# What MXNet misses


def _missing_numpy_names() -> dict[str, Any]:
    """Return what MXNet reads from NumPy at its import and this NumPy lacks."""
    known = vars(numpy)  # not hasattr(): for a name on its way out, NumPy's __getattr__ warns
    names = {
        "bool": bool,
        "PZERO": 0.0,
        "NZERO": -0.0,
        "PINF": numpy.inf,
        "NINF": -numpy.inf,
        "Inf": numpy.inf,
        "NAN": numpy.nan,
        "NaN": numpy.nan,
        "alltrue": numpy.all,
        "sometrue": numpy.any,
        "product": numpy.prod,
        "round_": numpy.round,
        "in1d": numpy.isin,
        "trapz": known.get("trapezoid"),
        "msort": functools.partial(numpy.sort, axis=0),
    }
    names.update({name: _removed(name) for name in ("mirr", "npv", "pmt", "ppmt", "pv", "rate")})
    return {name: value for name, value in names.items() if name not in known}


def _removed(name: str) -> Callable[..., Any]:
    """Return a function for ``mx.np`` to hold in place of one that NumPy gave up."""

    def function(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"NumPy no longer has {name}; the package numpy-financial does")

    function.__name__ = name
    return function


@functools.total_ordering
class _Version:
    """A version number to compare with others: all that MXNet takes from ``distutils``."""

    def __init__(self, text: str) -> None:
        self.numbers = tuple(int(number) for number in re.findall(r"\d+", text))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Version) and self.numbers == other.numbers

    def __lt__(self, other: _Version) -> bool:
        return self.numbers < other.numbers


def _stand_in_modules() -> dict[str, types.ModuleType | None]:
    """Return what ``sys.modules`` holds during the import; None hides a module.

    MXNet takes pandas, SciPy and scikit-learn along where it finds them and does without where it does not.
    They are hidden because importing them takes longer than MXNet itself, because none of them should meet a
    NumPy with foreign names in it, and because with SciPy at hand every ``mx.nd.array`` asks for a name that
    SciPy 2 removes.
    """
    # Gone from Python 3.12 on; before, using it warns.
    distutils, version = types.ModuleType("distutils"), types.ModuleType("distutils.version")
    vars(version).update(LooseVersion=_Version, StrictVersion=_Version)
    vars(distutils).update(version=version, __path__=[])
    hidden = dict.fromkeys(("pandas", "scipy", "scipy.sparse", "scipy.stats", "sklearn"))
    return {**hidden, "distutils": distutils, "distutils.version": version}


# The import


@contextlib.contextmanager
def _holding(
    target: MutableMapping[str, Any], items: Mapping[str, Any], without: Sequence[str] = ()
) -> Iterator[None]:
    """Hold ``items`` in a mapping, and nothing under ``without``; afterwards they are as they were."""
    names = [*items, *without]
    before = {name: target[name] for name in names if name in target}
    for name in without:
        target.pop(name, None)
    target.update(items)
    try:
        yield
    finally:
        for name in names:
            target.pop(name, None)
        target.update(before)


def _one_thread() -> contextlib.AbstractContextManager[None]:
    """Hold the environment in which MXNet's libraries, while they are loaded, choose one thread.

    ``OMP_NUM_THREADS=1`` would not do: libgomp reads it when the first package of the process loads it, which
    need not be MXNet. Under ``MXNET_OMP_MAX_THREADS`` MXNet limits its own threads, unless it sees
    ``OMP_NUM_THREADS`` set.
    """
    limits = {"MXNET_OMP_MAX_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return _holding(os.environ, limits, without=["OMP_NUM_THREADS"])


def _import_mxnet() -> types.ModuleType:
    """Import MXNet with what it misses put back for as long as that takes."""
    if "mxnet" in sys.modules:
        return importlib.import_module("mxnet")
    # A plain import that failed leaves its first half behind.
    for name in [name for name in sys.modules if name.startswith("mxnet.")]:
        del sys.modules[name]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_holding(vars(numpy), _missing_numpy_names()))
        stack.enter_context(_holding(sys.modules, _stand_in_modules()))
        stack.enter_context(_one_thread())
        return importlib.import_module("mxnet")


# Where that is not possible


def _python() -> str:
    return f"Python {platform.python_version()} on {platform.system()} ({platform.machine()})"


def _not_installed() -> str:
    """Return why MXNet is missing here, and the ways out."""
    without_it = "Without it every lesson still runs to its end, on the recorded learning curves."
    if (platform.system(), platform.machine()) in _SYSTEMS_WITH_A_WHEEL:
        return (
            f"MXNet is not installed for {_python()}. Install it with `pip install mxnet`, or, to keep NumPy "
            f"2, with `pip install --no-deps mxnet` and `pip install graphviz requests`. {without_it}"
        )
    return (
        f"MXNet is not installed for {_python()}. Its last release, 1.9.1, has wheels for Linux and for Macs "
        "with an Intel processor, none for Windows or Apple silicon. To train, use Linux: Google Colab, WSL2 "
        f"on Windows, or a container. {without_it}"
    )


def _broken(error: Exception) -> str:
    """Return what is known about an MXNet that is installed and fails."""
    hint = ""
    if isinstance(error, ModuleNotFoundError):
        hint = f" Install what it lacks: `pip install {error.name}`."
    return (
        f"MXNet is installed, but importing it fails under {_python()} with NumPy {numpy.__version__}: "
        f"{type(error).__name__}: {error}.{hint}"
    )


try:
    mx = _import_mxnet()
except ModuleNotFoundError as error:
    raise ImportError(_not_installed() if error.name == "mxnet" else _broken(error)) from error
except Exception as error:
    raise ImportError(_broken(error)) from error
