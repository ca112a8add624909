"""Whether the two twins, ``train_mnist`` and ``train_mnist_torch``, learn the same, and what an epoch costs.

    python benchmarks/twins.py            # five minutes on an idle machine, where both frameworks are installed

Each configuration is trained for 9 epochs, under the same seeds by both, one training at a time, in processes that have
imported one framework alone. A seed orders the images alike; weights and dropout are drawn by each framework's own generator. The test
error after the last epoch is compared. An epoch's cost is in seconds of one processor, as other programs may run; where
PyTorch trains on a GPU, its epochs are in seconds by the clock.
"""

import json
import subprocess
import sys

import pandas as pd

from hpo_helpers.comparing import _holm, paired_differences

TWINS = ("train_mnist", "train_mnist_torch")
SEEDS = range(10)
CONFIGURATIONS = {
    "CNN, defaults": {},
    "MLP, defaults": {"network": "mlp"},
    "MLP, batches of 128, momentum 0.9, no dropout": {
        "network": "mlp", "batch_size": 128, "learning_rate": 0.05, "momentum": 0.9, "dropout": 0.0
    },
}  # fmt: skip
EPOCHS = 9

TRAIN = """
import importlib, json, statistics, sys, time

twin, configuration, seeds = json.loads(sys.argv[1])
train = importlib.import_module(f"hpo_helpers.{twin}").train
list(train(**{**configuration, "epochs": 1}))  # what the first epoch of a process costs is not counted
for seed in seeds:
    training, seconds, start = train(**configuration, seed=seed), [], time.process_time()
    for metrics in training:
        seconds.append(time.process_time() - start)
        start = time.process_time()
    torch = sys.modules.get("torch")
    where = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "processor"
    seconds = statistics.median(seconds) if where == "processor" else metrics["seconds"]
    print(json.dumps({"seed": seed, "test_error": metrics["test_error"], "seconds": seconds, "where": where}), flush=True)
"""


def train(twin: str, name: str, seeds: range) -> pd.DataFrame:
    """Train a configuration under some seeds, in a process of its own."""
    given = json.dumps([twin, {**CONFIGURATIONS[name], "epochs": EPOCHS}, list(seeds)])
    process = subprocess.run([sys.executable, "-c", TRAIN, given], stdout=subprocess.PIPE, text=True, check=True)
    rows = [json.loads(line) for line in process.stdout.splitlines()]
    return pd.DataFrame(rows).assign(method=twin, configuration=name)


def print_table(table: pd.DataFrame) -> None:
    """Print a row for each configuration, in Markdown."""
    rows = {}
    for name, group in table.assign(time=0).groupby("configuration", sort=False):
        (found,) = paired_differences(group, TWINS[0]).to_dict("records")
        by_twin = group.groupby("method")
        errors, seconds = by_twin["test_error"].mean(), by_twin["seconds"].median()
        rows[name] = found | {f"error {twin}": errors[twin] for twin in TWINS} | {twin: seconds[twin] for twin in TWINS}
    rows = pd.DataFrame(rows.values(), index=rows)
    rows["p_adjusted"] = _holm(rows["p_value"])
    print("| configuration | test error, MXNet | PyTorch | difference, with its interval of 95 % | detectable "
          "| p, by Holm | an epoch, MXNet | PyTorch |\n|---|---|---|---|---|---|---|---|")
    for name, row in rows.iterrows():
        print(f"| {name} | {row[f'error {TWINS[0]}']:.2%} | {row[f'error {TWINS[1]}']:.2%} "
              f"| {100 * row['difference']:+.2f} ({100 * row['low']:+.2f} to {100 * row['high']:+.2f}) "
              f"| {100 * row['detectable']:.2f} | {row['p_adjusted']:.2f} | {row[TWINS[0]]:.2f} s | {row[TWINS[1]]:.2f} s |")


if __name__ == "__main__":
    trained = pd.concat([train(twin, name, SEEDS) for name in CONFIGURATIONS for twin in TWINS])
    print_table(trained)
    print("PyTorch on", *trained["where"].drop_duplicates())
