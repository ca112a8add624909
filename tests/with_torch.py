"""The PyTorch twin where PyTorch is: test_train_mnist_torch.py runs this file, in an environment that has it."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from notebook_files import LESSONS, comparison, runner

from hpo_helpers import __main__ as check
from hpo_helpers import train_mnist, train_mnist_torch
from hpo_helpers.datasets import MNIST, load_mnist, save_npz
from hpo_helpers.jobs.local import LocalLauncher
from hpo_helpers.jobs.log_metrics import parse_line
from hpo_helpers.train_mnist_torch import build_network, evaluate, train

FILE = Path(train_mnist_torch.__file__)
MLP = {"network": "mlp", "batch_size": 50}


def errors(metrics):
    return [(m["epoch"], m["valid_error"], m["test_error"]) for m in metrics]


def small_part(n_images=500):
    return MNIST(*((images[:n_images], labels[:n_images]) for images, labels in load_mnist()))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    save_npz(tmp_path / "data" / "mnist.npz", small_part())
    return tmp_path / "data"


def test_errors_fall_and_a_seed_gives_them_again_also_in_turns_and_the_caller_s_random_state_stays():
    before, n_threads = torch.random.get_rng_state(), torch.get_num_threads()
    whole = list(train(epochs=3))
    assert [list(metrics) for metrics in whole] == [["epoch", "valid_error", "test_error", "seconds"]] * 3
    assert 0.3 > whole[0]["valid_error"] > whole[1]["valid_error"] > whole[2]["valid_error"] > 0
    assert {type(value) for metrics in whole for value in metrics.values()} == {int, float}
    assert torch.equal(torch.random.get_rng_state(), before) and torch.get_num_threads() == n_threads
    settings = [{"data": small_part(), "n_channels": 4, "seed": seed} for seed in (0, 1)]
    alone = [errors(train(epochs=2, **one)) for one in settings]
    in_turns = zip(*(train(epochs=2, **one) for one in settings), strict=True)
    assert [errors(metrics) for metrics in zip(*in_turns, strict=True)] == alone and alone[0] != alone[1]


@pytest.mark.parametrize("network", ["cnn", "mlp"])
def test_from_the_same_weights_both_twins_learn_the_same(network):
    from hpo_helpers.mxnet_compat import mx

    given = {"network": network, "n_channels": 4, "dropout": 0.0, "momentum": 0.8, "weight_decay": 0.01}
    net, trainer = train_mnist._new_run({**given, "seed": 0, "learning_rate": 0.05})
    twin = build_network(network, 4, 0.0)
    start = train_mnist_torch._new_network({**given, "seed": 0})
    sgd = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.8, weight_decay=0.01)
    images, labels = small_part()[0]
    for ours, theirs, begun in zip(twin.parameters(), net.collect_params().values(), start.parameters(), strict=True):
        theirs = theirs.data().asnumpy()
        assert float(abs(begun.detach()).max()) == pytest.approx(abs(theirs).max(), rel=0.05), "as Xavier has it"
        ours.data = torch.tensor(theirs)
    for epoch in (1, 2):
        order = train_mnist._seeded(0, epoch)
        train_mnist._train_epoch(net, trainer, mx.nd.array(images), mx.nd.array(labels), 64, order)
        with train_mnist_torch._alone(0, epoch) as order:
            train_mnist_torch._train_epoch(twin, sgd, torch.tensor(images), torch.tensor(labels), 64, order)
    for ours, theirs in zip(twin.parameters(), net.collect_params().values(), strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs.data().asnumpy(), rtol=0, atol=1e-4)
    ours = evaluate(twin, torch.tensor(images), torch.tensor(labels))
    assert ours == pytest.approx(train_mnist.evaluate(net, mx.nd.array(images), mx.nd.array(labels)), abs=0.005)


def test_a_check_of_the_machine_says_that_pytorch_will_train(monkeypatch):
    monkeypatch.setitem(sys.modules, "mxnet", None)
    found = check._check_training()
    assert found.subject == "PyTorch" and found.said.startswith(f"{torch.__version__}, one epoch of training in ")


def test_where_mxnet_is_missing_and_nothing_forks_lessons_train_by_the_twin(tmp_path, monkeypatch):
    """As on Windows; but for the system's own ways, on which nothing of this was ever tried."""
    (tmp_path / "sitecustomize.py").write_text("import os, sys\ndel os.fork\nsys.modules['mxnet'] = None\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(FILE.parents[1])]))
    first, _, _, _, fifth, *_ = [nbformat.read(path, as_version=4) for path in LESSONS]
    kept = {cell.id + lesson: cell for lesson, notebook in (("-1", first), ("-5", fifth)) for cell in notebook.cells}
    trained = ["f5f99617-1", "4255593b-1", "live-result-1", "a4469460-5", "c9cb873c-5", "live-result-5"]
    first.cells = [kept[name] for name in ["80420446-1", *trained]]  # one kernel imports PyTorch once
    for cell in first.cells:
        cell.source = cell.source.replace("epochs=9", "epochs=2").replace("timeout=25", "n_trials=2")
    kept["live-result-5"].source += "\nprint(type(launcher).__name__)"

    async def execute():
        return await runner.execute(first, "lessons", LESSONS[0].parent, asyncio.current_task())

    outcome = asyncio.run(execute())
    printed = "\n".join(comparison.printed(cell.outputs) for cell in first.cells)
    assert outcome.failure is None and "is installed here" not in printed
    assert all(said in printed for said in ("Learning rate 0.1: ", "2 trials took ", "ClusterLauncher"))


def test_a_diverged_network_answers_zero():
    (metrics,) = train(epochs=1, learning_rate=1e20, data=small_part())
    shares = [(labels != 0).mean() for _, labels in small_part()[1:]]
    assert [metrics["valid_error"], metrics["test_error"]] == pytest.approx(shares)


def test_an_interrupted_run_goes_on_as_if_it_had_not_been_and_its_model_is_saved(folder, tmp_path):
    settings = {**MLP, "data": folder, "checkpoint": tmp_path}
    whole = errors(train(epochs=3, data=folder, **MLP))
    first = next(train(epochs=3, **settings))
    resumed = list(train(epochs=3, model_dir=tmp_path, **settings))
    assert resumed[0] == first and errors(resumed) == whole
    with pytest.raises(ValueError, match="is another run's, .*'momentum': 0.5.* instead of .*: 0.9"):
        list(train(epochs=3, momentum=0.9, **settings))
    net = build_network("mlp")
    net.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    images, labels = train_mnist_torch.load_data(folder)[1]
    assert evaluate(net, torch.tensor(images), torch.tensor(labels)) == resumed[-1]["valid_error"]


def test_a_forked_job_yields_the_same_and_so_does_the_file_alone_in_lines_that_log_metrics_reads(folder, tmp_path):
    settings = {"epochs": 2, "n_channels": 4}
    expected = errors(train(data=folder, **settings))
    with LocalLauncher(train, 1, fixed={"data": folder}) as launcher:
        job = launcher.submit({"n_channels": 4}, epochs=2)
        while not job.finished:
            launcher.wait([job])
        assert errors(report.metrics for report in job.new_reports()) == expected, job.error
    shutil.copy(FILE, tmp_path)
    arguments = ["--epochs", "2", "--n_channels", "4", "--learning-rate", "0.1"]
    variables = {**os.environ, "PYTHONPATH": "", "SM_CHANNEL_TRAINING": str(folder)}
    command = [sys.executable, FILE.name, *arguments]
    process = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=100)
    assert (process.returncode, process.stderr) == (0, "")
    printed = [parse_line(line) for line in process.stdout.splitlines()]
    assert [tuple(pairs.values())[:3] for pairs in printed] == expected
