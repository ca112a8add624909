from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from hpo_helpers.plotting import BLUE, GREY, ORANGE, plot_anytime, plot_curves

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


def colours(ax):
    return [line.get_color() for line in ax.lines if len(line.get_xdata()) > 0]


def test_the_best_curve_stands_out_and_a_stopped_one_ends_in_a_dot(table):
    ax = plot_curves(table)
    assert sorted(colours(ax)) == sorted([BLUE, GREY, BLUE, ORANGE])
    (dot,) = [line for line in ax.lines if line.get_color() == GREY and len(line.get_xdata())]
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (1, 0.9)
    (best,) = [line for line in ax.lines if line.get_color() == ORANGE and len(line.get_xdata())]
    assert min(best.get_ydata()) == 0.02
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["the best", "all others", "stopped here"]


def test_without_stopped_curves_the_legend_does_not_speak_of_them(table):
    ax = plot_curves(table[table["trial"] > 0])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["the best", "all others"]


def test_axes_are_named_and_ticks_are_rungs_and_per_cents(table):
    ax = plot_curves(table)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epochs trained", "validation error")
    ax.figure.canvas.draw()
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "3", "9"]
    assert "20 %" in [text.get_text() for text in ax.get_yticklabels()]


def test_columns_may_have_other_names_and_axes_be_given(table):
    _, given = plt.subplots()
    renamed = table.rename(columns={"trial": "configuration", "value": "valid_error"})
    assert plot_curves(renamed, group="configuration", value="valid_error", ax=given) is given


def test_the_incumbent_is_a_staircase_over_seconds():
    incumbents = pd.DataFrame({"time": [1.0, 4.0], "value": [0.5, 0.1]})
    ax = plot_anytime(incumbents, label="random search")
    (line,) = ax.lines
    assert line.get_drawstyle() == "steps-post"
    assert ax.get_xlabel() == "time in seconds"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["random search"]


def test_the_last_incumbent_is_drawn_to_the_end_of_the_study():
    incumbents = pd.DataFrame({"time": [1.0, 4.0], "value": [0.5, 0.1]})
    end = plot_anytime(incumbents, until=25.0).lines[-1]
    assert (list(end.get_xdata()), list(end.get_ydata())) == ([4.0, 25.0], [0.1, 0.1])


def test_the_style_of_the_lessons_is_found_by_its_name():
    with plt.style.context("hpo_helpers.lessons"):
        assert plt.rcParams["axes.spines.top"] is False
