"""Draw the README's picture from the recordings.

``python notebooks/picture.py`` writes ``picture.png`` beside it. Left, every recorded training of the grid.
In the middle, one draw of 27 of them, halved by hand: after 1, 3 and 9 epochs the better third goes on. Right,
what methods had found after so many seconds of four workers, over the seeds of the recorded comparison.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hpo_helpers.comparing import at_times, summarise
from hpo_helpers.curves import expected_errors
from hpo_helpers.datasets import load_curves, load_table
from hpo_helpers.plotting import BLUE, ORANGE, error_axis, plot_curves, plot_methods

PICTURE = Path(__file__).with_name("picture.png")
METHODS = ["random search", "TPE + Hyperband", "univariate TPE + successive halving"]


def halve(curves: pd.DataFrame) -> pd.DataFrame:
    """Return what is trained of some curves if only the better third goes on after 1, 3 and 9 epochs."""
    for epoch in (1, 3, 9):
        at_rung = curves[curves["epoch"] == epoch].set_index("configuration")["valid_error"]
        survivors = at_rung.nsmallest(len(at_rung) // 3).index
        curves = curves[(curves["epoch"] <= epoch) | curves["configuration"].isin(survivors)]
    return curves


def draw() -> Figure:
    """Draw searching, scheduling and comparing side by side."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.2))
    curves = load_curves()
    ends = curves[curves["epoch"] == 27]
    left.plot(ends["learning_rate"], ends["valid_error"], "o", color=BLUE, markersize=3, alpha=0.4)
    left.plot(*ends.nsmallest(1, "valid_error")[["learning_rate", "valid_error"]].iloc[0], "o", color=ORANGE)
    left.set(title=f"Search: {len(ends):,} networks, one the best", xlabel="learning rate", xscale="log")
    error_axis(left).set_ylabel("validation error")

    drawn = np.random.RandomState(3).choice(ends["configuration"], 27, replace=False)
    shown = halve(curves[curves["configuration"].isin(drawn)])
    plot_curves(shown, group="configuration", value="valid_error", ax=middle)
    middle.set_title("Schedule: stop the bad ones early")

    recorded = load_table("method_comparison").query("setting == 'cnn' and method in @METHODS")
    found = expected_errors(at_times(recorded, np.geomspace(10, recorded["time"].max(), 60)))
    plot_methods(summarise(found, "expected_error"), ax=right)
    right.set_title(f"Compare: {recorded['seed'].nunique()} runs of each method")
    right.set_ylim(top=0.055)  # room for the names
    right.legend(loc="upper right", fontsize=9)
    return figure


if __name__ == "__main__":
    with plt.style.context("hpo_helpers.lessons"):
        draw().savefig(PICTURE, dpi=100, metadata={"Software": None})
