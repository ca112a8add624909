"""The loop that drives every optimizer of benchmarks/peers.py, without any of them installed."""

import math
import re
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from claims import lesson_text

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "peers")]

import driving  # noqa: E402
import methods  # noqa: E402
import mlp_13  # noqa: E402
import tables  # noqa: E402


def flat_curve(params):
    """Return 27 epochs of a second each, whose error falls by 0.01 an epoch."""
    same = {"test_error": 0.5, "seconds": 1.0}
    epochs = range(1, 28)
    return [{"epoch": i, "valid_error": params["start"] - i / 100, **same} for i in epochs]


class Asks:
    """A peer that wants some trainings, one after the other, and computes for some seconds before each."""

    def __init__(self, trainings, seconds=0.0, stop_after=math.inf):
        self.trainings, self.seconds, self.stop_after = list(trainings), seconds, stop_after
        self.reported, self.completed = [], []

    def ask(self):
        end = time.process_time() + self.seconds
        while time.process_time() < end:
            pass
        return self.trainings.pop(0) if self.trainings else None

    def report(self, training, report):
        self.reported.append((training.handle, report.epoch, report.time))
        return report.epoch < self.stop_after

    def complete(self, training, report):
        self.completed.append((training.handle, report.epoch))


def training(handle="a", **settings):
    return driving.Training({"start": 0.9}, handle=handle, **settings)


def new_launcher(n_workers=1, charge=False):
    return driving.TimedLauncher(charge=charge, n_workers=n_workers, curves=driving.resumable(flat_curve, flat_curve))


def test_a_training_that_goes_on_from_a_checkpoint_costs_its_further_epochs_only():
    peer = Asks([training("a", since=3, until=5), training("b", until=1)])
    driving.run(peer, new_launcher(), timeout=100)
    assert peer.reported == [("a", 4, 1.0), ("a", 5, 2.0), ("b", 1, 3.0)]
    assert peer.completed == [("a", 5), ("b", 1)]


def test_a_stopped_training_frees_its_worker_and_nothing_is_told_after_the_time_is_over():
    peer, launcher = Asks([training("a"), training("b")], stop_after=2), new_launcher()
    driving.run(peer, launcher, timeout=3.5)
    assert peer.reported == [("a", 1, 1.0), ("a", 2, 2.0), ("b", 1, 3.0)]
    assert (peer.completed, launcher.clock()) == ([], 3.5)


def test_the_optimizers_time_is_counted_and_moves_the_clock_only_if_it_is_charged():
    for charge, time_of_first in ((False, 1.0), (True, 1.05)):
        peer, launcher = Asks([training(until=1)], seconds=0.05), new_launcher(charge=charge)
        driving.run(peer, launcher, timeout=100)
        assert launcher.optimizer_seconds >= 0.05
        [(_, _, made)] = peer.reported
        assert made >= time_of_first if charge else made == time_of_first


def test_trainings_go_on_while_the_optimizer_computes():
    peer = Asks([training("a", until=2), training("b", until=2)], seconds=0.05)
    driving.run(peer, new_launcher(n_workers=2, charge=True), timeout=100)
    first = {handle: made for handle, epoch, made in peer.reported if epoch == 1}
    second = {handle: made for handle, epoch, made in peer.reported if epoch == 2}
    assert first["b"] >= first["a"] + 0.05
    assert second["a"] == pytest.approx(first["a"] + 1.0)  # not held up by what was asked after it


def test_the_last_row_repeats_the_incumbent_with_what_was_spent():
    launcher = new_launcher()
    table = driving.incumbents(driving.run(Asks([training(until=2)]), launcher, 100), launcher, 100)
    assert table["time"].tolist() == [1.0, 2.0, 100.0]
    assert table["value"].tolist() == pytest.approx([0.89, 0.88, 0.88])
    assert table["epochs"].dropna().tolist() == [2]


def test_checkpoints_are_those_of_the_same_configuration_and_of_fewer_epochs():
    checkpoints = driving.Checkpoints()
    checkpoints.save(checkpoints.training({"x": 1}, 3, None))
    assert checkpoints.training({"x": 1}, 9, None).since == 3
    assert checkpoints.training({"x": 1}, 3, None).since == 0
    assert checkpoints.training({"x": 2}, 9, None).since == 0


def test_only_what_stands_between_the_marks_is_written_anew(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    tables.write(page, "new")
    tables.write(page, "newer")
    assert page.read_text() == f"before\n{tables.BEGIN}\n\nnewer\n\n{tables.END}\nafter\n"


def test_the_series_and_its_peers_have_the_same_workers_and_epochs():
    assert (driving.N_WORKERS, driving.EPOCHS) == (methods.N_WORKERS, methods.EPOCHS)


def test_the_readme_says_what_its_tables_say() -> None:
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    made = text.partition("<!-- made by peers.py: begin -->")[2]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in made.splitlines() if line.count("|") == 7]
    means = [row for row in rows if re.match(r"[\d.]+ ±", row[2])]
    mean = {row[0]: [float(cell.split()[0]) for cell in row[2:]] for row in means[: len(means) // 2]}  # time charged
    less = {row[0]: row[2:] for row in rows if " to " in row[2]}
    assert mean["random search"][0] == 3.09 and mean["TPE + Hyperband"][3] == min(each[3] for each in mean.values()) == 3.0
    assert [name for name, cells in less.items() if any("**" in cell for cell in cells)] == ["DEHB"] and "**" in less["DEHB"][3]
    for name in ("TPE + Hyperband", "Ray Tune ASHA + OptunaSearch"):
        difference, low, high = map(float, re.findall(r"[-+][\d.]+", less[name][3]))
        assert difference == -0.11 and low < 0 < high and round(0.715 * (high - low), 1) == 0.2 and mean[name][3] == 3.0
    assert all(3.5 < mean[name][0] < 4.85 for name in ("SMAC", "SMAC, 5 initial", "DEHB"))


def test_smac_spent_on_the_second_problem_what_the_other_methods_did() -> None:
    table = pd.read_csv(BENCHMARKS / "peers" / "mlp_13_smac.csv.gz")
    last = table.groupby(["seed", "network_seed", "state"])["epoch"].max().reset_index()
    searched = last[last["state"] != "refit"].groupby("seed")["epoch"].sum()
    assert (searched == 1350).all() and searched.index.tolist() == list(range(1000, 1010))
    assert (last[last["state"] == "refit"].groupby("seed").size() == 5).all()


def test_pages_and_lesson_06_say_what_eight_methods_found_on_the_second_problem() -> None:
    page, datasheet = (" ".join((BENCHMARKS.parent / name / "README.md").read_text(encoding="utf-8").split()) for name in ("benchmarks", "data"))
    table = mlp_13.beside_smac()
    for name, row in table.iterrows():
        assert f"| {name} | {row['test error']:.2f} ± {row['standard error']:.2f} | " in page
        less = "{difference:+.2f} ({low:+.2f} to {high:+.2f}) | {p_adjusted:.3f} | {detectable:.2f} |".format(**row)
        assert name == "random" or less in page
    assert (table["high"].dropna() < 0).all()
    better = ["Gaussian process", "multivariate TPE + Hyperband", "random + successive halving", "univariate TPE"]
    assert sorted(table.index[table["verdict"] == "better"]) == better
    from_smac = mlp_13.differences(mlp_13.with_smac(), "SMAC").drop(index="random")
    assert set(from_smac["verdict"]) == {"no difference"}
    largest = from_smac.loc[from_smac["difference"].abs().idxmax()]
    assert largest.name == "Gaussian process"
    assert "{difference:.2f} ({low:+.2f} to {high:+.2f}), where {detectable:.2f} could".format(**largest) in page
    twins = mlp_13.with_smac()[["multivariate TPE", "univariate TPE"]]
    row = mlp_13.differences(twins, "multivariate TPE").iloc[0]
    said = f"{-row['difference']:.2f} points below multivariate TPE ({row['low']:.2f} to {row['high']:+.2f})"
    assert f"{said}; asked alone, {row['detectable']:.2f} could" in page
    error, p = table["test error"], table["p_adjusted"]
    assert f"same seeds: {error['univariate TPE']:.2f} % and {error['CMA-ES']:.2f} %" in datasheet
    lesson = lesson_text("06_comparing_methods")
    found = f"univariate TPE found {error['univariate TPE']:.1f} %, the package SMAC3 {error['SMAC']:.1f} %, CMA-ES {error['CMA-ES']:.1f} %"
    assert found in lesson and f"TPE's has *p* = {p['multivariate TPE']:.3f}, SMAC3's and CMA-ES's {p['SMAC']:.3f}" in lesson
    assert p["SMAC"] == p["CMA-ES"]
