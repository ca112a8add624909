"""Say what methods find on the MLP with 13 hyperparameters: the first comparison, then SMAC3 beside the series' own.

    python benchmarks/mlp_13.py          # after data/record_mlp_13.py --merge

``data/README.md`` laid down beforehand what the first one compares, and when TPE counts as better.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import permutation_test, t

from hpo_helpers.comparing import paired_differences
from hpo_helpers.datasets import load_table

GATE_SEEDS = range(1000, 1010)
SMAC = Path(__file__).parent / "peers" / "mlp_13_smac.csv.gz"


def found(table: pd.DataFrame) -> pd.DataFrame:
    """Return a column for each method: the mean test error of its five refits in %, a row for each seed."""
    refits = table.query("state == 'refit' and epoch == 27 and seed in @GATE_SEEDS", local_dict=globals())
    return 100 * refits.groupby(["seed", "method"])["test_error"].mean().unstack()


def gains(table: pd.DataFrame) -> pd.Series:
    """Return for each seed of both methods the test error of random search less that of TPE, in points."""
    means = found(table)
    return (means["random"] - means["multivariate TPE"]).dropna()


def verdict(gains: pd.Series) -> dict[str, float]:
    """Return the mean gain with its 95 % interval, the sign-flip p-value, and what could have been detected."""
    n, error = len(gains), gains.sem()
    half = t.ppf(0.975, n - 1) * error
    p_value = permutation_test((gains,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    return {
        "seeds": n,
        "gain": gains.mean(),
        "low": gains.mean() - half,
        "high": gains.mean() + half,
        "p_value": p_value,
        "detectable": half + t.ppf(0.8, n - 1) * error,
    }


def differences(means: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return how far each method is from one of them, in points, corrected for all."""
    rows = means.melt(ignore_index=False, value_name="test_error").reset_index().assign(time=0)
    return paired_differences(rows, baseline).set_index("method")


def with_smac() -> pd.DataFrame:
    """Return what was found by each method that has all ten seeds, SMAC3 among them."""
    return found(pd.concat([load_table("mnist_mlp_13"), pd.read_csv(SMAC)])).dropna(axis="columns")


def beside_smac() -> pd.DataFrame:
    """Return a row for each of them, and its difference from random search."""
    means = with_smac()
    less = differences(means, "random")
    table = pd.DataFrame({"test error": means.mean(), "standard error": means.sem()}).sort_values("test error")
    return table.join(less[["difference", "low", "high", "p_adjusted", "detectable", "verdict"]])


if __name__ == "__main__":
    gained = gains(load_table("mnist_mlp_13"))
    if len(gained) < len(GATE_SEEDS):  # who looks before the end may stop when it suits
        raise SystemExit(f"{len(gained)} of {len(GATE_SEEDS)} seeds are recorded: go on with data/record_mlp_13.py")
    print(pd.Series(verdict(gained)).round(3).to_string(), end="\n\n")
    print(beside_smac().round(3).to_string(), end="\n\n")
    print(differences(with_smac(), "SMAC")[["difference", "low", "high", "detectable", "verdict"]].round(3).to_string())
