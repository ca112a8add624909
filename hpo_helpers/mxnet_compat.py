"""MXNet 1.9.1 under the NumPy and the Python that are installed.

``from mxnet_compat import mx`` instead of ``import mxnet as mx``. MXNet's last release dates from 2022 and takes names
from NumPy and from Python's library that are gone since. They are put back for the import alone: MXNet copies what it
needs, and afterwards NumPy is as it was.

The file stands alone: it needs NumPy and MXNet, and travels beside ``train_mnist.py``.
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
import warnings
from typing import Any, Callable, Dict, Iterator, Mapping, MutableMapping, Optional

import numpy

__all__ = ["mx"]


def _gone(name: str) -> Callable[..., Any]:
    """Return a function that says that NumPy no longer has ``name``."""

    def removed(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"numpy.{name} was removed from NumPy; numpy-financial has the financial functions")

    removed.__name__ = name
    return removed


def _msort(a: Any) -> Any:
    return numpy.sort(a, axis=0)


def _missing_numpy_names() -> Dict[str, Any]:
    """Return what MXNet reads from NumPy at its import and this NumPy lacks, by name.

    ``vars(numpy)`` is asked, not ``hasattr``: for a name on its way out ``numpy.__getattr__`` prints a warning.
    """
    known = vars(numpy)
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
        "in1d": known.get("isin"),
        "trapz": known.get("trapezoid"),
        "msort": _msort,
    }
    names.update({name: _gone(name) for name in ("mirr", "npv", "pmt", "ppmt", "pv", "rate")})
    return {name: value for name, value in names.items() if name not in known}


@functools.total_ordering
class _Version:
    """Compare version numbers, which is all that MXNet takes from ``distutils``."""

    def __init__(self, text: str) -> None:
        self.numbers = tuple(int(number) for number in re.findall(r"\d+", text))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Version) and self.numbers == other.numbers

    def __lt__(self, other: _Version) -> bool:
        return self.numbers < other.numbers


def _stand_in_modules() -> Dict[str, Optional[types.ModuleType]]:
    """Return what ``sys.modules`` holds during the import.

    ``None`` makes an import fail. MXNet takes these four along where it finds them and does without where it does
    not. They take longer to import than MXNet, should not see a NumPy that is not theirs, and MXNet's conversion of
    SciPy's sparse matrices asks, at every ``mx.nd.array``, for a name that SciPy 2 removes.
    """
    modules: Dict[str, Optional[types.ModuleType]] = dict.fromkeys(("pandas", "scipy", "scipy.sparse", "scipy.stats"))
    modules["sklearn"] = None
    if "distutils" not in sys.modules:  # deprecated by Python 3.10, gone in 3.12
        distutils, version = types.ModuleType("distutils"), types.ModuleType("distutils.version")
        vars(version).update(LooseVersion=_Version, StrictVersion=_Version)
        vars(distutils).update(version=version, __path__=[])
        modules.update({"distutils": distutils, "distutils.version": version})
    return modules


@contextlib.contextmanager
def _holding(target: MutableMapping[str, Any], items: Mapping[str, Any]) -> Iterator[None]:
    """Hold ``items`` in a mapping; afterwards it is as it was in these names."""
    before = {name: target[name] for name in items if name in target}
    target.update(items)
    try:
        yield
    finally:
        for name in items:
            target.pop(name, None)
        target.update(before)


def _import_mxnet() -> types.ModuleType:
    """Import MXNet with what it misses put back."""
    if "mxnet" in sys.modules:
        return sys.modules["mxnet"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_holding(vars(numpy), _missing_numpy_names()))
        stack.enter_context(_holding(sys.modules, _stand_in_modules()))
        # MXNet's library reads this while it is loaded, and never again.
        stack.enter_context(_holding(os.environ, {"OMP_NUM_THREADS": "1"}))
        return importlib.import_module("mxnet")


mx = _import_mxnet()
