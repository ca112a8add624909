"""The training function and script: what they yield, what they accept, how they resume.

All training is real, on real images, and kept short. "The same" means the same to the last bit.
"""

import ast
import functools
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
from hpo_helpers.datasets import MNIST, load_mnist, save_npz
from hpo_helpers.train_mnist import batches, build_network, evaluate, load_data, train

FILE = Path(train_mnist.__file__)
MLP = {"network": "mlp", "learning_rate": 0.1, "batch_size": 50}
LINE = re.compile(r"epoch=(\d+) valid_error=(\d\.\d{4}) test_error=(\d\.\d{4}) seconds=(\d+\.\d\d)")


def errors(metrics):
    """Return what must come out the same each time: all but the seconds."""
    return [(m["epoch"], m["valid_error"], m["test_error"]) for m in metrics]


def small_part(n_images=40):
    return MNIST(*((images[:n_images], labels[:n_images]) for images, labels in load_mnist()))


@pytest.fixture
def folder(tmp_path):
    """A folder with the mnist.npz of a few images."""
    (tmp_path / "data").mkdir()
    save_npz(tmp_path / "data" / "mnist.npz", small_part(200))
    return tmp_path / "data"


def run(command, **options):
    """Run a command in an environment without SageMaker's variables and with this package."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SM_")}
    environment["PYTHONPATH"] = str(FILE.parents[1])
    environment.update(options.pop("variables", {}))
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, **options)


def run_script(*arguments, **options):
    return run([sys.executable, FILE, *map(str, arguments)], **options)


def printed_errors(process):
    """Return epochs and errors of a script that must have ended well."""
    assert (process.returncode, process.stderr) == (0, "")
    return [LINE.fullmatch(line).groups()[:3] for line in process.stdout.splitlines()]


def as_printed(metrics):
    return [(f"{epoch}", f"{valid:.4f}", f"{test:.4f}") for epoch, valid, test in errors(metrics)]


# What is trained


def test_the_networks_are_what_they_are_said_to_be():
    kinds = [type(layer).__name__ for layer in build_network("cnn", n_channels=4)]
    assert kinds == ["Conv2D", "MaxPool2D", "Conv2D", "MaxPool2D", "Dense", "Dropout", "Dense"]
    shapes = [parameter.shape for parameter in build_network("mlp").collect_params(".*weight").values()]
    assert shapes == [(128, 784), (64, 128), (10, 64)]


def test_every_image_comes_once_and_all_batches_have_one_size():
    from hpo_helpers.mxnet_compat import mx

    images, labels = mx.nd.arange(25).reshape((25, 1)), mx.nd.arange(25)
    order = np.random.RandomState(0).permutation(25)
    found = list(batches(images, labels, 10, order))
    assert [batch.shape for batch, _ in found] == [(10, 1), (10, 1)]
    rows = np.concatenate([batch_labels.asnumpy() for _, batch_labels in found])
    assert rows.tolist() == order[:20].tolist()
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
    for name in ("valid_error", "test_error"):
        assert 0.3 > found[0][name] > found[1][name] > found[2][name] > 0
    assert {type(value) for metrics in found for value in metrics.values()} == {int, float}


CORNERS = [
    {"learning_rate": 1e-3, "momentum": 0.0, "batch_size": 128, "n_channels": 4, "dropout": 0.0},
    {"learning_rate": 1.0, "momentum": 0.95, "batch_size": 16, "n_channels": 32, "dropout": 0.5},
    {"learning_rate": 9e37, "weight_decay": 9e37},
    {"network": "mlp", "learning_rate": 1e3},
]


@pytest.mark.parametrize("hyperparameters", CORNERS)
def test_every_corner_of_a_search_space_has_an_error_and_it_is_never_nan(hyperparameters):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = list(train(epochs=2, data=small_part(200), **hyperparameters))
    assert all(0 < error <= 1 for _, *both in errors(found) for error in both)


def test_a_diverged_network_answers_zero():
    (metrics,) = train(epochs=1, learning_rate=1e20, data=small_part(500))
    shares = [1 - (labels == 0).mean() for _, labels in small_part(500)[1:]]
    assert [metrics["valid_error"], metrics["test_error"]] == pytest.approx(shares)


# The same again


def test_a_seed_gives_the_same_again_also_in_turns_and_another_seed_does_not():
    settings = [{"seed": 0, "dropout": 0.5}, {"seed": 1, "n_channels": 8}]
    alone = [errors(train(epochs=2, data=small_part(500), **one)) for one in settings]
    both = [train(epochs=2, data=small_part(500), **one) for one in settings]
    in_turns = list(zip(*both, strict=True))
    assert [errors(metrics) for metrics in zip(*in_turns, strict=True)] == alone
    assert errors(train(epochs=2, data=small_part(500), seed=2, n_channels=8)) != alone[1]


def test_each_epoch_has_its_own_order():
    orders = [train_mnist._seeded(0, epoch).permutation(40).tolist() for epoch in (1, 2, 1)]
    assert orders[0] == orders[2] != orders[1]


# Bad input


BAD = {
    "network": ["rnn", None],
    "epochs": [0, 2.0, True],
    "learning_rate": [0, -0.1, "0.1", float("nan"), 1e300],
    "momentum": [1.0, -0.1],
    "batch_size": [0, 3001, 32.5],
    "n_channels": [0],
    "dropout": [1, -0.5],
    "weight_decay": [-1e-4],
    "seed": [-1, 2**32, None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD for value in BAD[name]])
def test_a_bad_hyperparameter_is_refused_at_the_call_and_quoted(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*got {re.escape(repr(value))}$"):
        train(**{name: value})


def test_numbers_of_numpy_are_numbers():
    first = train(epochs=1, data=small_part(), learning_rate=np.float32(0.5), batch_size=np.int64(20))
    second = train(epochs=1, data=small_part(), learning_rate=0.5, batch_size=20)
    assert errors(first) == errors(second)


# Data


def test_mnist_npz_holds_the_same_data(tmp_path):
    save_npz(tmp_path / "mnist.npz", load_mnist())
    for found, part in zip(load_data(str(tmp_path)), load_mnist(), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(found, part, strict=True))


def test_without_data_sagemakers_folder_is_read_and_without_one_the_5000_images(folder, monkeypatch):
    monkeypatch.delenv("SM_CHANNEL_TRAINING", raising=False)
    assert [len(labels) for _, labels in load_data()] == [3000, 1000, 1000]
    monkeypatch.setenv("SM_CHANNEL_TRAINING", str(folder))
    assert [len(labels) for _, labels in load_data()] == [200, 200, 200]


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
        (np.zeros((2, 28, 28)), np.array([1, 10]), r"the validation labels must .* got \[ 1 10\]"),
        (np.zeros((2, 28, 28)), np.array([1, 0.5]), "the validation labels must"),
    ],
)
def test_data_of_another_kind_are_refused(images, labels, said):
    good = np.zeros((4, 28, 28)), np.zeros(4)
    with pytest.raises(ValueError, match=said):
        train(data=(good, (images, labels), good))


def test_two_parts_and_a_folder_without_mnist_npz_are_refused(tmp_path):
    with pytest.raises(ValueError, match="training, validation and test, got 2 parts"):
        train(data=load_mnist()[:2])
    for folder in (tmp_path / "no", tmp_path):
        with pytest.raises(ValueError, match=f"must hold mnist.npz, got {re.escape(repr(str(folder)))}"):
            train(data=folder)


# Checkpoints


@pytest.mark.parametrize("hyperparameters", [{**MLP, "momentum": 0.0}, {"n_channels": 8, "batch_size": 50}])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(hyperparameters, folder, tmp_path):
    settings = {**hyperparameters, "data": folder}
    whole = list(train(epochs=3, model_dir=tmp_path / "whole", **settings))
    interrupted = train(epochs=3, checkpoint=tmp_path, **settings)
    first = next(interrupted)
    interrupted.close()
    resumed = list(train(epochs=3, checkpoint=tmp_path, **settings))
    assert resumed[0] == first
    assert errors(resumed) == errors(whole)
    # A finished run yields its epochs again, saves its model, and may be prolonged.
    assert list(train(epochs=3, checkpoint=tmp_path, model_dir=tmp_path / "again", **settings)) == resumed
    weights = [(tmp_path / name / "model.params").read_bytes() for name in ("whole", "again")]
    assert weights[0] == weights[1]
    assert len(list(train(epochs=4, checkpoint=tmp_path, **settings))) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "checkpoint.npz", "data", "whole"]


def test_a_killed_script_goes_on_where_it_stood(folder, tmp_path):
    arguments = ["--network", "mlp", "--data", folder, "--checkpoint", tmp_path, "--epochs"]
    command = [sys.executable, FILE, *arguments, "9999"]
    variables = {**os.environ, "PYTHONPATH": str(FILE.parents[1])}
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
        lines = list(itertools.islice(process.stdout, 3))  # each is written at once
        process.kill()
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    resumed = run_script(*arguments, len(lines) + 3)
    assert resumed.stdout.startswith("".join(lines))
    assert printed_errors(resumed) == as_printed(train(network="mlp", epochs=len(lines) + 3, data=folder))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 0.2}, "is another run's, .*'learning_rate': 0.1.* instead of .*: 0.2"),
        ({"epochs": 1}, "has 2 epochs, more than epochs=1"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(changes, said, tmp_path):
    settings = {**MLP, "data": small_part(50), "checkpoint": tmp_path, "epochs": 2}
    list(train(**settings))
    with pytest.raises(ValueError, match=said):
        list(train(**{**settings, **changes}))


def files_end_at(n_bytes):
    """Return a function after which no file grows further, as on a full disk, for root too."""
    return functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def test_a_full_disk_ends_the_script_and_leaves_the_last_checkpoint(folder, tmp_path):
    settings = {**MLP, "data": folder, "checkpoint": tmp_path}
    list(train(epochs=1, **settings))
    arguments = [text for name, value in settings.items() for text in (f"--{name}", value)]
    process = run_script(*arguments, "--epochs", 2, preexec_fn=files_end_at(10_000))
    assert process.returncode == 1 and "train_mnist: error: [Errno 27] File too large" in process.stderr
    assert len(list(train(epochs=2, **settings))) == 2


def test_a_full_disk_leaves_no_half_saved_parameters(folder, tmp_path):
    list(train(epochs=1, data=folder, model_dir=tmp_path / "whole", **MLP))
    size = (tmp_path / "whole" / "model.params").stat().st_size
    given = [text for name, value in MLP.items() for text in (f"--{name}", value)]
    given += ["--data", folder, "--epochs", 1, "--model_dir", tmp_path / "model"]
    process = run_script(*given, preexec_fn=files_end_at(size - 1))
    assert process.returncode == 1 and "is the disk full?" in process.stderr
    assert not (tmp_path / "model" / "model.params").exists()


# The script


def copy_program(folder):
    for name in ("train_mnist.py", "mxnet_compat.py"):
        shutil.copy(FILE.with_name(name), folder)


def test_the_script_runs_in_a_bare_folder_as_sagemaker_calls_it(folder, tmp_path):
    copy_program(tmp_path)
    model = tmp_path / "model"
    variables = {"PYTHONPATH": "", "SM_CHANNEL_TRAINING": str(folder), "SM_MODEL_DIR": str(model)}
    arguments = ["--epochs", "2", "--learning_rate", "0.2", "--batch-size", "10", "--n_channels", "4"]
    process = run([sys.executable, "train_mnist.py", *arguments], cwd=tmp_path, variables=variables)
    settings = {"epochs": 2, "learning_rate": 0.2, "batch_size": 10, "n_channels": 4}
    assert printed_errors(process) == as_printed(train(data=folder, **settings))
    net = build_network(n_channels=4)
    net.load_parameters(str(model / "model.params"))


def test_without_package_and_data_the_script_says_what_to_give_it(tmp_path):
    copy_program(tmp_path)
    code = "import sys; sys.modules['hpo_helpers'] = None\nimport train_mnist; train_mnist.main([])"
    process = run([sys.executable, "-c", code], cwd=tmp_path, variables={"PYTHONPATH": ""})
    assert process.returncode == 1 and process.stderr.count("\n") == 1
    assert process.stderr.startswith("train_mnist: error: there is nothing to train on: pass data=, or")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--learning-rate", "-1"], "learning_rate must be a number above 0 and below 1e38, got -1.0"),
        (["--batch-size", "many"], "invalid int value: 'many'"),
        (["--depth", "3"], "unrecognized arguments: --depth 3"),
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
        (["--data", "nowhere"], "a folder of data must hold mnist.npz, got 'nowhere'"),
    ],
)
def test_the_script_fails_with_one_line_and_a_status(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        train_mnist.main(arguments)
    assert said in (str(ended.value) if ended.value.code != 2 else capsys.readouterr().err)


def test_without_mxnet_the_script_says_so_in_one_line():
    code = "import sys; sys.modules['mxnet'] = None\nfrom hpo_helpers.train_mnist import main\nmain([])"
    process = run([sys.executable, "-c", code])
    assert process.returncode == 1 and process.stderr.count("\n") == 1
    assert process.stderr.startswith("train_mnist: error: MXNet is not installed")


@pytest.mark.parametrize("name", ["train_mnist.py", "mxnet_compat.py", "jobs/log_metrics.py"])
def test_what_travels_to_other_machines_is_written_in_python_3_8(name):
    text = (FILE.parent / name).read_text()
    tree = ast.parse(text, feature_version=(3, 8))
    annotated = any(isinstance(node, ast.arg) and node.annotation for node in ast.walk(tree))
    # list[str] and the like are not to be evaluated there.
    assert "from __future__ import annotations" in text or not annotated
