"""The figure of what a `Monitor` recorded: probes over the steps of training."""

from __future__ import annotations

import typing

import numpy as np
import pandas as pd

from keras_plasticity import plots, probe_records

if typing.TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

LOG_TASKS = 8  # with more, their steps have no room for a scale of their own
_KNEE = 10.0  # steps after a switch from which on the scale is logarithmic


def over_training(
    df: pd.DataFrame,
    layer: str = "last",
    confidence: float = 0.95,
    logarithmic: bool | None = None,
) -> matplotlib.figure.Figure:
    """Draws probes over the steps of training, a column per probe, a line per method.

    A line is the mean over seeds, its band the t interval of that mean, a vertical line
    the begin of a task. Where the names of methods are pairs with one ending, as in `relu`,
    `relu_layer_norm`, `tanh`, `tanh_layer_norm`, each pair has a row of its own.

    Example:
    ```python
    records = probe_records.load("runs/anatomy", probes=["dead_fraction"])
    plots.save(over_training(records), "dead_fraction.png")
    ```

    Args:
        df: DataFrame from `probe_records.load`.
        layer: as `probe_records.over_layers`.
        confidence: coverage of the bands, a fraction in (0, 1).
        logarithmic: whether steps start anew at each task, on a scale that is logarithmic
            from the tenth on. Default: with at most 8 tasks that have records in between.

    Raises:
        ValueError: as `probe_records.over_layers`.
    """
    table = probe_records.over_seeds(probe_records.over_layers(df, layer), confidence)
    last = table["task"].max()
    if logarithmic is None:
        between = table.groupby(["method", "task"])["step_in_task"].nunique().max()
        logarithmic = last < LOG_TASKS and between > 3
    lengths = table.groupby("task")["step_in_task"].max()
    table["x"] = table["step"]
    if logarithmic:
        table["x"] = _scaled(table["task"], table["step_in_task"], lengths)
    rows = _rows(table)
    names = list(dict.fromkeys(df["probe"]))
    figure, axes = _axes(len(rows), len(names))
    styles = _styles(rows)
    for line, (title, members) in zip(axes, rows.items(), strict=True):
        for axis, name in zip(line, names, strict=True):
            part = table[table["probe"] == name]
            for (benchmark, method), label in members.items():
                one = part[(part["benchmark"] == benchmark) & (part["method"] == method)]
                _line(axis, one.sort_values(["task", "step"]), label, styles[label], name)
            _mark_tasks(axis, table, lengths, logarithmic)
            if name.endswith("_fraction"):
                axis.set_ylim(-0.03, 1.03)
        line[0].set_ylabel(title)
    for axis, name in zip(axes[0], names, strict=True):
        layers = table.loc[table["probe"] == name, "layer"].unique()
        where = layers[0] if len(layers) == 1 else f"{layer} layer"
        where = f"{where} of layers" if where in ("mean", "max") else where
        axis.set_title(f"{name} ({where})", pad=16 if logarithmic else 6)
    _explain(figure, axes, table, confidence, logarithmic)
    return figure


def _rows(table: pd.DataFrame) -> dict[str, dict[tuple[str, str], str]]:
    """Title of each row to its methods, each with the label of its line."""
    rows: dict[str, dict[tuple[str, str], str]] = {}
    several = table["benchmark"].nunique() > 1
    for benchmark, part in table.groupby("benchmark", sort=False):
        methods = sorted(part["method"].unique())
        ending = _ending(methods)
        for method in methods:
            title, label = "", method or "(unnamed)"
            if ending:
                title = method.removesuffix(f"_{ending}")
                label = ending if method.endswith(f"_{ending}") else f"without {ending}"
            title = ", ".join(filter(None, (str(benchmark) * several, title)))
            rows.setdefault(title, {})[(str(benchmark), method)] = label
    return rows


def _ending(methods: list[str]) -> str | None:
    """The ending that makes of half of the methods the other half."""
    for base in filter(None, methods):
        for method in methods:
            ending = method.removeprefix(f"{base}_")
            short = [name for name in methods if not name.endswith(f"_{ending}")]
            if ending != method and {*short, *(f"{n}_{ending}" for n in short)} == set(methods):
                return ending
    return None


def _styles(rows) -> dict[str, dict[str, typing.Any]]:
    labels = dict.fromkeys(label for members in rows.values() for label in members.values())
    ordered = sorted(labels, key=lambda label: not label.startswith("without "))
    colors = (plots.PALETTE[1], plots.PALETTE[0], *plots.PALETTE[2:])
    styles = {}
    for number, label in enumerate(ordered):
        turn, color = divmod(number, len(colors))
        line = plots.LINE_STYLES[turn % len(plots.LINE_STYLES)]
        styles[label] = {"color": colors[color], "linestyle": line}
    return styles


def _axes(rows: int, columns: int) -> tuple[matplotlib.figure.Figure, np.ndarray]:
    import matplotlib.figure
    import matplotlib.layout_engine

    size = (max(5.2 * columns, 6.4), 1.0 + (1.75 if rows > 1 else 3.4) * rows)
    layout = matplotlib.layout_engine.ConstrainedLayoutEngine(hspace=0.04, wspace=0.03)
    figure = matplotlib.figure.Figure(figsize=size, layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey="col")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e4e4e4", lw=0.7)
        axis.set_axisbelow(True)
    return figure, axes


def _line(axis: matplotlib.axes.Axes, one: pd.DataFrame, label: str, style, probe: str) -> None:
    axis.plot(one["x"], one["mean"], label=label, lw=1.6, **style)
    low, high = one["low"], one["high"]
    if probe.endswith("_fraction"):  # An interval over few seeds may leave the scale.
        low, high = low.clip(0, 1), high.clip(0, 1)
    axis.fill_between(one["x"], low, high, color=style["color"], alpha=0.18, lw=0)


def _scaled(tasks, steps, lengths: pd.Series) -> np.ndarray:
    """Place of steps of tasks, each of which takes up one unit: `log1p(step / 10)`, scaled."""
    length = np.maximum(lengths.loc[tasks].to_numpy(), 1)
    within = np.log1p(np.asarray(steps) / _KNEE) / np.log1p(length / _KNEE)
    return np.asarray(tasks) + within


def _mark_tasks(
    axis: matplotlib.axes.Axes, table: pd.DataFrame, lengths: pd.Series, logarithmic: bool
) -> None:
    tasks = lengths.index.to_numpy()
    if not logarithmic:
        begins = table.groupby("task")["step"].min()
        for begin in begins[1:] if len(begins) <= 60 else ():
            axis.axvline(begin, color="#9a9a9a", lw=0.7, ls=(0, (2, 2)), zorder=1)
        axis.margins(x=0.01)
        return
    ticks: list[float] = []
    labels: list[str] = []
    place = axis.get_subplotspec()
    for task in tasks:
        if task != tasks[0]:
            axis.axvline(task, color="#606060", lw=0.9, ls=(0, (2, 2)), zorder=1)
        steps = [10**n for n in range(1, 8) if 10**n <= 0.6 * lengths[task]]
        ticks += list(_scaled([task] * len(steps), steps, lengths))
        labels += [f"{s // 1000}k" if s >= 1000 else str(s) for s in steps]
        if place is not None and place.is_first_row():
            axis.text(
                task + 0.5,
                1.01,
                f"task {task}",
                transform=axis.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=8.5,
                color="#555555",
            )
    axis.set_xticks(ticks, labels, fontsize=8)
    axis.set_xlim(tasks[0] - 0.02, tasks[-1] + 1.02)


def _explain(
    figure: matplotlib.figure.Figure,
    axes: np.ndarray,
    table: pd.DataFrame,
    confidence: float,
    logarithmic: bool,
) -> None:
    """Names the lines and says what the marks mean."""
    steps = "Steps after each switch (optimizer updates)" if logarithmic else "Step"
    for axis in axes[-1]:
        axis.set_xlabel(steps if logarithmic else "Step (optimizer updates)")
    lines: dict[str, typing.Any] = {}
    for axis in axes.flat:
        found, labels = axis.get_legend_handles_labels()
        lines |= dict(zip(labels, found, strict=True))
    beside = len(lines) > 4
    if beside:
        width, height = figure.get_size_inches()
        figure.set_size_inches(width + 2.2, max(height, 0.8 + 0.21 * len(lines)))
    figure.legend(
        lines.values(),
        lines,
        loc="outside right upper" if beside else "outside upper center",
        ncols=1 if beside else len(lines),
        frameon=False,
        fontsize=9,
    )
    fewest, most = table["seeds"].min(), table["seeds"].max()
    seeds = plots._count(most) if fewest == most else f"{fewest} to {most} seeds"
    text = f"Line: mean over {seeds}. Band: {confidence * 100:g} % t interval."
    text = text if most > 1 else "One seed a method: no interval."
    figure.supxlabel(f"{text} Dashed: a task begins.", fontsize=8.5, color="#555555")
