"""What an epoch of `train` costs beyond a bare loop over the same batches.

Run ``python benchmarks/epoch_speed.py`` on an idle machine; any hyperparameter may be given, as to the script
``train_mnist.py``, for example ``--n-channels 32``. In turn it times

- an epoch of `train`, which shuffles, trains, and evaluates the network on the validation and the test part;
- the training part of that epoch alone;
- a bare loop over batches that lie ready: forward, backward, update.

The network, its trainer and the number and size of the batches are the same. Each figure is a median over the
rounds, each ratio the median of the rounds' ratios.
"""

import statistics
import time
from collections.abc import Iterator
from typing import Any

from hpo_helpers import train_mnist
from hpo_helpers.datasets import load_mnist
from hpo_helpers.mxnet_compat import mx

ROUNDS = 15


def seconds_of(function: Any, *arguments: Any) -> float:
    """Return the wall-clock seconds of a call and of the work that MXNet has queued for it."""
    mx.nd.waitall()
    start = time.perf_counter()
    function(*arguments)
    mx.nd.waitall()
    return time.perf_counter() - start


def bare_loop(net: Any, trainer: Any, loss: Any, batches: list[tuple[Any, Any]]) -> None:
    """Forward, backward, update."""
    for images, labels in batches:
        with mx.autograd.record():
            losses = loss(net(images), labels)
        losses.backward()
        trainer.step(len(labels))


def rounds(hyperparameters: dict[str, Any]) -> Iterator[tuple[float, float, float]]:
    """Yield the seconds of an epoch, of its training part, and of the bare loop, for each round."""
    run = train_mnist.train(**{**hyperparameters, "epochs": ROUNDS + 1})
    images, labels = load_mnist().train
    part = mx.nd.array(images), mx.nd.array(labels, dtype="float32")
    batch_size, seed = hyperparameters["batch_size"], hyperparameters["seed"]
    net, trainer = train_mnist._new_run(hyperparameters)
    bare_net, bare_trainer = train_mnist._new_run(hyperparameters)
    loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    loss.hybridize(static_alloc=True, static_shape=True)
    order = train_mnist._seeded(seed, 1).permutation(len(labels))
    batches = list(train_mnist.batches(*part, batch_size, order))
    for i in range(ROUNDS + 1):
        epoch = next(run)["seconds"]
        random_state = train_mnist._seeded(seed, i)
        training = seconds_of(train_mnist._train_epoch, net, trainer, *part, batch_size, random_state)
        bare = seconds_of(bare_loop, bare_net, bare_trainer, loss, batches)
        if i > 0:  # the first round allocates memory
            yield epoch, training, bare


def main() -> None:
    hyperparameters = vars(train_mnist._parser().parse_args())
    epoch, training, bare = map(list, zip(*rounds(hyperparameters), strict=True))
    training_ratio = statistics.median(a / b for a, b in zip(training, bare, strict=True))
    epoch_ratio = statistics.median(a / b for a, b in zip(epoch, bare, strict=True))
    print(f"bare loop             {statistics.median(bare):.3f} s")
    print(f"training part         {statistics.median(training):.3f} s  {training_ratio:.2f} times the bare loop")
    print(f"epoch with evaluation {statistics.median(epoch):.3f} s  {epoch_ratio:.2f} times the bare loop")


if __name__ == "__main__":
    main()
