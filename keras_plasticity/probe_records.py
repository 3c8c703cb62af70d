"""Records of a `Monitor` as tables.

Pure functions on pandas DataFrames. Neither TensorFlow nor matplotlib is imported.
"""

from __future__ import annotations

import collections.abc
import os
import typing

import numpy as np
import pandas as pd

from keras_plasticity import results
from keras_plasticity.run_files import (
    ROWS_FILE,
    RUN_FILE,
    PathLike,
    paths_error,
    read_probes,
    read_run,
    run_directories,
)

RULES = ("last", "mean", "max")  # from layers to one value
_RUN = ["benchmark", "method", "seed", "run"]
_WHEN = ["task", "step", "step_in_task"]


def load(*paths: PathLike, probes: collections.abc.Sequence[str] | None = None) -> pd.DataFrame:
    """Reads what monitors recorded into one table.

    Example:
    ```python
    df = load("runs/anatomy", probes=["dead_fraction"])
    ```

    Args:
        *paths: as `results.load`. A directory that a `Monitor` wrote outside of
            `experiment.run` counts as a run, its method is the directory's name.
        probes: names of probes to keep. Default: all.

    Returns:
        One row per value: `benchmark`, `method`, `seed`, `run`, `task`, `step` (of the
        run), `step_in_task`, `probe`, `layer` and `value`, NaN where it was not finite;
        in the order of records, layers from the inputs to the outputs.

    Raises:
        ValueError: if a path leads to no run, no run has records, or none has a value of
            one of `probes`.
    """
    rows: list[tuple] = []
    known: set[str] = set()
    for directory in run_directories(*paths):
        run = _description(directory)
        for record in read_probes(directory / ROWS_FILE):
            when = [record[name] for name in _WHEN]
            known |= set(record["probes"])
            for probe, layers in record["probes"].items():
                if probes is None or probe in probes:
                    rows += [(*run, *when, probe, *value) for value in layers.items()]
    if not known:
        received = tuple(os.fspath(path) for path in paths)
        raise paths_error("runs with a `Monitor` among their callbacks", f"paths={received!r}")
    if not set(probes or ()) <= known:
        raise ValueError(
            f"Argument `probes` must name probes that were recorded, {sorted(known)}. "
            f"Received: probes={list(probes or ())!r}"
        )
    df = pd.DataFrame(rows, columns=[*_RUN, *_WHEN, "probe", "layer", "value"])
    return df.astype({"value": "float64"})


def over_layers(df: pd.DataFrame, layer: str = "last") -> pd.DataFrame:
    """Makes one value of those of all layers.

    Args:
        df: DataFrame from `load`.
        layer: `"last"`, the layer nearest to the outputs that the probe has a value for;
            `"mean"` or `"max"` over layers, NaN if one is; or the name of a layer.
            A value of the whole model is taken, by whichever rule, where a probe has one; for
            the name of a layer, where it has none of this layer.

    Returns:
        The table with one row per run, record and probe. Under `layer` stands the layer's
        name, or the rule.

    Raises:
        ValueError: if no probe has such a layer.
    """
    keys = [*_RUN, *_WHEN, "probe"]
    if layer not in RULES:
        named = df["layer"] == layer
        without = ~df["probe"].isin(df["probe"][named].unique())
        found = df[named | (without & (df["layer"] == "model"))]
        if not named.any():
            names = sorted(df["layer"].unique())
            raise ValueError(
                f"Argument `layer` must be one of {RULES} or a layer, {names}. "
                f"Received: layer={layer!r}"
            )
        return found.reset_index(drop=True)
    of_model = df["layer"] == "model"
    whole = of_model.groupby([df[key] for key in keys], sort=False).transform("any")
    groups = df[of_model | ~whole].groupby(keys, sort=False)
    chosen = groups.tail(1).reset_index(drop=True)
    if layer != "last":
        reduce: typing.Any = np.mean if layer == "mean" else np.max
        chosen["value"] = groups["value"].agg(lambda v: reduce(v.to_numpy())).to_numpy()
        chosen.loc[chosen["layer"] != "model", "layer"] = layer
    return chosen


def over_seeds(df: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Averages over seeds at every record.

    Records that one of a method's seeds lacks, or whose value is NaN there, are left out.

    Args:
        df: DataFrame from `over_layers`.
        confidence: coverage of the t intervals, a fraction in (0, 1).

    Returns:
        One row per benchmark, method, probe and record, with `mean`, `low` and `high` (NaN
        of one seed) and the number of `seeds`.
    """
    df = df.dropna(subset="value")
    columns = ["benchmark", "method", "probe", "layer"]
    rows = []
    for key, group in df.groupby(columns, sort=False):
        table = group.pivot_table(index=_WHEN, columns="run", values="value")
        table = table.reindex(columns=group["run"].unique()).dropna().sort_index()
        for when, values in zip(table.index, table.to_numpy(), strict=True):
            low, high = results.interval(values, confidence)
            rows.append((*key, *when, values.mean(), low, high, len(values)))
    return pd.DataFrame(rows, columns=[*columns, *_WHEN, "mean", "low", "high", "seeds"])


def _description(directory) -> list:
    """Benchmark, method, seed and path of a run."""
    if (directory / RUN_FILE).exists():
        found = read_run(directory / RUN_FILE)
        return [found[name] for name in _RUN]
    return ["", directory.resolve().name, 0, directory.as_posix()]
