"""The report on a set of runs: tables in the terminal, tables and figures in files.

One table per benchmark, with every method in it. What is written stands beside the
runs: all rows, the summary, the curves and the last windows.
"""

from __future__ import annotations

import collections.abc
import functools
import glob
import importlib.util
import math
import os
import pathlib
import sys
import typing

import pandas as pd
import rich.box
import rich.console
import rich.table

from keras_plasticity import plots, recovery, results
from keras_plasticity.checkpoint import write_whole

FORMATS = ("csv", "parquet", "png", "svg")
PIPE_WIDTH = 100


def report(
    paths: results.PathLike | collections.abc.Sequence[results.PathLike],
    out: results.PathLike | None = None,
    metric: str | None = None,
    share: float = 0.1,
    control: str = "fresh",
    formats: collections.abc.Sequence[str] = ("csv", "png", "svg"),
    method: str = "t",
    gap: collections.abc.Sequence[str] | None = None,
) -> pd.DataFrame:
    """Prints how the methods compare and writes tables and figures.

    Runs with fewer tasks than the longest of their benchmark are listed and not
    counted. Methods that are told where a task begins carry a star. The intervals
    are per comparison, not adjusted for their number.

    Example:
    ```python
    summary = report("runs/quickstart")
    ```

    Args:
        paths: a run directory, a root above several, a glob pattern, or a sequence
            of these.
        out: directory for the files; None means `report` in the first path (for a
            glob pattern, in its part before the first wildcard).
        metric: column to compare. Default: `results.default_metric`.
        share: fraction of the tasks in the first and the last window, in (0, 1].
        control: method that starts from a fresh network at every task.
        formats: any of `"csv"`, `"parquet"` (`summary` and `runs`, which holds the
            rows of all runs), `"png"` and `"svg"` (`<metric>` and
            `<metric>_last_window`); `recovery` in each where `gap` is given.
        method: kind of interval, see `results.interval`.
        gap: two methods, such as `("plain", "full_reset")`; adds how much of the gap
            between them each method recovers, see `recovery.gap_recovered`.

    Returns:
        The table of `results.summary`.

    Raises:
        ValueError: if the paths lead to no run, or an argument is not allowed.
        ImportError: if `"parquet"` is asked for and pyarrow is not installed.
    """
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    check_formats(formats)
    df = results.load(*paths)
    metric = metric or results.default_metric(df)
    summary = results.summary(df, metric, share, control, method)
    tables = {"summary": summary, "runs": df}
    figures: dict[str, collections.abc.Callable[[], typing.Any]] = {
        metric: functools.partial(plots.curves, df, metric, control=control),
        f"{metric}_last_window": functools.partial(
            plots.last_windows, df, metric, share=share, method=method, control=control
        ),
    }
    if gap is not None:
        low, high = gap
        among = (df, low, high, metric, share)
        tables["recovery"] = recovery.gap_recovered(*among, method=method)
        figures["recovery"] = functools.partial(
            plots.gap_recovered, *among, method=method, control=control
        )
        by_seed = recovery.by_seed(*among)
    console = make_console()
    for benchmark in df["benchmark"].unique():
        rows = df[df["benchmark"] == benchmark]
        if benchmark not in set(summary["benchmark"]):
            console.print(f"{benchmark}: no complete run has {metric}.\n")
            continue
        part = summary[summary["benchmark"] == benchmark]
        console.print(_title(rows, metric, share, method))
        console.print(_methods_table(part, control, console))
        console.print("", *_notes(part, control), "", sep="\n")
        _print_differences(console, rows, part, metric, share, control, method)
        if gap is not None:
            shares, seeds = (
                table[table["benchmark"] == benchmark] for table in (tables["recovery"], by_seed)
            )
            _print_recovered(console, shares, seeds, low, high)
    _print_incomplete(console, df, paths)
    folder = pathlib.Path(out) if out is not None else default_folder(paths[0])
    written = write_files(folder, tables, figures, formats)
    if written:
        console.print(f"Written to {folder.as_posix()}: {', '.join(written)}", soft_wrap=True)
    return summary


def check_formats(formats: collections.abc.Sequence[str]) -> None:
    """Checks the names of file formats.

    Raises:
        ValueError: one is not of `FORMATS`.
        ImportError: `"parquet"` without pyarrow.
    """
    if isinstance(formats, str) or not set(formats) <= set(FORMATS):
        raise ValueError(
            f"Argument `formats` must be a sequence of {FORMATS}. Received: formats={formats!r}"
        )
    if "parquet" in formats and importlib.util.find_spec("pyarrow") is None:
        raise ImportError(
            "Writing Parquet files needs pyarrow: "
            'pip install "keras-plasticity[parquet]". '
            f"Received: formats={formats!r}"
        )


def make_console() -> rich.console.Console:
    """A console that writes plain text of fixed width where there is no terminal."""
    plain: dict[str, typing.Any] = {"markup": False, "highlight": False, "emoji": False}
    if not sys.stdout.isatty():
        plain |= {"force_terminal": False, "color_system": None, "width": PIPE_WIDTH}
    return rich.console.Console(**plain)


def _title(rows: pd.DataFrame, metric: str, share: float, method: str) -> str:
    tasks = rows.groupby("run")["task"].nunique().max()
    size = results.window_size(tasks, share)
    kind = "t" if method == "t" else "BCa"
    planned = rows["num_tasks"].max() if "num_tasks" in rows else tasks
    part = f"UNFINISHED, the first {tasks} of " if tasks < planned else ""
    return (
        f"{rows['benchmark'].iloc[0] or '(unnamed)'}: {metric}, {part}"
        f"{_tasks(int(planned) if part else tasks)}, windows of "
        f"{_tasks(size)}, 95 % {kind} intervals over seeds"
    )


def _methods_table(
    part: pd.DataFrame, control: str, console: rich.console.Console, robust: bool = True
) -> rich.table.Table:
    robust = robust and bool(part["iqm"].notna().any())
    headers = ["Seeds", "First\nwindow", "Last\nwindow"]
    headers += ["IQM"] if robust else []
    headers += [f"Gap to\n{control}", "Retention", "Minutes"]
    table = make_table(headers)
    for row in part.itertuples():
        name = (row.method or "(unnamed)") + "*" * bool(row.uses_task_boundaries)
        gap = with_interval(row.gap_to_fresh, row.gap_low, row.gap_high, console, form="+.3f")
        cells = [name, str(row.seeds), number(row.first)]
        cells += [with_interval(row.last, row.low, row.high, console)]
        cells += [number(row.iqm)] if robust else []
        cells += ["control" if row.method == control else gap]
        cells += [number(row.retention, ".2f"), number(row.seconds / 60, ".1f")]
        table.add_row(*cells)
    if robust and console.measure(table).maximum < _natural_width(table, console):
        return _methods_table(part, control, console, robust=False)
    return table


def _notes(part: pd.DataFrame, control: str) -> list[str]:
    lines = [f"Gap: {control} minus method, paired by seed. Minutes: mean per run."]
    if control not in set(part["method"]):
        lines = [f"No complete run of {control}: gaps are unknown. Minutes: mean per run."]
    if part["uses_task_boundaries"].any():
        lines.append("*: is told where a task begins.")
    return lines


def _print_differences(
    console: rich.console.Console,
    rows: pd.DataFrame,
    part: pd.DataFrame,
    metric: str,
    share: float,
    control: str,
    method: str,
) -> None:
    """Prints the best method other than the control, minus each other method."""
    candidates = part.loc[part["method"] != control, "method"].tolist()
    if not candidates or len(part) < 2:
        return
    best = candidates[0]
    table = make_table(["Difference", "Common\nseeds"])
    for other in part.loc[part["method"] != best, "method"]:
        try:
            pair = results.paired_difference(rows, best, other, metric, share, method=method)
        except ValueError:  # No seed in common.
            table.add_row(other, "-", "0")
            continue
        cell = with_interval(pair.mean, pair.low, pair.high, console, form="+.3f")
        table.add_row(other, cell, str(pair.n))
    console.print(f"Last window of {best} (the best on these seeds) minus that of each method")
    console.print(table, "", sep="\n")


def _print_recovered(
    console: rich.console.Console, part: pd.DataFrame, by_seed: pd.DataFrame, low: str, high: str
) -> None:
    """Prints the share of the gap from `low` to `high` that each method recovers."""
    if part.empty:
        console.print(f"No complete runs of {low} and {high} on a common seed: no gap.\n")
        return
    console.print(f"Share of the gap from {low} to {high} that each method recovers")
    console.print(_recovered_table(part, low, high, console))
    console.print("", *_recovered_notes(part, by_seed, low, high, console), "", sep="\n")


def _recovered_table(
    part: pd.DataFrame, low: str, high: str, console: rich.console.Console, stacked: bool = False
) -> rich.table.Table:
    headers = ["Seeds", "Recovered\nat the end", "Recovered\noverall", "First\nwindow"]
    table = make_table([*headers, "All\ntasks", "Minutes", "Cost"])
    for row in part.to_dict("records"):
        cells = [row["method"] + "*" * row["uses_task_boundaries"], str(row["seeds"])]
        for name in ("recovered", "stream_recovered", "first_difference", "stream_difference"):
            form = ".2f" if name.endswith("recovered") else "+.3f"
            ends = (row[f"{name}_low"], row[f"{name}_high"])
            cell = with_interval(row[name], *ends, console, form=form)
            if form == ".2f" and row["method"] in (low, high) and cell != "-":
                cell = f"{row[name]:.0f}"
            elif form != ".2f" and row["method"] == low:
                cell = "control"
            cells.append(cell.replace(" ", "\n", 1) if stacked else cell)
        table.add_row(*cells, number(row["minutes"], ".1f"), number(row["cost_ratio"], ".2f"))
    if not stacked and console.measure(table).maximum < _natural_width(table, console):
        return _recovered_table(part, low, high, console, stacked=True)
    return table


def _recovered_notes(
    part: pd.DataFrame, by_seed: pd.DataFrame, low: str, high: str, console: rich.console.Console
) -> list[str]:
    seeds = by_seed.loc[by_seed["method"] == low, "seed"].tolist()
    row = part[part["method"] == high].iloc[0]
    gaps = [
        with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"], console, form="+.3f")
        for name in ("gap", "stream_gap")
    ]
    lines = [
        f"Recovered: (method - {low}) / ({high} - {low}) at each seed, averaged,",
        "  at the end: of the last window; overall: of the mean over all tasks.",
        f"First window, All tasks: method minus {low}, paired by seed.",
        f"Minutes: mean per run. Cost: time of a run / that of {low}, paired by seed.",
        f"Gap: {gaps[0]} at the end, {gaps[1]} overall, on {_seeds(seeds)}.",
    ]
    if (part["seeds"] < len(seeds)).any():
        lines.append("  A method that lacks some of these seeds is compared on the others.")
    compared = part[part["seeds"] > 0]
    for name, where in (("gap_clear", "at the end"), ("stream_gap_clear", "overall")):
        unclear = compared.loc[~compared[name], "method"]
        if not unclear.empty:
            of = f" on the seeds of {', '.join(unclear)}" if len(unclear) < len(compared) else ""
            lines.append(f"The gap {where} is not clear{of}: no share is given.")
    if not part[["gap_clear", "stream_gap_clear"]].all(axis=None):
        lines.append(f"  (Clear: {high} is better at each seed, and the t interval excludes 0.)")
    if len(seeds) == 1:
        lines.append("One seed: no intervals, and the gap itself may be chance.")
    if part["uses_task_boundaries"].any():
        lines.append("*: is told where a task begins.")
    return lines


def _print_incomplete(
    console: rich.console.Console,
    df: pd.DataFrame,
    paths: collections.abc.Sequence[results.PathLike],
) -> None:
    missing = results.incomplete(df)
    lines = [f"  {row.run}: {row.tasks} of {_tasks(row.of)}" for row in missing.itertuples()]
    started = {path.as_posix() for path in results.run_directories(*paths)}
    lines += [f"  {run}: no finished task" for run in sorted(started - set(df["run"]))]
    if lines:
        console.print(
            f"Incomplete, not counted: {len(lines)}", *lines, "", sep="\n", soft_wrap=True
        )


def write_files(
    folder: pathlib.Path,
    tables: collections.abc.Mapping[str, pd.DataFrame],
    figures: collections.abc.Mapping[str, collections.abc.Callable[[], typing.Any]],
    formats: collections.abc.Sequence[str],
) -> list[str]:
    """Writes each file whole or not at all, and returns the names."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, table in tables.items():
        for suffix in ("csv", "parquet"):
            if suffix in formats:
                path = folder / f"{name}.{suffix}"
                if suffix == "csv":
                    write_whole(path, table.to_csv(index=False).encode())
                else:
                    write_whole(path, table.to_parquet(index=False))
                written.append(path.name)
    suffixes = [suffix for suffix in ("png", "svg") if suffix in formats]
    if suffixes:
        for name, draw in figures.items():
            figure = draw()
            for suffix in suffixes:
                written.append(plots.save(figure, folder / f"{name}.{suffix}").name)
    return written


def default_folder(path: results.PathLike) -> pathlib.Path:
    """Returns `report` in a directory, or in the part of a pattern before its wildcards."""
    parts = pathlib.Path(path).parts
    if not os.path.exists(path):
        wild = next(number for number, part in enumerate(parts) if glob.has_magic(part))
        parts = parts[:wild]
    root = pathlib.Path(*parts)
    return (root.parent if root.is_file() else root) / "report"


def make_table(headers: collections.abc.Sequence[str]) -> rich.table.Table:
    """Returns an empty table with a column of methods and one for each header."""
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False
    )
    table.add_column("Method", overflow="fold")
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def _natural_width(table: rich.table.Table, console: rich.console.Console) -> int:
    """Width at which nothing in the table is folded."""
    return console.measure(table, options=console.options.update(width=1000)).maximum


def with_interval(
    mean: float, low: float, high: float, console: rich.console.Console, form: str = ".3f"
) -> str:
    """A mean with its interval: `±` where symmetric, else the ends below."""
    if math.isnan(low):
        return number(mean, form)
    if math.isclose(high - mean, mean - low, rel_tol=1e-6, abs_tol=1e-12):
        plus_minus = "±" if console.encoding.lower().startswith("utf") else "+/-"
        return f"{mean:{form}} {plus_minus} {high - mean:{form.lstrip('+')}}"
    return f"{mean:{form}}\n[{low:{form}}, {high:{form}}]"


def number(value: float, form: str = ".3f") -> str:
    """Returns a number as text, "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:{form}}"


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"


def _seeds(seeds: list[int]) -> str:
    """`seed 3`, `seeds 100-109` where none between is missing, else `seeds 1, 5, 6`."""
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]}-{seeds[-1]}"
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
