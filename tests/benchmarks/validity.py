"""Ranks probes by how they agree with the loss of plasticity; prints a table of all of them.

Command: python tests/benchmarks/validity.py RUN_DIR [OUT_DIR]       (runs of gin/validity.gin)

A row per probe: Spearman's rank correlation, over runs, of its value with the behavioural gap
to a fresh network (`trainability_gap`), both at the end of the run. Of several layers the mean
is taken, and where a probe has a value of the whole model, that. This rule was fixed before the
runs; `validity.csv` has the last layer and the greatest value as well, without intervals.

The intervals hold 95 % of bootstrap resamples of whole methods: seeds of a method are alike and
no independent evidence. Runs differ in width, depth and learning rate, and some probes with
them: their values are compared as they are. "Expected" is the sign that the probe's `better`
stands for. Writes `validity.csv` and `validity.md` to OUT_DIR, default RUN_DIR/report.
"""

from __future__ import annotations

import os
import pathlib
import sys
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import scipy.stats  # noqa: E402

from keras_plasticity import probe_records  # noqa: E402

GAP = "trainability_gap"
RULE = "mean"  # from layers to one value
RESAMPLES = 2000
SIGN = {"lower": 1, "higher": -1, "none": 0}  # of the correlation with the gap
ACTIVATION = "relu"  # of the networks that are looked at alone
TOO_FEW = 5  # runs or methods: no correlation


def at_end(df: pd.DataFrame, rule: str = RULE) -> pd.DataFrame:
    """Returns a row per finished run with a column per probe, from its last record.

    Args:
        df: DataFrame from `probe_records.load`.
        rule: from layers to one value, as `probe_records.over_layers`.

    Raises:
        ValueError: no run ends with a gap.
    """
    df = df[df["step"] == df.groupby("run")["step"].transform("max")]
    df = df[df["step_in_task"] > 0]  # of runs that have only begun
    df = df[~df["probe"].str.startswith("reference/")]  # the same on other examples
    values = probe_records.over_layers(df, rule)
    table = values.pivot(index=["method", "seed"], columns="probe", values="value").reset_index()
    if GAP not in table:
        raise ValueError(f"No run ends with a record of {GAP}. Received: {sorted(table)}")
    return table.dropna(subset=GAP)


def correlation(
    values: np.ndarray, gaps: np.ndarray, counts: np.ndarray | None = None
) -> np.ndarray:
    """Spearman's rank correlation; NaN where one of both does not vary.

    Args:
        values: float, shape `(runs,)`.
        gaps: float, shape `(runs,)`.
        counts: int, shape `(samples, runs)`, how often each run is in a sample.
    """
    counts = np.ones((1, len(values)), int) if counts is None else counts
    ranks = np.stack([_ranks(values, counts), _ranks(gaps, counts)])
    ranks -= (counts * ranks).sum(-1, keepdims=True) / counts.sum(-1, keepdims=True)
    norms = np.sqrt((counts * ranks**2).sum(-1)).prod(0)
    products = (counts * ranks.prod(0)).sum(-1)
    return np.divide(products, norms, out=np.full(len(counts), np.nan), where=norms > 1e-9)


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Ranks in samples that hold each run `counts` times, ties in the middle."""
    levels, level = np.unique(values, return_inverse=True)
    at_level = counts @ np.eye(len(levels))[level]
    return (np.cumsum(at_level, -1) - at_level / 2)[:, level]


def interval(
    values: np.ndarray, gaps: np.ndarray, methods: np.ndarray, seed: int = 0
) -> tuple[float, float]:
    """Returns the ends of the 95 % percentile interval; methods are drawn, not runs.

    NaN with less than five methods, or where a tenth of the draws have no correlation.
    """
    names, member = np.unique(methods, return_inverse=True)
    if len(names) < TOO_FEW:
        return float("nan"), float("nan")

    def statistic(draws: np.ndarray, axis: int) -> np.ndarray:
        draws = np.atleast_2d(draws)
        drawn = (draws[..., None] == np.arange(len(names))).sum(1)
        return correlation(values, gaps, drawn[:, member])

    with warnings.catch_warnings():  # draws of constant values
        warnings.simplefilter("ignore")
        found = scipy.stats.bootstrap(
            (np.arange(len(names)),),
            statistic,
            vectorized=True,
            method="percentile",
            n_resamples=RESAMPLES,
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    if np.isnan(found).mean() > 0.1:
        return float("nan"), float("nan")
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)


def agreement(
    table: pd.DataFrame, descriptions: dict[str, dict], intervals: bool = True
) -> pd.DataFrame:
    """Returns a row per probe, the one that agrees most first.

    Args:
        table: DataFrame from `at_end`.
        descriptions: what each probe says of itself, by name.
        intervals: whether to draw them.
    """
    rows = []
    for name, described in descriptions.items():
        if name == GAP:
            continue
        have = table[np.isfinite(table[name])] if name in table else table[:0]
        values, gaps = (have[c].to_numpy() if c in have else np.zeros(0) for c in (name, GAP))
        methods = have["method"].to_numpy()
        row = {"probe": name, "runs": len(have), "methods": have["method"].nunique()}
        row |= {"spearman": np.nan, "low": np.nan, "high": np.nan}
        if len(have) >= TOO_FEW:
            row["spearman"] = float(correlation(values, gaps)[0])
            if intervals:
                row["low"], row["high"] = interval(values, gaps, methods)
        row["expected"] = SIGN[described["better"]]
        row["agrees"] = verdict(row)
        rows.append(row)
    df = pd.DataFrame(rows)
    order = df["spearman"].abs().sort_values(ascending=False, kind="stable").index
    return df.loc[order].reset_index(drop=True)


def verdict(row: dict) -> str:
    """Returns in a word whether the interval excludes 0, and on the side that was expected."""
    if np.isnan(row["spearman"]):
        return "no value" if not row["runs"] else "constant"
    if np.isnan(row["low"]) or row["low"] <= 0 <= row["high"]:
        return "unclear"
    side = 1 if row["low"] > 0 else -1
    if not row["expected"]:
        return "clear"
    return "yes" if side == row["expected"] else "OPPOSITE"


def activation(run: str) -> str:
    """Returns the activation that a run's `operative_config.gin` names."""
    text = (pathlib.Path(run) / "operative_config.gin").read_text()
    (line,) = [x for x in text.splitlines() if x.startswith("activation = ")]
    return line.split("'")[1]


def markdown(whole: pd.DataFrame, alone: pd.DataFrame) -> str:
    """Returns the table of all networks, with those of one activation beside it."""
    both = whole.merge(alone, on="probe", suffixes=("", "_alone"))
    lines = [
        "| Probe | Expected | Spearman | 95 % | Runs | As expected | ReLU alone | 95 % | Runs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in both.to_dict("records"):
        cells = [f"`{row['probe']}`", {1: "+", -1: "-", 0: ""}[row["expected"]]]
        cells += [_number(row["spearman"]), _range(row["low"], row["high"]), str(row["runs"])]
        cells += [row["agrees"], _number(row["spearman_alone"])]
        cells += [_range(row["low_alone"], row["high_alone"]), str(row["runs_alone"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def gaps_by_method(table: pd.DataFrame) -> str:
    """Returns a markdown table of the gap of each method, the largest first."""
    groups = table.groupby("method")[GAP].agg(["mean", "min", "max", "count"])
    lines = ["| Method | Gap, mean | Least | Greatest | Seeds |", "| --- " * 5 + "|"]
    for name, row in groups.sort_values("mean", ascending=False).iterrows():
        ends = " | ".join(f"{row[c]:.3f}" for c in ("mean", "min", "max"))
        lines.append(f"| {name} | {ends} | {row['count']:.0f} |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:+.2f}"


def _range(low: float, high: float) -> str:
    return "-" if np.isnan(low) else f"{low:+.2f} to {high:+.2f}"


def main(run_dir: str, out: str | None = None) -> None:
    """Prints the tables and writes them."""
    from keras_plasticity import probes

    descriptions = {d["name"]: d for d in map(probes.describe, probes.ALL)}
    df = probe_records.load(run_dir)
    runs = df[["method", "seed", "run"]].drop_duplicates()
    activations = runs.assign(activation=runs["run"].map(activation))
    tables, parts = {}, []
    for rule in (RULE, *(r for r in probe_records.RULES if r != RULE)):
        table = at_end(df, rule).merge(activations, on=["method", "seed"])
        alone = table[table["activation"] == ACTIVATION]
        for name, among in (("all", table), (ACTIVATION, alone)):
            tables[rule, name] = agreement(among, descriptions, rule == RULE)
            parts.append(tables[rule, name].assign(layers=rule, networks=name))
    table = at_end(df)
    text = f"{len(table)} runs of {table['method'].nunique()} methods. Layers: {RULE}.\n\n"
    text += markdown(tables[RULE, "all"], tables[RULE, ACTIVATION])
    text += "\n" + gaps_by_method(table)
    folder = pathlib.Path(out or pathlib.Path(run_dir) / "report")
    folder.mkdir(parents=True, exist_ok=True)
    pd.concat(parts).to_csv(folder / "validity.csv", index=False)
    (folder / "validity.md").write_text(text)
    table.to_csv(folder / "validity_runs.csv", index=False)
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
