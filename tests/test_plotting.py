import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from hpo_helpers.plotting import (
    BLUE,
    GREY,
    ORANGE,
    error_axis,
    plot_curves,
    plot_methods,
    plot_timeline,
)

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def table():
    """Trial 0 is stopped after 1 epoch, trial 1 and 2 are trained for 9; trial 2 gets best, on its way."""
    rows = [(0, 1, 0.9)]
    rows += [(1, epoch, 0.5 / epoch) for epoch in range(1, 10)]
    rows += [(2, epoch, 0.02 if epoch == 5 else 0.3) for epoch in range(1, 10)]
    return pd.DataFrame(rows, columns=["trial", "epoch", "value"])


def lines_of(ax, colour):
    return [line for line in ax.lines if line.get_color() == colour and len(line.get_xdata()) > 0]


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def marks_of(axis):
    axis.figure.canvas.draw()
    return [text.get_text() for text in axis.get_ticklabels()]


def test_the_best_curve_stands_out_and_a_stopped_one_ends_in_a_dot(table):
    ax = plot_curves(table)
    assert len(lines_of(ax, BLUE)) == 2
    (dot,), (best,) = lines_of(ax, GREY), lines_of(ax, ORANGE)
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (1, 0.9)
    assert min(best.get_ydata()) == 0.02
    assert legend_of(ax) == ["the best", "all others", "stopped here"]
    assert legend_of(plot_curves(table[table["trial"] > 0])) == ["the best", "all others"]


def test_axes_are_named_and_ticks_are_rungs_and_per_cents(table):
    _, given = plt.subplots()
    renamed = table.rename(columns={"trial": "configuration", "value": "valid_error"})
    ax = plot_curves(renamed, group="configuration", value="valid_error", ax=given)
    assert ax is given
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epochs trained", "validation error")
    assert marks_of(ax.xaxis) == ["1", "3", "9"]
    assert "20 %" in marks_of(ax.yaxis)


def test_errors_that_lie_close_to_each_other_get_marks_enough_to_be_read():
    ax = plt.subplots()[1]
    ax.plot([1, 4], [0.045, 0.029])
    assert marks_of(error_axis(ax).yaxis) == ["3 %", "3.5 %", "4 %", "4.5 %"]


def test_the_style_of_the_lessons_is_found_by_its_name():
    with plt.style.context("hpo_helpers.lessons"):
        assert plt.rcParams["axes.spines.top"] is False


def summary_of(medians, times=(1.0, 10.0, 100.0)):
    """Quartiles lie 20 % around the medians: ``{method: [one median a time]}``."""
    table = pd.DataFrame({"time": times, **medians}).melt("time", var_name="method", value_name="median")
    return table.assign(lower_quartile=table["median"] * 0.8, upper_quartile=table["median"] * 1.2)


def test_the_legend_is_in_the_order_in_which_the_curves_end_and_covers_none():
    medians = {"good": [0.5, 0.2, 0.1], "late": [0.4, 0.4, np.nan], "poor": [0.5, 0.4, 0.3]}
    ax = plot_methods(summary_of(medians))
    assert legend_of(ax) == ["late", "poor", "good"]
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1


@pytest.fixture
def timeline():
    """Worker 0 trains twice without a pause; worker 1 trains once and is idle from 3 to 5."""
    rows = [(1, 0.0, 3.0, "rung 0"), (0, 0.0, 1.0, "rung 0"), (0, 1.0, 5.0, "rung 1")]
    return pd.DataFrame(rows, columns=["worker", "start", "end", "label"])


def colour_of(bar):
    return matplotlib.colors.to_hex(bar.get_facecolor()).upper()


def test_each_piece_of_work_is_a_bar_in_its_workers_row_from_start_to_end(timeline):
    ax = plot_timeline(timeline)
    centres = sorted((bar.get_y() + bar.get_height() / 2, bar.get_x(), bar.get_width()) for bar in ax.patches)
    assert np.array(centres) == pytest.approx(np.array([(0, 0, 1), (0, 1, 4), (1, 0, 3)]))
    assert ax.get_xlim() == (0, 5)
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first worker is at the top"


def test_the_timelines_axes_are_seconds_and_workers_and_labels_may_be_numbers(timeline):
    _, given = plt.subplots()
    named = timeline.replace({"worker": {0: "anna", 1: "bert"}}).assign(label=[0, 0, 3])
    ax = plot_timeline(named, ax=given)
    assert ax is given
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time in seconds", "worker")
    assert (marks_of(ax.yaxis), legend_of(ax)) == (["anna", "bert"], ["0", "3"])
    by_label = {bars.get_label(): {colour_of(bar) for bar in bars} for bars in ax.containers}
    assert by_label == {"0": {BLUE}, "3": {ORANGE}}
    with pytest.raises(ValueError, match="at most 7 labels .* got 9"):
        plot_timeline(pd.concat([timeline.assign(label=[i, i + 1, i + 2]) for i in (0, 3, 6)]))
