"""The training function and script: what they yield, what they accept, how they resume.

All training is real, on real images, and kept short. "The same" means the same to the last bit.
"""

from __future__ import annotations

import ast
import gzip
import itertools
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from hpo_helpers import train_mnist
from hpo_helpers.datasets import load_mnist, save_npz
from hpo_helpers.train_mnist import batches, build_network, evaluate, load_data, train

FILE = Path(train_mnist.__file__)
MLP = {"network": "mlp", "learning_rate": 0.1, "batch_size": 50}
LINE = re.compile(r"epoch=(\d+) valid_error=(\d\.\d{4}) test_error=(\d\.\d{4}) seconds=(\d+\.\d\d)")


def errors(metrics):
    """Return what must come out the same each time: all but the seconds."""
    return [(m["epoch"], m["valid_error"], m["test_error"]) for m in metrics]


def small_part(n_images=40):
    return tuple((images[:n_images], labels[:n_images]) for images, labels in load_mnist())


def run(command, **options):
    """Run a command in an environment without SageMaker's variables and with this package."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SM_")}
    environment["PYTHONPATH"] = str(FILE.parents[1])
    environment.update(options.pop("variables", {}))
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, **options)


def run_script(*arguments, **options):
    return run([sys.executable, "-m", "hpo_helpers.train_mnist", *map(str, arguments)], **options)


def printed_errors(process):
    """Return epochs and errors of a script that must have ended well."""
    assert (process.returncode, process.stderr) == (0, "")
    return [LINE.fullmatch(line).groups()[:3] for line in process.stdout.splitlines()]


# What is trained


def test_the_cnn_has_two_convolutions_two_poolings_and_one_hidden_layer():
    kinds = [type(layer).__name__ for layer in build_network("cnn", n_channels=4)]
    assert kinds == ["Conv2D", "MaxPool2D", "Conv2D", "MaxPool2D", "Dense", "Dropout", "Dense"]


def test_the_mlp_is_784_128_64_10():
    shapes = [parameter.shape for parameter in build_network("mlp").collect_params(".*weight").values()]
    assert shapes == [(128, 784), (64, 128), (10, 64)]


@pytest.mark.parametrize(("network", "n_channels"), [("cnn", 4), ("cnn", 32), ("mlp", 4)])
def test_a_network_scores_ten_digits(network, n_channels):
    from hpo_helpers.mxnet_compat import mx

    net = build_network(network, n_channels=n_channels, dropout=0.5)
    net.initialize()
    assert net(mx.nd.zeros((3, 1, 28, 28))).shape == (3, 10)


def test_every_image_comes_once_and_all_batches_have_one_size():
    from hpo_helpers.mxnet_compat import mx

    images, labels = mx.nd.arange(25).reshape((25, 1)), mx.nd.arange(25)
    order = np.random.RandomState(0).permutation(25)
    found = list(batches(images, labels, 10, order))
    assert [batch.shape for batch, _ in found] == [(10, 1), (10, 1)]
    assert (
        np.concatenate([batch_labels.asnumpy() for _, batch_labels in found]).tolist() == order[:20].tolist()
    )
    assert all((batch.reshape(-1) == batch_labels).asnumpy().all() for batch, batch_labels in found)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_the_error_is_the_share_of_wrong_answers_at_any_batch_size(batch_size):
    from hpo_helpers.mxnet_compat import mx

    scores = mx.nd.one_hot(mx.nd.array([3, 1, 4, 1]), 10)
    assert evaluate(lambda images: images, scores, mx.nd.array([3, 1, 4, 0]), batch_size) == 0.25


def test_three_epochs_of_the_defaults_bring_three_falling_errors():
    found = list(train(epochs=3))
    assert [list(metrics) for metrics in found] == [["epoch", "valid_error", "test_error", "seconds"]] * 3
    assert [metrics["epoch"] for metrics in found] == [1, 2, 3]
    assert 0.3 > found[0]["valid_error"] > found[1]["valid_error"] > found[2]["valid_error"] > 0
    assert 0.3 > found[0]["test_error"] > found[1]["test_error"] > found[2]["test_error"] > 0
    assert {type(value) for metrics in found for value in metrics.values()} == {int, float}


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {"learning_rate": 1e-3, "momentum": 0.0, "batch_size": 128, "n_channels": 4, "dropout": 0.0},
        {"learning_rate": 1.0, "momentum": 0.95, "batch_size": 16, "n_channels": 32, "dropout": 0.5},
        {"learning_rate": 9e37, "weight_decay": 9e37},
        {"network": "mlp", "learning_rate": 1e3},
    ],
)
def test_every_corner_of_a_search_space_has_an_error_and_it_is_never_nan(hyperparameters):
    data = small_part(200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = list(train(epochs=2, data=data, **hyperparameters))
    assert all(0 < error <= 1 for _, *both in errors(found) for error in both)


def test_a_diverged_network_answers_zero():
    (metrics,) = train(epochs=1, learning_rate=1e20)
    assert (metrics["valid_error"], metrics["test_error"]) == (0.9, 0.9)  # a tenth of each part are zeros


# The same again


def test_a_seed_gives_the_same_again_and_another_seed_does_not(tmp_path):
    first, again, other = (list(train(epochs=2, seed=seed, n_channels=8)) for seed in (1, 1, 2))
    assert errors(first) == errors(again)
    assert errors(first) != errors(other)


def test_runs_in_turns_give_what_they_give_alone():
    settings = [{"seed": 0, "dropout": 0.5}, {"seed": 1, "n_channels": 8}]
    alone = [errors(train(epochs=2, **one)) for one in settings]
    in_turns = list(zip(*(train(epochs=2, **one) for one in settings), strict=True))
    assert [errors(metrics) for metrics in zip(*in_turns, strict=True)] == alone


FRESH = """
import sys
from hpo_helpers.train_mnist import train
for metrics in train(epochs=1, n_channels=8, model_dir=sys.argv[1]): pass
"""
# From Python 3.12 on a fork beside MXNet's engine threads is warned of; MXNet stops and restarts them around it.
FORKED = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from hpo_helpers.datasets import load_mnist
from hpo_helpers.mxnet_compat import mx
from hpo_helpers.train_mnist import train
load_mnist()
for i in range(2):
    child = os.fork()
    if not child:
        for metrics in train(epochs=1, n_channels=8, model_dir=sys.argv[1 + i]): pass
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_each_epoch_has_its_own_order(monkeypatch):
    orders = []

    def recorded(images, labels, batch_size, order):
        orders.append(order.tolist())
        return batches(images, labels, batch_size, order)

    monkeypatch.setattr(train_mnist, "batches", recorded)
    list(train(epochs=2, data=small_part(), batch_size=10))
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(40))


def test_fresh_and_forked_processes_end_with_the_same_weights(tmp_path):
    folders = [tmp_path / str(i) for i in range(4)]
    list(train(epochs=1, n_channels=8, model_dir=folders[0]))
    for code, arguments in ((FRESH, folders[1:2]), (FORKED, folders[2:])):
        process = run([sys.executable, "-c", code, *map(str, arguments)])
        assert (process.returncode, process.stderr) == (0, "")
    assert len({(folder / "model.params").read_bytes() for folder in folders}) == 1


# Bad input


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("network", "rnn"),
        ("network", None),
        ("epochs", 0),
        ("epochs", 2.0),
        ("epochs", True),
        ("learning_rate", 0),
        ("learning_rate", -0.1),
        ("learning_rate", "0.1"),
        ("learning_rate", float("nan")),
        ("learning_rate", 1e300),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("batch_size", 0),
        ("batch_size", 3001),
        ("batch_size", 32.5),
        ("n_channels", 0),
        ("dropout", 1),
        ("dropout", -0.5),
        ("weight_decay", -1e-4),
        ("seed", -1),
        ("seed", 2**32),
        ("seed", None),
    ],
)
def test_a_bad_hyperparameter_is_refused_at_the_call_and_quoted(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*got {re.escape(repr(value))}$"):
        train(**{name: value})


def test_numbers_of_numpy_are_numbers():
    numpy_numbers = {"learning_rate": np.float32(0.5), "batch_size": np.int64(20), "seed": np.uint8(1)}
    python_numbers = {"learning_rate": 0.5, "batch_size": 20, "seed": 1}
    found = [errors(train(epochs=1, data=small_part(), **each)) for each in (numpy_numbers, python_numbers)]
    assert found[0] == found[1]


def test_nothing_imports_mxnet_before_the_iteration():
    code = (
        "import sys\nfrom hpo_helpers.train_mnist import train\nrun = train(epochs=1)\n"
        "assert 'mxnet' not in sys.modules\nnext(run)\nassert 'mxnet' in sys.modules"
    )
    process = run([sys.executable, "-c", code])
    assert (process.returncode, process.stderr) == (0, "")


# Data


def write_idx_files(folder, packed):
    """Write 60 training and 12 test images as MNIST's four files; return them."""
    arrays = {}
    (images, labels), (test_images, test_labels), _ = load_mnist()
    for part, part_images, part_labels in (
        ("train", images[:60], labels[:60]),
        ("t10k", test_images[:12], test_labels[:12]),
    ):
        arrays[f"{part}-images-idx3-ubyte"] = np.rint(part_images[:, 0] * 255).astype(np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = part_labels.astype(np.uint8)
    for name, array in arrays.items():
        content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return (images[:60], labels[:60]), (test_images[:12], test_labels[:12])


@pytest.mark.parametrize("packed", [True, False])
def test_four_idx_files_are_read_and_the_last_sixth_validates(packed, tmp_path):
    (images, labels), test = write_idx_files(tmp_path, packed)
    expected = (images[:50], labels[:50]), (images[50:], labels[50:]), test
    for found, part in zip(load_data(tmp_path), expected, strict=True):
        assert found[0].dtype == np.float32
        assert all(np.array_equal(a, b) for a, b in zip(found, part, strict=True))


def test_mnist_npz_holds_the_same_data(tmp_path):
    save_npz(tmp_path / "mnist.npz", load_mnist())
    for found, part in zip(load_data(str(tmp_path)), load_mnist(), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(found, part, strict=True))


def test_without_data_sagemakers_folder_is_read_and_without_one_the_5000_images(tmp_path, monkeypatch):
    monkeypatch.delenv("SM_CHANNEL_TRAINING", raising=False)
    assert [len(labels) for _, labels in load_data()] == [3000, 1000, 1000]
    write_idx_files(tmp_path, packed=False)
    monkeypatch.setenv("SM_CHANNEL_TRAINING", str(tmp_path))
    assert [len(labels) for _, labels in load_data()] == [50, 10, 12]


@pytest.mark.parametrize("shape", [(40, 28, 28), (40, 784), (40, 1, 28, 28)])
def test_images_may_come_in_any_of_the_usual_shapes(shape):
    parts = [(np.zeros(shape, np.uint8) + 255, np.zeros(40))] * 3
    for images, _ in load_data(parts):
        assert images.shape == (40, 1, 28, 28) and images.dtype == np.float32 and (images == 1).all()


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (np.zeros((4, 28, 28)), np.zeros(3), r"shapes \(4, 28, 28\) and \(3,\)"),
        (np.zeros((4, 32, 32)), np.zeros(4), r"shapes \(4, 32, 32\)"),
        (np.zeros((784, 4)), np.zeros(4), r"shapes \(784, 4\)"),
        (np.zeros((0, 28, 28)), np.zeros(0), r"shapes \(0, 28, 28\)"),
        (np.zeros((2, 28, 28)), np.array([1, 10]), r"labels of the validation part .* got \[ 1 10\]"),
        (np.zeros((2, 28, 28)), np.array([1, 0.5]), "labels of the validation part"),
    ],
)
def test_data_of_another_kind_are_refused(images, labels, said):
    good = np.zeros((4, 28, 28)), np.zeros(4)
    with pytest.raises(ValueError, match=said):
        train(data=(good, (images, labels), good))


def test_data_must_be_three_parts():
    with pytest.raises(ValueError, match="three pairs, for training, validation and test, got 2"):
        train(data=load_mnist()[:2])


def test_a_folder_that_is_missing_or_empty_is_named(tmp_path):
    with pytest.raises(ValueError, match=re.escape(repr(str(tmp_path / "no")))):
        train(data=tmp_path / "no")
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path))}.* must hold mnist.npz"):
        train(data=tmp_path)


def truncate(content):
    return content[: len(content) // 2]


def empty(content):
    return b""


def garble(content):
    return b"<!DOCTYPE html>" + content[15:]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("damage", [truncate, empty, garble])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_damaged_idx_file_is_named(name, damage, packed, tmp_path):
    write_idx_files(tmp_path, packed)
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        train(data=tmp_path)


@pytest.mark.parametrize("damage", [truncate, empty, garble])
def test_a_damaged_npz_file_is_named(damage, tmp_path):
    path = tmp_path / "mnist.npz"
    save_npz(path, load_mnist())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is damaged"):
        train(data=tmp_path)


def test_an_npz_file_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "mnist.npz", train_images=np.zeros((4, 28, 28)))
    with pytest.raises(ValueError, match=r"mnist\.npz lacks 'train_labels'"):
        train(data=tmp_path)


# Checkpoints


@pytest.mark.parametrize(
    "hyperparameters", [{**MLP, "momentum": 0.9}, {**MLP, "momentum": 0.0}, {"n_channels": 8}]
)
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(hyperparameters, tmp_path):
    whole = list(train(epochs=3, model_dir=tmp_path / "whole", **hyperparameters))
    run = train(epochs=3, checkpoint=tmp_path, **hyperparameters)
    first = next(run)
    run.close()
    resumed = list(train(epochs=3, checkpoint=tmp_path, model_dir=tmp_path / "resumed", **hyperparameters))
    assert resumed[0] == first
    assert errors(resumed) == errors(whole)
    weights = [(tmp_path / folder / "model.params").read_bytes() for folder in ("whole", "resumed")]
    assert weights[0] == weights[1]


def test_a_finished_run_yields_its_epochs_again_and_may_be_prolonged(tmp_path):
    finished = list(train(epochs=2, checkpoint=tmp_path, **MLP))
    assert list(train(epochs=2, checkpoint=tmp_path, model_dir=tmp_path / "model", **MLP)) == finished
    assert (tmp_path / "model" / "model.params").exists()
    assert errors(train(epochs=3, checkpoint=tmp_path, **MLP)) == errors(train(epochs=3, **MLP))


def test_a_killed_script_goes_on_where_it_stood(tmp_path):
    arguments = ["--network", "mlp", "--checkpoint", tmp_path, "--epochs"]
    command = [sys.executable, FILE, *arguments, "1000"]
    variables = {**os.environ, "PYTHONPATH": str(FILE.parents[1])}
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
        lines = list(itertools.islice(process.stdout, 3))
        process.kill()
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    assert len(lines) < 50  # each line is written at once
    n_epochs = len(lines) + 3
    resumed = run_script(*arguments, n_epochs)
    assert resumed.stdout.startswith("".join(lines))
    whole = train(network="mlp", epochs=n_epochs)
    assert printed_errors(resumed) == [
        (f"{i}", f"{valid:.4f}", f"{test:.4f}") for i, valid, test in errors(whole)
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 0.2}, "another run's, with learning_rate=0.1 instead of 0.2:"),
        ({"network": "cnn", "seed": 3}, "network='mlp' instead of 'cnn', seed=0 instead of 3"),
        ({"data": small_part(60)}, "another run's, with training_labels="),
        ({"epochs": 1}, "has 2 epochs, more than epochs=1"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(changes, said, tmp_path):
    list(train(epochs=2, checkpoint=tmp_path, **MLP))
    with pytest.raises(ValueError, match=re.escape(said)):
        list(train(**{"epochs": 2, "checkpoint": tmp_path, **MLP, **changes}))


@pytest.mark.parametrize("damage", [truncate, empty, garble])
def test_a_damaged_checkpoint_is_named(damage, tmp_path):
    list(train(epochs=1, checkpoint=tmp_path, **MLP))
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is damaged"):
        list(train(epochs=1, checkpoint=tmp_path, **MLP))


def test_one_flipped_bit_in_a_checkpoint_is_noticed(tmp_path):
    list(train(epochs=1, checkpoint=tmp_path, **MLP))
    path = tmp_path / "checkpoint.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        list(train(epochs=1, checkpoint=tmp_path, **MLP))


def files_end_at(n_bytes):
    """Return a function after which no file grows further, as on a full disk, for root too."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def test_a_full_disk_ends_the_script_and_leaves_the_last_checkpoint(tmp_path):
    arguments = ["--network", "mlp", "--checkpoint", tmp_path]
    assert run_script(*arguments, "--epochs", 1).returncode == 0
    process = run_script(*arguments, "--epochs", 2, preexec_fn=files_end_at(10_000))
    assert (process.returncode, process.stderr) == (
        1,
        f"train_mnist: error: {tmp_path}/checkpoint.npz could not be written: File too large\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]
    assert len(list(train(network="mlp", epochs=2, checkpoint=tmp_path))) == 2


@pytest.mark.parametrize("n_missing", [1, 400_000])
def test_a_full_disk_leaves_no_half_saved_parameters(n_missing, tmp_path):
    list(train(epochs=1, model_dir=tmp_path / "whole", **MLP))
    size = (tmp_path / "whole" / "model.params").stat().st_size
    folder = tmp_path / "model"
    arguments = ["--network", "mlp", "--epochs", 1, "--model-dir", folder]
    process = run_script(*arguments, preexec_fn=files_end_at(size - n_missing))
    assert (process.returncode, process.stderr) == (
        1,
        f"train_mnist: error: {folder}/model.params could not be written: is the disk full?\n",
    )
    assert list(folder.iterdir()) == []


# The script


def test_the_script_prints_a_line_per_epoch_with_the_errors_that_train_yields():
    found = printed_errors(run_script("--network", "mlp", "--epochs", 2, "--learning-rate", 0.2, "--seed", 5))
    expected = train(network="mlp", epochs=2, learning_rate=0.2, seed=5)
    assert found == [(f"{epoch}", f"{valid:.4f}", f"{test:.4f}") for epoch, valid, test in errors(expected)]


def test_the_script_runs_in_a_bare_folder_as_sagemaker_calls_it(tmp_path):
    code, data, model = (tmp_path / name for name in ("code", "data", "model"))
    for folder in (code, data):
        folder.mkdir()
    for name in ("train_mnist.py", "mxnet_compat.py"):
        shutil.copy(FILE.with_name(name), code)
    write_idx_files(data, packed=True)
    variables = {"PYTHONPATH": "", "SM_CHANNEL_TRAINING": str(data), "SM_MODEL_DIR": str(model)}
    arguments = ["--epochs", "2", "--learning_rate", "0.1", "--batch_size", "10", "--n_channels", "4"]
    process = run([sys.executable, "train_mnist.py", *arguments], cwd=code, variables=variables)
    assert [epoch for epoch, *_ in printed_errors(process)] == ["1", "2"]
    net = build_network(n_channels=4)
    net.load_parameters(str(model / "model.params"))


def test_without_package_and_data_the_script_says_what_to_give_it(tmp_path):
    for name in ("train_mnist.py", "mxnet_compat.py"):
        shutil.copy(FILE.with_name(name), tmp_path)
    code = "import sys; sys.modules['hpo_helpers'] = None\nimport train_mnist; train_mnist.main([])"
    process = run([sys.executable, "-c", code], cwd=tmp_path, variables={"PYTHONPATH": ""})
    assert process.returncode == 1
    assert process.stderr.startswith(
        "train_mnist: error: there is nothing to train on: pass data=, or let SM_"
    )
    assert process.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["--learning-rate", "-1"],
            1,
            "train_mnist: error: learning_rate must be a number above 0 and below 1e38, got -1.0",
        ),
        (["--batch-size", "many"], 2, "invalid int value: 'many'"),
        (["--depth", "3"], 2, "unrecognized arguments: --depth 3"),
        (["--epoch", "3"], 2, "unrecognized arguments: --epoch 3"),
        (["--data", "nowhere"], 1, "the folder of the data does not exist: got 'nowhere'"),
    ],
)
def test_the_script_fails_with_one_line_and_a_status(arguments, code, said):
    process = run_script(*arguments)
    assert (process.returncode, process.stdout) == (code, "")
    assert said in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr


def test_an_unexpected_failure_shows_its_traceback(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import numpy; del numpy.savez")
    path = os.pathsep.join([str(tmp_path), str(FILE.parents[1])])
    process = run_script("--network", "mlp", "--checkpoint", tmp_path, variables={"PYTHONPATH": path})
    assert process.returncode == 1
    assert "Traceback" in process.stderr and "savez" in process.stderr


def test_without_mxnet_the_script_says_so_in_one_line():
    code = "import sys; sys.modules['mxnet'] = None\nfrom hpo_helpers.train_mnist import main\nmain([])"
    process = run([sys.executable, "-c", code])
    assert process.returncode == 1
    assert process.stderr.startswith("train_mnist: error: MXNet is not installed")
    assert process.stderr.count("\n") == 1


def test_what_a_launcher_may_preload_exists():
    for entry in train_mnist.PRELOAD:
        module, _, function = entry.partition(":")
        process = run(
            [sys.executable, "-c", f"import {module} as module; {function and f'module.{function}()'}"]
        )
        assert process.returncode == 0


def test_the_file_is_written_in_python_3_8():
    ast.parse(FILE.read_text(), feature_version=(3, 8))
