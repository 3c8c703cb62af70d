"""Figures of runs over a stream of tasks.

Functions from the table of `results.load` to a `matplotlib.figure.Figure`, without
pyplot's global state. matplotlib is imported when a figure is made. As in
`results`, only complete runs are drawn.
"""

from __future__ import annotations

import collections.abc
import io
import pathlib
import typing

import numpy as np
import pandas as pd

from keras_plasticity import recovery, results
from keras_plasticity.checkpoint import write_whole

if typing.TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# Okabe and Ito's palette without its yellow, which is too light on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINE_STYLES: tuple[typing.Any, ...] = ("-", (0, (1, 1.2)), (0, (5, 1, 1, 1)), (0, (3, 1)))
CONTROL_STYLE: dict[str, typing.Any] = {"color": "#767676", "linestyle": "--", "zorder": 3}
SIZE = (8.0, 4.5)


def curves(
    df: pd.DataFrame,
    metric: str = "online_accuracy",
    methods: collections.abc.Sequence[str] | None = None,
    confidence: float = 0.95,
    control: str = "fresh",
) -> matplotlib.figure.Figure:
    """Draws the metric against the task, a line per method, a panel per benchmark.

    A line is the mean over seeds, its band the t interval of that mean at each
    task. Tasks at which a seed has no value are left out.

    Example:
    ```python
    save(curves(load("runs/quickstart")), "online_accuracy.png")
    ```

    Args:
        df: DataFrame from `results.load`.
        metric: column to draw.
        methods: methods to draw; None means all.
        confidence: coverage of the bands, a fraction in (0, 1).
        control: method drawn as a dashed grey line.

    Raises:
        ValueError: if the metric is unknown or null everywhere, a method is
            unknown, or the confidence is outside (0, 1).
    """
    df, styles = _selected(df, metric, methods, control)
    figure, axes = _panels(df)
    for axis, (benchmark, panel) in zip(axes, df.groupby("benchmark"), strict=True):
        seeds: list[int] = []
        for method in _ranked(panel, metric):
            table = panel[panel["method"] == method].pivot(
                index="task", columns="seed", values=metric
            )
            table = table.dropna()
            if table.empty:
                continue
            seeds.append(table.shape[1])
            label = f"{_name(panel, method)} ({_count(table.shape[1])})"
            mean = table.mean(axis=1)
            marker = "o" if len(table) == 1 else None
            axis.plot(mean.index, mean, label=label, lw=1.8, marker=marker, **styles[method])
            bounds = [results.interval(row, confidence) for row in table.to_numpy()]
            if seeds[-1] > 1:
                low, high = np.transpose(bounds)
                color = styles[method]["color"]
                axis.fill_between(mean.index, low, high, color=color, alpha=0.16, lw=0)
        meaning = f"Line: mean over seeds. Band: {confidence * 100:g} % t interval over {{}}."
        _finish(axis, panel, meaning, seeds)
        axis.set(title=benchmark, xlabel="Task (index)", ylabel=axis_label(metric))
        axis.xaxis.get_major_locator().set_params(integer=True)
        if metric.endswith("accuracy"):  # A band over few seeds may leave the scale.
            low, high = axis.get_ylim()
            axis.set_ylim(max(low, 0.0), min(high, 1.02))
        axis.margins(x=0.01)
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    return figure


def last_windows(
    df: pd.DataFrame,
    metric: str = "online_accuracy",
    methods: collections.abc.Sequence[str] | None = None,
    share: float = 0.1,
    confidence: float = 0.95,
    method: str = "t",
    control: str = "fresh",
) -> matplotlib.figure.Figure:
    """Draws each seed's mean over the last tasks as a dot, the best method on top.

    Args:
        df: DataFrame from `results.load`.
        metric: column to draw.
        methods: methods to draw; None means all.
        share: fraction of the tasks in the window, in (0, 1].
        confidence: coverage of the intervals, a fraction in (0, 1).
        method: kind of interval, see `results.interval`.
        control: method drawn in grey.

    Raises:
        ValueError: as `curves` and `results.windows`.
    """
    df, styles = _selected(df, metric, methods, control)
    table = results.windows(df, metric, share)
    figure, axes = _panels(df)
    for axis, (benchmark, panel) in zip(axes, df.groupby("benchmark"), strict=True):
        names = _ranked(panel, metric, share)
        seeds = []
        for row, name in enumerate(names):
            chosen = (table["benchmark"] == benchmark) & (table["method"] == name)
            values = table.loc[chosen, "last"]
            seeds.append(len(values))
            color = styles[name]["color"]
            axis.plot(values, np.full(len(values), row + 0.2), "o", color=color, alpha=0.5, ms=5)
            low, high = results.interval(values, confidence, method)
            axis.plot([low, high], [row, row], color=color, lw=2.2, solid_capstyle="butt")
            axis.plot(values.mean(), row, "|", color=color, ms=14, mew=2.2)
        axis.set_yticks(range(len(names)), [_name(panel, name) for name in names])
        axis.set_ylim(len(names) - 0.4, -0.6)
        size = results.window_size(panel["task"].nunique(), share)
        window = f"last {size} tasks" if size > 1 else "last task"
        kind = "t" if method == "t" else "BCa"
        _finish(
            axis,
            panel,
            "Dot: one seed. Tick and line: mean and "
            f"{confidence * 100:g} % {kind} interval over {{}}.",
            seeds,
        )
        label = axis_label(metric).replace(" (", f", {window} (")
        axis.set(title=benchmark, xlabel=label)
    return figure


def gap_recovered(
    df: pd.DataFrame,
    low: str = "plain",
    high: str = "full_reset",
    metric: str = "online_accuracy",
    share: float = 0.1,
    confidence: float = 0.95,
    method: str = "t",
    control: str = "fresh",
) -> matplotlib.figure.Figure:
    """Draws the share of the gap from `low` to `high` that each other method recovers.

    Seeds are small dots, their mean a large one on its interval. Methods for which the
    gap is not clear (see `recovery.gap_recovered`) have their row and no dot.

    Args:
        df: DataFrame from `results.load`.
        low: method at which nothing is recovered.
        high: method at which all is recovered.
        metric: column to compare.
        share: fraction of the tasks in the last window, in (0, 1].
        confidence: coverage of the intervals, a fraction in (0, 1).
        method: kind of interval, see `results.interval`.
        control: method drawn in grey.

    Raises:
        ValueError: as `recovery.gap_recovered`.
    """
    shares = recovery.gap_recovered(df, low, high, metric, share, confidence, method)
    by_seed = recovery.by_seed(df, low, high, metric, share)
    df, styles = _selected(df, metric, None, control)
    df = df[df["benchmark"].isin(shares["benchmark"])]
    figure, axes = _panels(df)
    for axis, (benchmark, panel) in zip(axes, df.groupby("benchmark"), strict=True):
        here = shares[(shares["benchmark"] == benchmark) & (shares["seeds"] > 0)]
        part = shares[(shares["benchmark"] == benchmark) & ~shares["method"].isin([low, high])]
        seeds = by_seed[by_seed["benchmark"] == benchmark].set_index("method")["last_recovered"]
        left, right = _share_rows(axis, part, seeds, styles)
        axis.set_yticks(range(len(part)), [_name(panel, name) for name in part["method"]])
        axis.set_ylim(max(len(part), 1) - 0.4, -0.6)
        for place, name in enumerate((low, high)):
            axis.axvline(place, lw=1.2, **(CONTROL_STYLE | {"zorder": 1}))
            top = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            text = _name(panel, name)
            axis.annotate(text, (place, 1), (0, 3), ha="center", fontsize=9, **top)
        kind = "t" if method == "t" else "BCa"
        meaning = f"Small dots: seeds. Large dot and line: mean and {confidence * 100:g} % {kind} "
        meaning += "interval over {}."
        if (part["recovered_low"] < left).any() or (part["recovered_high"] > right).any():
            meaning += "\nA line that reaches the edge goes on beyond it."
        _finish(axis, panel, meaning, here["seeds"].tolist())
        size = results.window_size(panel["task"].nunique(), share)
        where = metric.replace("_", " ") + (f", last {size} tasks" if size > 1 else ", last task")
        axis.set_xlabel(f"Share of the gap in {where} ({low} = 0, {high} = 1)")
        axis.set_title(benchmark, pad=18)
    most = shares.groupby("benchmark")["method"].size().max()
    figure.set_figheight(len(axes) * max(SIZE[1], 1.4 + 0.32 * most))
    return figure


def save(figure: matplotlib.figure.Figure, path: results.PathLike) -> pathlib.Path:
    """Writes a figure as PNG (150 dots per inch) or SVG (text stays text).

    The same rows, drawn anew, give the same bytes. The file is written whole or not at all.

    Args:
        figure: figure to write.
        path: file whose suffix, `.png` or `.svg`, chooses the format.

    Raises:
        ValueError: if the suffix is another.
    """
    import matplotlib

    path = pathlib.Path(path)
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"Argument `path` must end in .png or .svg. Received: path={str(path)!r}")
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "keras_plasticity"}):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=path.suffix[1:], dpi=150, metadata=metadata)
    write_whole(path, buffer.getvalue())
    return path


def axis_label(metric: str) -> str:
    """Name of a metric with its unit: "Online accuracy (fraction)"."""
    name = metric.replace("_", " ").capitalize()
    if metric.endswith("accuracy"):
        return f"{name} (fraction)"
    if metric.endswith("loss"):
        return f"{name} (mean per example)"
    if metric.endswith("squared_error"):
        return f"{name} (squared units of the targets)"
    return "Time (seconds per task)" if metric == "seconds" else name


def _selected(
    df: pd.DataFrame,
    metric: str,
    methods: collections.abc.Sequence[str] | None,
    control: str,
) -> tuple[pd.DataFrame, dict[str, dict[str, typing.Any]]]:
    """Complete rows of the methods, and a style per method for all panels."""
    df = results.with_metric(results.complete(df), metric)
    known = sorted(df["method"].unique())
    if methods is not None:
        if not methods or not set(methods) <= set(known):
            raise ValueError(
                f"Argument `methods` must name methods with complete runs, {known}. "
                f"Received: methods={list(methods)!r}"
            )
        df = df[df["method"].isin(methods)]
    styles: dict[str, dict[str, typing.Any]] = {}
    for number, name in enumerate(name for name in known if name != control):
        turn, color = divmod(number, len(PALETTE))
        styles[name] = {
            "color": PALETTE[color],
            "linestyle": LINE_STYLES[turn % len(LINE_STYLES)],
        }
    return df, {**styles, control: CONTROL_STYLE}


def _panels(df: pd.DataFrame) -> tuple[matplotlib.figure.Figure, np.ndarray]:
    import matplotlib.figure
    import matplotlib.layout_engine

    count = df["benchmark"].nunique()
    size = (SIZE[0], SIZE[1] * count)
    layout = matplotlib.layout_engine.ConstrainedLayoutEngine(hspace=0.06)
    figure = matplotlib.figure.Figure(figsize=size, layout=layout)
    axes = figure.subplots(count, 1, squeeze=False)[:, 0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#e4e4e4", lw=0.7)
        axis.set_axisbelow(True)
    return figure, axes


def _finish(
    axis: matplotlib.axes.Axes, panel: pd.DataFrame, meaning: str, seeds: list[int]
) -> None:
    """Says below a panel what its marks mean and over how many seeds."""
    fewest, most = min(seeds), max(seeds)
    count = _count(most) if fewest == most else f"{fewest} to {most} seeds"
    text = meaning.format(count) if most > 1 else "One seed a method: no interval."
    if panel["uses_task_boundaries"].any():
        text += "\n*: uses task boundaries."
    axis.annotate(
        text,
        (0, 0),
        (0, -38),
        xycoords="axes fraction",
        textcoords="offset points",
        va="top",
        fontsize=8.5,
        color="#555555",
    )


def _share_rows(
    axis: matplotlib.axes.Axes,
    part: pd.DataFrame,
    by_seed: pd.Series,
    styles: dict[str, dict[str, typing.Any]],
) -> tuple[float, float]:
    """Draws a row per method; returns limits with all dots and what is near of the lines."""
    reach = [0.0, 1.0]
    for number, row in enumerate(part.itertuples()):
        if np.isnan(row.recovered):
            why = "no clear gap" if row.seeds else "no seed in common"
            axis.text(
                0.5, number, why, color="#767676", ha="center", va="center", backgroundcolor="w"
            )
            continue
        color = styles[row.method]["color"]
        values = by_seed.loc[[row.method]].tolist()
        ends = [row.recovered_low, row.recovered_high]
        axis.plot(values, [number + 0.22] * len(values), "o", color=color, alpha=0.5, ms=4)
        axis.plot(ends, [number] * 2, color=color, lw=2.2, solid_capstyle="butt")
        axis.plot(row.recovered, number, "o", color=color, ms=8)
        reach += [*values, *np.clip(ends, -0.5, 1.5)]
    low, high = np.nanmin(reach) - 0.06, np.nanmax(reach) + 0.06
    axis.set_xlim(low, high)
    return low, high


def _ranked(panel: pd.DataFrame, metric: str, share: float = 0.1) -> list[str]:
    """Methods of one benchmark, the best last window first."""
    mean = results.windows(panel, metric, share).groupby("method")["last"].mean()
    ascending = not results.higher_is_better(metric)
    return [str(name) for name in mean.sort_values(ascending=ascending, kind="stable").index]


def _name(panel: pd.DataFrame, method: str) -> str:
    uses = panel.loc[panel["method"] == method, "uses_task_boundaries"].any()
    return (method or "(unnamed)") + "*" * bool(uses)


def _count(seeds: int) -> str:
    return f"{seeds} seed" if seeds == 1 else f"{seeds} seeds"
