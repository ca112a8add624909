"""MXNet 1.9.1 under whatever NumPy and Python are installed.

``from hpo_helpers.mxnet_compat import mx`` takes the place of ``import mxnet as mx``. For as long
as that takes, NumPy and the standard library have the names that MXNet misses in them.

MXNet computes on one thread then: more of them change a loss in its last digits, and make two jobs
on two cores many times slower.

The file needs nothing but MXNet and NumPy and may be copied, as ``train_mnist.py`` may.
"""

import contextlib
import functools
import importlib
import os
import platform
import re
import sys
import types

import numpy

_PYTHON = f"Python {platform.python_version()} on {platform.system()} ({platform.machine()})"
_NOT_INSTALLED = (
    f"MXNet is not installed for {_PYTHON}. Its last release, 1.9.1, has wheels for Linux and Intel "
    "Macs: `pip install mxnet`, or, to keep NumPy 2, `pip install --no-deps mxnet` and `pip install "
    "graphviz requests`. On Windows or Apple silicon, `pip install torch`: lessons train with it then. "
    "Without either every lesson still runs to its end, on recorded learning curves."
)


def _missing_numpy_names():
    """Return what MXNet reads from NumPy at its import and this NumPy lacks."""
    known = vars(numpy)  # not hasattr(): NumPy's __getattr__ warns
    names = {
        "bool": bool,
        "PZERO": 0.0,
        "NZERO": -0.0,
        "NINF": -numpy.inf,
        **dict.fromkeys(("PINF", "Inf"), numpy.inf),
        **dict.fromkeys(("NAN", "NaN"), numpy.nan),
        "alltrue": numpy.all,
        "sometrue": numpy.any,
        "product": numpy.prod,
        "round_": numpy.round,
        "in1d": numpy.isin,
        "trapz": known.get("trapezoid"),
        "msort": functools.partial(numpy.sort, axis=0),
        **dict.fromkeys(("mirr", "npv", "pmt", "ppmt", "pv", "rate")),  # which NumPy gave up
    }
    return {name: value for name, value in names.items() if name not in known}


def _version(text):
    """Return what versions are compared by: all that MXNet takes from ``distutils``."""
    return tuple(map(int, re.findall(r"\d+", text)))


def _stand_in_modules():
    """Return what ``sys.modules`` holds during the import; None hides a module.

    MXNet takes pandas, SciPy and scikit-learn along. That takes long, none should meet a NumPy with
    foreign names, and ``mx.nd.array`` asks for a name that SciPy 2 removes.
    """
    # Gone from Python 3.12 on; before, using it warns.
    distutils = types.ModuleType("distutils")
    version = types.ModuleType("distutils.version")
    vars(version).update(LooseVersion=_version, StrictVersion=_version)
    vars(distutils).update(version=version, __path__=[])
    hidden = dict.fromkeys(("pandas", "scipy", "scipy.sparse", "scipy.stats", "sklearn"))
    return {**hidden, "distutils": distutils, "distutils.version": version}


@contextlib.contextmanager
def _holding(target, items, without=()):
    """Hold ``items`` in a mapping, and nothing under ``without``, for a while."""
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


def _import_mxnet():
    """Import MXNet with what it misses put back for as long as that takes."""
    if "mxnet" in sys.modules:
        return importlib.import_module("mxnet")
    # A plain import that failed leaves its first half behind.
    for name in [name for name in sys.modules if name.startswith("mxnet.")]:
        del sys.modules[name]
    # libgomp may have read OMP_NUM_THREADS before; where that is set, MXNet sets no limit.
    one_thread = {"MXNET_OMP_MAX_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_holding(vars(numpy), _missing_numpy_names()))
        stack.enter_context(_holding(sys.modules, _stand_in_modules()))
        stack.enter_context(_holding(os.environ, one_thread, without=["OMP_NUM_THREADS"]))
        return importlib.import_module("mxnet")


try:
    mx = _import_mxnet()
except Exception as error:
    lacking = error.name if isinstance(error, ModuleNotFoundError) else None
    if lacking == "mxnet":
        raise ImportError(_NOT_INSTALLED) from error
    hint = f" Install it: `pip install {lacking}`." if lacking else ""
    raise ImportError(
        f"MXNet is installed, but importing it fails under {_PYTHON} "
        f"with NumPy {numpy.__version__}: {type(error).__name__}: {error}.{hint}"
    ) from error
