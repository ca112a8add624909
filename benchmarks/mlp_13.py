"""Say what the first comparison on the MLP with 13 hyperparameters came to: TPE against random search.

    python benchmarks/mlp_13.py          # after data/record_mlp_13.py --merge

``data/README.md`` laid down beforehand what is compared, and when TPE counts as better.
"""

import numpy as np
import pandas as pd
from scipy.stats import permutation_test, t

from hpo_helpers.datasets import load_table

GATE_SEEDS = range(1000, 1010)


def gains(table: pd.DataFrame) -> pd.Series:
    """Return for each seed of both methods the test error of random search less that of TPE, in points."""
    refits = table.query("state == 'refit' and epoch == 27 and seed in @GATE_SEEDS", local_dict=globals())
    means = 100 * refits.groupby(["seed", "method"])["test_error"].mean().unstack()
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


if __name__ == "__main__":
    gained = gains(load_table("mnist_mlp_13"))
    if len(gained) < len(GATE_SEEDS):  # who looks before the end may stop when it suits
        raise SystemExit(f"{len(gained)} of {len(GATE_SEEDS)} seeds are recorded: go on with data/record_mlp_13.py")
    print(pd.Series(verdict(gained)).round(3).to_string())
