from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from hpo_helpers.plotting import (
    BLUE,
    GREY,
    ORANGE,
    plot_anytime,
    plot_curves,
    plot_methods,
    plot_ranks,
    plot_regret,
    plot_surrogate,
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


def test_errors_that_lie_close_to_each_other_get_marks_enough_to_be_read():
    ax = plot_anytime(pd.DataFrame({"time": [1.0, 4.0], "value": [0.045, 0.029]}))
    ax.figure.canvas.draw()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["3 %", "3.5 %", "4 %", "4.5 %"]


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


# --- Several methods ------------------------------------------------------------------------------


def summary_of(medians, times=(1.0, 10.0, 100.0)):
    """Quartiles lie 20 % around the medians: ``{method: [one median a time]}``."""
    table = pd.DataFrame({"time": times, **medians}).melt("time", var_name="method", value_name="median")
    return table.assign(lower_quartile=table["median"] * 0.8, upper_quartile=table["median"] * 1.2)


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_each_method_is_a_staircase_of_medians_in_a_band_of_quartiles():
    ax = plot_methods(summary_of({"random": [0.5, 0.2, 0.1], "tpe": [0.5, 0.1, 0.05]}))
    random, tpe = ax.lines
    assert (random.get_drawstyle(), list(tpe.get_ydata())) == ("steps-post", [0.5, 0.1, 0.05])
    heights = ax.collections[1].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.04, 0.6))
    assert matplotlib.colors.to_hex(ax.collections[1].get_facecolor()[0]).upper() == tpe.get_color()


def test_no_two_methods_look_alike():
    ax = plot_methods(summary_of({f"method {number}": [0.5, 0.4, 0.3] for number in range(28)}))
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 28
    assert len({line.get_color() for line in ax.lines[:7]}) == 7


def test_the_legend_is_in_the_order_in_which_the_curves_end_and_covers_none():
    medians = {"good": [0.5, 0.2, 0.1], "late": [0.4, 0.4, np.nan], "poor": [0.5, 0.4, 0.3]}
    ax = plot_methods(summary_of(medians))
    assert legend_of(ax) == ["late", "poor", "good"]
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1


def test_time_is_in_seconds_and_error_in_per_cent():
    ax = plot_methods(summary_of({"random": [0.5, 0.2, 0.1]}))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time in seconds", "test error of the incumbent")
    ax.figure.canvas.draw()
    assert {"1", "10", "100"} <= {text.get_text() for text in ax.get_xticklabels()}
    assert "20 %" in [text.get_text() for text in ax.get_yticklabels()]


def test_a_regret_below_0_is_drawn():
    ax = plot_regret(summary_of({"random": [1.0, 0.3, 0.1], "tpe": [0.5, 0.02, -0.05]}))
    assert ax.get_ylabel() == "normalised regret"
    ax.figure.canvas.draw()
    assert {"0 %", "100 %"} <= {text.get_text() for text in ax.get_yticklabels()}
    bottom, at_end = ax.transAxes.transform((0, 0))[1], ax.transData.transform((100.0, -0.05))[1]
    assert at_end > bottom
    assert legend_of(ax) == ["random", "tpe"]


def bars_of(ax):
    """Where the thick lines are: those that join methods, and last the length of the critical difference."""
    return [tuple(map(float, line.get_xdata())) for line in ax.lines if line.get_linewidth() > 2]


def ranks_of(ranks):
    return pd.DataFrame({"method": list(ranks), "average_rank": list(ranks.values())})


def test_methods_within_the_critical_difference_are_joined_and_no_others():
    # The ranks of Demšar (2006), table 6, and one method more, far from the rest.
    ranks = ranks_of({"poor": 5.0, "C4.5": 3.143, "C4.5+m": 2.0, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964})
    # 2.000 and 2.893 are joined by the first bar already; 2.000 and 3.143 are too far apart.
    assert bars_of(plot_ranks(ranks, 1.0)) == [(1.964, 2.893), (2.893, 3.143), (1.0, 2.0)]


def test_overlapping_groups_are_each_joined_and_a_part_of_one_is_not():
    ranks = ranks_of({"a": 1.0, "b": 1.5, "c": 2.2, "d": 2.3, "e": 5.0})
    assert bars_of(plot_ranks(ranks, 1.0)) == [(1.0, 1.5), (1.5, 2.3), (1.0, 2.0)]


def test_ranks_exactly_at_the_critical_difference_and_none_within_it():
    assert bars_of(plot_ranks(ranks_of({"a": 1.0, "b": 2.0}), 1.0)) == [(1.0, 2.0), (1.0, 2.0)]
    assert bars_of(plot_ranks(ranks_of({"a": 1.0, "b": 2.0}), 0.5)) == [(1.0, 1.5)]


def test_every_method_is_named_with_its_rank_and_the_better_half_at_the_left():
    ax = plot_ranks(ranks_of({"c": 2.25, "a": 1.25, "d": 3.75, "b": 2.0, "e": 4.75}), 0.7)
    *names, _ = [(text.get_text(), text.get_horizontalalignment()) for text in ax.texts]
    assert names[:3] == [("a  1.25", "right"), ("b  2.00", "right"), ("c  2.25", "right")]
    assert names[3:] == [("d  3.75", "left"), ("e  4.75", "left")]
    assert ax.texts[-1].get_text() == "critical difference 0.70"
    assert ax.get_xlabel() == "average rank (1 is best)"
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_ranks_of_several_times_are_not_drawn_as_one():
    ranks = pd.concat([ranks_of({"a": 1.0, "b": 2.0})] * 2)
    with pytest.raises(ValueError, match="one rank a method.*'a': 2"):
        plot_ranks(ranks, 1.0)


# --- Timelines ------------------------------------------------------------------------------------


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


def test_each_kind_of_work_has_its_colour_and_a_line_in_the_legend(timeline):
    ax = plot_timeline(timeline)
    assert legend_of(ax) == ["rung 0", "rung 1"]
    by_label = {bars.get_label(): {colour_of(bar) for bar in bars} for bars in ax.containers}
    assert by_label == {"rung 0": {BLUE}, "rung 1": {ORANGE}}


def test_the_timelines_axes_are_seconds_and_workers(timeline):
    ax = plot_timeline(timeline.replace({"worker": {0: "anna", 1: "bert"}}))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time in seconds", "worker")
    assert [text.get_text() for text in ax.get_yticklabels()] == ["anna", "bert"]


def test_labels_may_be_numbers_and_axes_be_given(timeline):
    _, given = plt.subplots()
    assert plot_timeline(timeline.assign(label=[0, 0, 3]), ax=given) is given
    assert legend_of(given) == ["0", "3"]


def test_work_that_ends_before_it_starts_is_shown(timeline):
    with pytest.raises(ValueError, match="work must end after it starts, got .*'start': 1.0, 'end': 0.5"):
        plot_timeline(timeline.assign(end=[3.0, 1.0, 0.5]))


def test_more_labels_than_colours_are_refused(timeline):
    with pytest.raises(ValueError, match="at most 7 labels .* got 9"):
        plot_timeline(pd.concat([timeline.assign(label=[3 * i, 3 * i + 1, 3 * i + 2]) for i in range(3)]))


@pytest.fixture
def surrogate():
    middle = np.array([0.2, 0.05, 0.4])
    return pd.DataFrame(
        {"x": [0.001, 0.03, 1.0], "middle": middle, "low": middle / 2, "high": 2 * middle, "acquisition": [0, 3, 1]}
    )


@pytest.fixture
def known_trials():
    return pd.DataFrame({"x": [0.001, 1.0], "value": [0.2, 0.4]})


def test_a_surrogate_is_drawn_with_its_band_and_its_trials(surrogate, known_trials):
    upper, _ = plot_surrogate(surrogate, known_trials)
    lines = {line.get_label(): line for line in upper.lines}
    assert list(lines) == ["model", "trials", "next trial"]
    assert lines["model"].get_ydata() == pytest.approx(surrogate["middle"].to_numpy())
    assert lines["trials"].get_xdata() == pytest.approx(known_trials["x"].to_numpy())
    ends = upper.collections[0].get_paths()[0].vertices[:, 1]
    assert (ends.min(), ends.max()) == pytest.approx((0.025, 0.8))


def test_the_next_trial_is_marked_where_the_acquisition_function_is_highest(surrogate, known_trials):
    axes = plot_surrogate(surrogate, known_trials)
    assert [ax.lines[-1].get_xdata() for ax in axes] == [[0.03, 0.03]] * 2


def test_the_truth_is_drawn_where_it_is_known_and_axes_may_be_given(surrogate, known_trials):
    _, given = plt.subplots(2, sharex=True)
    upper, lower = plot_surrogate(surrogate.assign(truth=0.1), known_trials, axes=given)
    assert (upper, lower) == tuple(given)
    assert upper.lines[0].get_label() == "truth"
    assert (upper.get_xscale(), upper.get_yscale()) == ("log", "log")
