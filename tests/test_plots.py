"""What the figures hold: lines, bands, labels, and the words that explain them."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from keras_plasticity import plots, results

METHODS = {"plain": -0.2, "layer_norm": -0.1, "fresh": 0.0}


def rows(methods=METHODS, seeds=(100, 101, 102), tasks=20, benchmark="quickstart"):
    """Straight lines from 0.5 by the method's slope, apart by 0.01 a seed."""
    return pd.DataFrame(
        {
            "benchmark": benchmark,
            "method": method,
            "seed": seed,
            "run": f"{benchmark}/{method}/seed_{seed}",
            "uses_task_boundaries": method == "fresh",
            "task": task,
            "online_accuracy": 0.5 + slope * task / (tasks - 1) + 0.01 * (seed - 101),
            "test_accuracy": np.nan,
            "seconds": 2.0,
        }
        for method, slope in methods.items()
        for seed in seeds
        for task in range(tasks)
    )


def texts(axis):
    return [text.get_text() for text in axis.texts]


def legend(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_curves_have_a_line_and_a_band_a_method():
    (axis,) = plots.curves(rows()).axes
    assert axis.get_xlabel() == "Task (index)"
    assert axis.get_ylabel() == "Online accuracy (fraction)"
    assert legend(axis) == ["fresh* (3 seeds)", "layer_norm (3 seeds)", "plain (3 seeds)"]
    assert texts(axis) == [
        "Line: mean over seeds. Band: 95 % t interval over 3 seeds.\n*: uses task boundaries."
    ]
    assert len(axis.lines) == 3 and len(axis.collections) == 3
    plain = axis.lines[2]
    assert plain.get_xdata().tolist() == list(range(20))
    assert plain.get_ydata() == pytest.approx(0.5 - 0.2 * np.arange(20) / 19)
    edges = axis.collections[2].get_paths()[0].vertices[:, 1]
    assert edges.min() == pytest.approx(results.interval([0.29, 0.3, 0.31])[0])
    assert edges.max() == pytest.approx(results.interval([0.49, 0.5, 0.51])[1])


def test_control_is_dashed_grey_and_colours_do_not_depend_on_the_choice():
    (axis,) = plots.curves(rows()).axes
    assert axis.lines[0].get_color() == "#767676" and axis.lines[0].get_linestyle() == "--"
    (chosen,) = plots.curves(rows(), methods=["plain"]).axes
    assert len(chosen.lines) == 1
    assert chosen.lines[0].get_color() == axis.lines[2].get_color() in plots.PALETTE


def test_ten_methods_differ_in_colour_or_style():
    methods = {f"method {n}": -0.01 * n for n in range(10)}
    (axis,) = plots.curves(rows(methods)).axes
    assert len({(line.get_color(), str(line.get_linestyle())) for line in axis.lines}) == 10


def test_one_seed_has_a_line_and_no_band():
    for draw in (plots.curves, plots.last_windows):
        (axis,) = draw(rows({"plain": -0.2}, seeds=(1,))).axes
        assert not axis.collections
        assert texts(axis) == ["One seed a method: no interval."]


def test_unfinished_run_is_not_drawn():
    df = rows()
    df = df[(df["run"] != "quickstart/plain/seed_100") | (df["task"] < 5)]
    (axis,) = plots.curves(df).axes
    assert legend(axis)[2] == "plain (2 seeds)"
    assert "over 2 to 3 seeds" in texts(axis)[0]


def test_tasks_without_a_value_are_left_out_of_a_line():
    df = rows({"plain": -0.2})
    df.loc[df["task"] % 2 == 1, "online_accuracy"] = np.nan
    (axis,) = plots.curves(df).axes
    assert axis.lines[0].get_xdata().tolist() == list(range(0, 20, 2))


def test_accuracy_axis_stays_within_its_scale():
    df = rows({"plain": -0.4}, seeds=(61, 141))  # the interval of two seeds is huge
    (axis,) = plots.curves(df).axes
    assert axis.get_ylim() == (0.0, 1.02)


def test_a_panel_a_benchmark():
    df = pd.concat([rows(), rows(tasks=5, benchmark="pixels")])
    figure = plots.curves(df)
    assert [axis.get_title() for axis in figure.axes] == ["pixels", "quickstart"]
    assert figure.get_size_inches().tolist() == [8.0, 9.0]
    labels = [axis.get_xlabel() for axis in plots.last_windows(df).axes]
    assert labels == [
        "Online accuracy, last task (fraction)",
        "Online accuracy, last 2 tasks (fraction)",
    ]


def test_last_windows_show_each_seed_mean_and_interval_the_best_on_top():
    (axis,) = plots.last_windows(rows()).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "fresh*",
        "layer_norm",
        "plain",
    ]
    assert axis.yaxis_inverted() and len(axis.lines) == 9
    dots, line, mean = axis.lines[6:]
    last = 0.5 - 0.2 * (18 + 19) / 2 / 19
    values = [last - 0.01, last, last + 0.01]
    assert dots.get_xdata() == pytest.approx(values)
    assert line.get_xdata() == pytest.approx(results.interval(values))
    assert mean.get_xdata() == pytest.approx([last])
    assert "95 % t interval over 3 seeds" in texts(axis)[0]


@pytest.mark.parametrize("draw", [plots.curves, plots.last_windows])
def test_null_metric_and_unknown_method_are_errors(draw):
    with pytest.raises(ValueError, match="null in every row. Received: metric='test_accuracy'"):
        draw(rows(), metric="test_accuracy")
    with pytest.raises(ValueError, match="`methods` must name .*'plain'.* Received: .*'plane'"):
        draw(rows(), methods=["plane"])
    with pytest.raises(ValueError, match="`confidence` must be"):
        draw(rows(), confidence=1.0)


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("first_presentation_accuracy", "First presentation accuracy (fraction)"),
        ("test_loss", "Test loss (mean per example)"),
        ("seconds", "Time (seconds per task)"),
    ],
)
def test_axis_labels_have_units(metric, label):
    assert plots.axis_label(metric) == label


def test_save_writes_png_and_svg_with_text_and_the_same_bytes_again(tmp_path):
    png = plots.save(plots.curves(rows()), tmp_path / "curves.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    first = plots.save(plots.curves(rows()), tmp_path / "a.svg").read_text()
    assert ">Online accuracy (fraction)</text>" in first
    assert plots.save(plots.curves(rows()), tmp_path / "b.svg").read_text() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.svg", "b.svg", "curves.png"]
    with pytest.raises(ValueError, match=r"must end in .png or .svg. Received: .*\.gif"):
        plots.save(plots.curves(rows()), tmp_path / "curves.gif")


def test_nothing_is_drawn_inside_out_of_view():
    """Every label, legend entry and note lies within the figure."""
    methods = {"layer_norm_l2_shrink_and_perturb": -0.1, **METHODS}
    for figure in (plots.curves(rows(methods)), plots.last_windows(rows(methods))):
        figure.draw_without_rendering()
        (axis,) = figure.axes
        artists = [*axis.texts, axis.xaxis.label, axis.title]
        artists += [axis.get_legend()] if axis.get_legend() else axis.get_yticklabels()
        for artist in artists:
            box = artist.get_window_extent()
            assert box.x0 >= -1 and box.y0 >= -1
            assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1


def test_pyplot_is_not_touched():
    code = """
import sys
import pandas as pd
from keras_plasticity import plots
plots.curves(pd.read_json(sys.stdin, orient="split"))
assert "matplotlib.pyplot" not in sys.modules
"""
    data = rows().to_json(orient="split")
    subprocess.run([sys.executable, "-c", code], input=data, text=True, check=True)
