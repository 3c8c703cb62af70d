"""The report on what monitors recorded: a table in the terminal, a figure and rows in files."""

from __future__ import annotations

import collections.abc
import functools
import os
import pathlib

import pandas as pd

from keras_plasticity import probe_plots, probe_records, results
from keras_plasticity import report as of_runs


def report(
    paths: results.PathLike | collections.abc.Sequence[results.PathLike],
    probes: collections.abc.Sequence[str] = ("dead_fraction", "linearised_fraction"),
    out: results.PathLike | None = None,
    formats: collections.abc.Sequence[str] = ("csv", "png", "svg"),
    layer: str = "last",
) -> pd.DataFrame:
    """Prints probes at the first and the last record, and draws them over training.

    Example:
    ```python
    series = report("runs/anatomy", ["gradient_dead_fraction", "linearised_fraction"])
    ```

    Args:
        paths: a run directory, a root above several, a glob pattern, or a sequence
            of these; also directories that a `Monitor` wrote beside `fit`.
        probes: names of probes, as in the records: `"dead_fraction"`, or
            `"reference/dead_fraction"` for that on the examples that stay the same.
        out: directory for the files; None means `report` in the first path.
        formats: any of `"csv"` and `"parquet"` (`probes`, the means that are drawn) and of
            `"png"` and `"svg"` (`probes`).
        layer: as `probe_records.over_layers`.

    Returns:
        The table of `probe_records.over_seeds`.

    Raises:
        ValueError: if the paths lead to no records, or an argument is not allowed.
        ImportError: if `"parquet"` is asked for and pyarrow is not installed.
    """
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    of_runs.check_formats(formats)
    df = probe_records.load(*paths, probes=probes)
    df["probe"] = pd.Categorical(df["probe"], list(dict.fromkeys(probes)))
    df = df.sort_values("probe", kind="stable").astype({"probe": str})  # as they were asked for
    series = probe_records.over_seeds(probe_records.over_layers(df, layer))
    console = of_runs.make_console()
    for (benchmark, probe, where), part in series.groupby(
        ["benchmark", "probe", "layer"], sort=False
    ):
        table = of_runs.make_table(["Seeds", "First", "Last", "Least", "Greatest"])
        for method, line in part.groupby("method"):
            line = line.sort_values(["task", "step"])
            cells = [str(line["seeds"].max())]
            for row in (line.iloc[0], line.iloc[-1]):
                cells.append(of_runs.with_interval(row["mean"], row["low"], row["high"], console))
            cells += [of_runs.number(line["mean"].min()), of_runs.number(line["mean"].max())]
            table.add_row(str(method) or "(unnamed)", *cells)
        console.print(f"{benchmark or '(unnamed)'}: {probe}, {where}")
        console.print(table, "", sep="\n")
    console.print("Of the mean over seeds; 95 % t intervals.\n")
    folder = pathlib.Path(out) if out is not None else of_runs.default_folder(paths[0])
    figures = {"probes": functools.partial(probe_plots.over_training, df, layer)}
    written = of_runs.write_files(folder, {"probes": series}, figures, formats)
    if written:
        console.print(f"Written to {folder.as_posix()}: {', '.join(written)}", soft_wrap=True)
    return series
