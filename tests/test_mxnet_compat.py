"""MXNet under today's NumPy and Python: what its import needs, leaves behind, and says where it fails.

An import can be watched only once per process, so almost every test starts a fresh one.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hpo_helpers

FILE = Path(hpo_helpers.__file__).with_name("mxnet_compat.py")

IMPORT_HALF = """
import numpy
try:
    import mxnet
except Exception:
    import sys
    assert "mxnet.base" in sys.modules
else:
    raise AssertionError("MXNet can be imported as it is: this test has lost its meaning")
"""

USE_MXNET = """
import warnings
import numpy as np
warnings.simplefilter("error")

array = mx.nd.array([[1, 2], [3, 4]])
assert np.array_equal(array.asnumpy(), [[1, 2], [3, 4]])
assert mx.nd.array(np.arange(3)).sum().asscalar() == 3

mx.nd.save("arrays.params", {"array": array})
assert (mx.nd.load("arrays.params")["array"] == array).asnumpy().all()

images, labels = np.ones((8, 4), np.float32), np.arange(8) % 2
loader = mx.gluon.data.DataLoader(mx.gluon.data.ArrayDataset(images, labels), batch_size=4)
net = mx.gluon.nn.HybridSequential()
net.add(mx.gluon.nn.Dense(3, activation="relu"), mx.gluon.nn.Dense(2))
net.initialize(mx.init.Xavier())
net.hybridize()
trainer = mx.gluon.Trainer(net.collect_params(), "adam")
accuracy = mx.metric.Accuracy()
for batch, batch_labels in loader:
    with mx.autograd.record():
        losses = mx.gluon.loss.SoftmaxCrossEntropyLoss()(net(batch), batch_labels)
    losses.backward()
    trainer.step(4)
    accuracy.update(batch_labels, net(batch))
assert accuracy.get()[1] == 0.5
net.save_parameters("net.params")
net.load_parameters("net.params")

output = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=2), name="softmax")
module = mx.mod.Module(output)
module.fit(mx.io.NDArrayIter(images, labels.astype(np.float32), batch_size=4), num_epoch=1)

numbers = mx.np.array([1.0, 2.0, 3.0])
assert np.array_equal(numbers[numbers > 1].asnumpy(), [2, 3])
# An operator written in Python, which compares NumPy's version by what distutils had. Its result is waited
# for: while such an operator is at work, Python's end can hang (4 of 62 times), whoever imported MXNet.
assert mx.np.empty_like(numbers).asnumpy().shape == (3,)
"""


def run(code, folder=None, *options, **variables):
    """Run Python code in a fresh process and return the finished process."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [folder and str(folder), str(FILE.parents[1])]))
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=100,
    )


def check(code, folder=None, *options, **variables):
    """Run Python code that must end well and write nothing to stderr; return what it printed."""
    process = run(code, folder, *options, **variables)
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout


def test_an_import_leaves_all_as_it_was():
    check(
        """
import os, sys
import pandas, scipy.sparse, scipy.stats, sklearn.base
import numpy, numpy.fft, numpy.linalg, numpy.random, numpy.testing  # loaded late, and by MXNet too
names, modules, environment = dict(vars(numpy)), dict(sys.modules), dict(os.environ)
from hpo_helpers.mxnet_compat import mx
assert vars(numpy).keys() == names.keys(), vars(numpy).keys() ^ names.keys()
assert all(vars(numpy)[name] is names[name] for name in names)
assert all(sys.modules[name] is modules[name] for name in modules)
assert None not in sys.modules.values()
assert environment == dict(os.environ)
import warnings
warnings.simplefilter("error")
assert mx.nd.array([1]).asscalar() == 1
""",
        OMP_NUM_THREADS="3",
    )


BEFORE = "import numpy.testing, scipy.sparse" + ", distutils.version" * (sys.version_info < (3, 12))


@pytest.mark.parametrize("before", ["", BEFORE])
def test_no_warning_reaches_the_reader(before, tmp_path):
    # Files compiled elsewhere: Python compiles MXNet anew, which is when it warns of what it finds in it.
    code = (
        f"{before}\nimport numpy, sys, warnings\nwarnings.simplefilter('error')\n"
        f"sys.pycache_prefix = {str(tmp_path)!r}\n"
        "from hpo_helpers.mxnet_compat import mx\nsys.pycache_prefix = None\n"
        f"assert {bool(before)} or 'distutils' not in sys.modules\nimport pandas"
    )
    check(code)


def test_what_is_built_on_mxnet_works_even_after_a_plain_import_has_failed(tmp_path):
    process = run(f"{IMPORT_HALF}\nfrom hpo_helpers.mxnet_compat import mx\n{USE_MXNET}", tmp_path)
    assert process.returncode == 0, process.stderr


def test_mxnet_imported_before_is_returned_as_it_is(tmp_path):
    (tmp_path / "mxnet.py").write_text("mine = True")
    check("import mxnet\nfrom hpo_helpers.mxnet_compat import mx\nassert mx is mxnet and mx.mine", tmp_path)


TRAIN = """
from hpo_helpers.datasets import load_mnist
from hpo_helpers.train_mnist import train
data = [(images[:1000], labels[:1000]) for images, labels in load_mnist()]
for metrics in train(epochs=1, batch_size=32, model_dir=".", data=data):
    print(metrics["valid_error"], metrics["test_error"])
"""


def test_one_thread_computes_whatever_was_asked_for_and_whoever_loaded_openmp(tmp_path):
    # More threads than one would end with other weights.
    weights = []
    load_openmp = "import ctypes\nctypes.CDLL('libgomp.so.1')\n" if sys.platform == "linux" else ""
    for code, variables in ((TRAIN, {}), (load_openmp + TRAIN, {"OMP_NUM_THREADS": "4"})):
        check(code, tmp_path, **variables)
        weights.append((tmp_path / "model.params").read_bytes())
    assert weights[0] == weights[1]


MISSING = """
import platform, sys
platform.system, platform.machine = lambda: "Windows", lambda: "AMD64"
sys.modules["mxnet"] = None
import hpo_helpers.mxnet_compat
"""


def error_of(process):
    """Return the last line of a process that must fail."""
    assert process.returncode == 1
    return process.stderr.strip().splitlines()[-1]


def test_where_mxnet_is_missing_the_error_names_the_platform_and_the_ways_out():
    error = error_of(run(MISSING))
    assert error.startswith("ImportError: MXNet is not installed for Python 3.")
    for part in (
        "on Windows (AMD64)",
        "wheels for Linux and Intel Macs: `pip install mxnet`",
        "`pip install --no-deps mxnet` and `pip install graphviz requests`",
        "On Windows or Apple silicon, `pip install torch`",
        "recorded learning curves",
    ):
        assert part in error


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("raise OSError('libgomp.so.1: cannot open')", "OSError: libgomp.so.1: cannot open"),
        ("import package_that_is_missing", "pip install package_that_is_missing"),
        ("import numpy; numpy.name_of_tomorrow", "name_of_tomorrow"),
    ],
)
def test_a_broken_mxnet_is_told_apart_from_a_missing_one(statement, said, tmp_path):
    (tmp_path / "mxnet.py").write_text(statement)
    process = run("import hpo_helpers.mxnet_compat", tmp_path)
    error = error_of(process)
    assert error.startswith("ImportError: MXNet is installed, but importing it fails under Python 3.")
    assert said in error
    assert f"{tmp_path}/mxnet.py" in process.stderr  # the traceback of the cause


def test_numpy_is_left_as_it_was_by_an_import_that_fails(tmp_path):
    (tmp_path / "mxnet.py").write_text("import numpy; assert numpy.bool and 'rate' in vars(numpy); raise OSError")
    check(
        """
import numpy, os, sys
before, environment = dict(vars(numpy)), dict(os.environ)
try:
    import hpo_helpers.mxnet_compat
except ImportError as error:
    assert isinstance(error.__cause__, OSError)
assert vars(numpy).keys() == before.keys() and environment == dict(os.environ)
assert None not in sys.modules.values()
""",
        tmp_path,
    )
