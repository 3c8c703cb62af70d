"""Rows of finished runs as tables, and the statistics that compare methods.

Pure functions on pandas DataFrames; the statistics are SciPy's. A run directory
holds `metrics.jsonl`, one row per finished task, and `run.json`, what was run.
Neither TensorFlow nor matplotlib is imported.

Only whole runs are compared: `complete` keeps the finished ones, or the longest while
none is; every function below it starts from those, and `incomplete` lists the others.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import os
import typing

import numpy as np
import pandas as pd
import scipy.stats

from keras_plasticity.run_files import (
    ROWS_FILE,
    RUN_FILE,
    PathLike,
    paths_error,
    read_rows,
    read_run,
    run_directories,
)

ACCURACIES = ["first_presentation_accuracy", "online_accuracy", "train_accuracy", "test_accuracy"]
LOSSES = ["first_presentation_loss", "online_loss", "train_loss", "test_loss"]
SQUARED_ERRORS = [name.replace("loss", "squared_error") for name in LOSSES]  # of regressions
ROW_METRICS = [*ACCURACIES, *LOSSES, *SQUARED_ERRORS, "seconds"]
IQM_SEEDS = 10
_RUN_COLUMNS = ["benchmark", "method", "seed", "run"]
_COLUMNS = [*_RUN_COLUMNS, "uses_task_boundaries"]
_MEANS = ["first", "last", "area", "retention", "seconds"]
_WINDOWS_COLUMNS = [*_RUN_COLUMNS[:3], *_MEANS, "tasks", "uses_task_boundaries"]
_LAST_COLUMNS = ["seeds", "first", "last", "low", "high", "iqm"]
_GAP_COLUMNS = ["gap_to_fresh", "gap_low", "gap_high", "retention", "seconds"]
_SUMMARY_COLUMNS = [*_RUN_COLUMNS[:2], *_LAST_COLUMNS, *_GAP_COLUMNS, "uses_task_boundaries"]

Values: typing.TypeAlias = "collections.abc.Sequence[float] | np.ndarray | pd.Series"


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """Mean over seeds of method `a` minus method `b`, with its interval.

    In units of the metric; `low` and `high` are NaN below two seeds; `n` counts
    the seeds that both methods have, and `seeds` lists them, ascending.
    """

    mean: float
    low: float
    high: float
    n: int
    seeds: tuple[int, ...]


def load(*paths: PathLike) -> pd.DataFrame:
    """Reads the rows of all runs under the paths into one table.

    A last line that was cut off when a run was killed is left out. A run without
    a finished task has no rows.

    Example:
    ```python
    df = load("runs/quickstart")
    df = load("runs/**/layer_norm_l2", "runs/quickstart/plain/seed_100")
    ```

    Args:
        *paths: run directories, roots that are searched at any depth, or glob
            patterns (`**` stands for any depth).

    Returns:
        One row per run and task: `benchmark`, `method`, `seed`, `run` (the run's
        path), `uses_task_boundaries` and the columns of the rows (metrics as
        floats, NaN where a metric means nothing), sorted by benchmark, method,
        seed, run and task.

    Raises:
        ValueError: if a path leads to no run, no run has a row, a line other than
            a cut-off last one is broken, a task stands twice in a run, or
            `run.json` is absent or incomplete, or runs of one benchmark and seed had
            different streams.
    """
    rows: list[dict[str, typing.Any]] = []
    for directory in run_directories(*paths):
        description = read_run(directory / RUN_FILE)
        rows += [{**description, **row} for row in read_rows(directory / ROWS_FILE)]
    if not rows:
        received = tuple(os.fspath(path) for path in paths)
        raise paths_error("at least one run with a finished task", f"paths={received!r}")
    df = pd.DataFrame(rows)
    df = df[_COLUMNS + [name for name in df if name not in _COLUMNS]]
    streams = df.groupby(["benchmark", "seed"])["stream"].nunique()
    if (streams > 1).any():
        rule = "runs in which a benchmark and seed stand for one stream of tasks"
        raise paths_error(rule, f"different streams for {streams[streams > 1].index.tolist()}")
    df = df.drop(columns="stream")
    floats = {name: "float64" for name in ROW_METRICS if name in df}
    return df.astype(floats).sort_values([*_RUN_COLUMNS, "task"], ignore_index=True)


def default_metric(df: pd.DataFrame) -> str:
    """Returns `"online_accuracy"`, or `"online_squared_error"` where all runs are regressions.

    Args:
        df: DataFrame from `load`.
    """
    for metric in ("online_accuracy", "online_squared_error"):
        if metric in df and df[metric].notna().any():
            return metric
    return "online_accuracy"


def complete(df: pd.DataFrame) -> pd.DataFrame:
    """Keeps the rows of the runs that are finished.

    While no run of a benchmark is, those with as many tasks as its longest.
    """
    tasks, goal = _task_counts(df)
    return df[tasks == goal]


def incomplete(df: pd.DataFrame) -> pd.DataFrame:
    """Lists the runs that `complete` leaves out, with their `tasks` and the goal `of`."""
    tasks, goal = _task_counts(df)
    table = df[_RUN_COLUMNS].assign(tasks=tasks, of=goal)[tasks < goal]
    return table.drop_duplicates(ignore_index=True)


def windows(df: pd.DataFrame, metric: str = "online_accuracy", share: float = 0.1) -> pd.DataFrame:
    """Summarises each complete run by its first and its last tasks.

    A window of `max(1, round(share * tasks))` tasks is averaged at both ends.
    Tasks at which the metric is NaN are left out of a mean; a window without any
    value is NaN. Benchmarks that never have the metric are left out.

    `retention = last / first` rewards a method for learning slowly at first, so it
    is read together with `last` and the gap to fresh, as `summary` shows it.

    Args:
        df: DataFrame from `load`.
        metric: column to average.
        share: fraction of the tasks in each window, in (0, 1].

    Returns:
        One row per benchmark, method and seed: `first`, `last`, `area` (mean over
        all tasks), `retention`, `seconds` (sum over tasks), `tasks`,
        `uses_task_boundaries`.

    Raises:
        ValueError: if the metric is unknown or NaN everywhere, the share is outside
            (0, 1], or two runs have the same benchmark, method and seed.
    """
    rows = []
    for key, run in with_metric(complete(df), metric).groupby(_RUN_COLUMNS[:3]):
        run = run.sort_values("task")
        size = window_size(len(run), share)
        first, last = run[metric].iloc[:size].mean(), run[metric].iloc[-size:].mean()
        retention = last / first if first and higher_is_better(metric) else np.nan
        row = [*key, first, last, run[metric].mean(), retention, run["seconds"].sum(), len(run)]
        rows.append([*row, bool(run["uses_task_boundaries"].iloc[0])])
    return pd.DataFrame(rows, columns=_WINDOWS_COLUMNS)


def interval(values: Values, confidence: float = 0.95, method: str = "t") -> tuple[float, float]:
    """Confidence interval of the mean over seeds.

    With few seeds use `"t"`: it is exact for normal values at any n >= 2. With ten
    seeds or more and skewed values use `"bca"`. The percentile bootstrap is not
    offered: over three seeds its 95 % interval is the range of the three values, and
    that covers the centre of a symmetric distribution 1 - 2 / 2**3 = 75 % of the time.
    BCa too stays inside the range, so it is no remedy for having three seeds.

    Example:
    ```python
    interval([1.0, 2.0, 3.0])  # (-0.484, 4.484): 2 -+ 4.3027 * 1 / sqrt(3)
    ```

    Args:
        values: one value per seed.
        confidence: coverage, a fraction in (0, 1).
        method: `"t"` (Student) or `"bca"` (bias-corrected and accelerated
            bootstrap, `scipy.stats.bootstrap` with 9999 resamples and a fixed seed).

    Returns:
        `(low, high)`; NaNs below two values or where a value is NaN.

    Reference:
        Efron, "Better Bootstrap Confidence Intervals", 1987, JASA 82(397).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"Argument `confidence` must be in (0, 1). Received: {confidence=}")
    if method not in ("t", "bca"):
        raise ValueError(f"Argument `method` must be 't' or 'bca'. Received: method={method!r}")
    sample = np.asarray(values, dtype="float64")
    if sample.size < 2 or np.isnan(sample).any():
        return float("nan"), float("nan")
    if method == "t":
        half = scipy.stats.t.ppf(0.5 + confidence / 2, sample.size - 1) * scipy.stats.sem(sample)
        low, high = sample.mean() - half, sample.mean() + half
    elif np.allclose(sample, sample[0], rtol=1e-12, atol=1e-15):
        low = high = sample.mean()  # BCa divides by the spread.
    else:
        settings = {"confidence_level": confidence, "rng": np.random.default_rng(0)}
        fit = scipy.stats.bootstrap((sample,), np.mean, method="BCa", **settings)
        low, high = fit.confidence_interval
    return float(low), float(high)


def interquartile_mean(values: Values) -> float:
    """Mean of the middle half of the values: robust to a seed that failed."""
    return float(scipy.stats.trim_mean(np.asarray(values, dtype="float64"), 0.25))


def paired_difference(
    df: pd.DataFrame,
    a: str,
    b: str,
    metric: str = "online_accuracy",
    share: float = 0.1,
    window: str = "last",
    method: str = "t",
) -> PairedDifference:
    """Compares two methods on the seeds they share: mean of `a - b` within seeds.

    All methods of a benchmark see the same tasks at a seed. What a seed makes hard
    for both cancels in the difference, which therefore needs fewer seeds than two
    separate intervals.

    Args:
        df: DataFrame from `load`, of one benchmark.
        a: method.
        b: method that is subtracted.
        metric: column to compare.
        share: fraction of the tasks in a window, in (0, 1].
        window: `"first"`, `"last"` or `"area"` (all tasks).
        method: kind of interval, see `interval`.

    Raises:
        ValueError: if there are several benchmarks, an unknown window, or no seed
            for which both methods have a complete run.
    """
    if df["benchmark"].nunique() != 1:
        received = f"df with benchmarks {sorted(df['benchmark'].unique())}"
        raise ValueError(f"Argument `df` must hold one benchmark. Received: {received}")
    if window not in ("first", "last", "area"):
        raise ValueError(
            f"Argument `window` must be 'first', 'last' or 'area'. Received: window={window!r}"
        )
    return _paired(windows(df, metric, share), a, b, window, method)


def summary(
    df: pd.DataFrame,
    metric: str = "online_accuracy",
    share: float = 0.1,
    control: str = "fresh",
    method: str = "t",
) -> pd.DataFrame:
    """One row per benchmark and method, the best last window first.

    Complete runs alone count. For a loss or an error (by the end of its name) the
    lowest comes first and a negative gap means worse than the control.

    Args:
        df: DataFrame from `load`.
        metric: column to summarise.
        share: fraction of the tasks in a window, in (0, 1].
        control: method that starts from a fresh network at every task.
        method: kind of interval, see `interval`; errors are those of `windows` too.

    Returns:
        `benchmark`, `method`, `seeds` (number), `first` and `last` (means over
        seeds), `low` and `high` (interval of `last`), `iqm` (interquartile mean of
        `last`; NaN below ten seeds), `gap_to_fresh` with `gap_low` and `gap_high`
        (control minus method, paired by seed; NaN without a common seed),
        `retention` (mean over seeds), `seconds` (mean per run),
        `uses_task_boundaries`.
    """
    rows = []
    for benchmark, runs in windows(df, metric, share).groupby("benchmark"):
        for name, group in runs.groupby("method"):
            gap = PairedDifference(np.nan, np.nan, np.nan, 0, ())
            if not _common_seeds(runs, control, str(name)).empty:
                gap = _paired(runs, control, str(name), "last", method)
            mean = group[_MEANS].mean(skipna=False)
            low, high = interval(group["last"], method=method)
            iqm = interquartile_mean(group["last"]) if len(group) >= IQM_SEEDS else np.nan
            row = [benchmark, name, len(group), mean["first"], mean["last"], low, high, iqm]
            row += [gap.mean, gap.low, gap.high, mean["retention"], mean["seconds"]]
            rows.append([*row, bool(group["uses_task_boundaries"].any())])
    return pd.DataFrame(rows, columns=_SUMMARY_COLUMNS).sort_values(
        ["benchmark", "last"],
        ascending=[True, not higher_is_better(metric)],
        kind="stable",
        ignore_index=True,
    )


def higher_is_better(metric: str) -> bool:
    """Whether larger values of the metric are better: all but losses, errors and seconds."""
    return not metric.endswith(("loss", "error", "seconds"))


def window_size(tasks: int, share: float) -> int:
    """Number of tasks in a window of `share` of `tasks`, at least one."""
    if not 0 < share <= 1:
        raise ValueError(f"Argument `share` must be in (0, 1]. Received: share={share}")
    return max(1, round(share * tasks))


def with_metric(df: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Keeps the benchmarks that have the metric; checks that there is one."""
    if metric not in df or not pd.api.types.is_numeric_dtype(df[metric]):
        known = [name for name in ROW_METRICS if name in df]
        raise ValueError(
            f"Argument `metric` must be a numeric column of the rows, such as {known}. "
            f"Received: metric={metric!r}"
        )
    kept = df[df.groupby("benchmark")[metric].transform("count") > 0]
    if kept.empty:
        raise ValueError(
            "Argument `metric` must have a value in at least one complete run; it is null "
            f"in every row. Received: metric={metric!r}"
        )
    return kept


def _task_counts(df: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Per row: tasks of its run, and the tasks that make a run of its benchmark whole."""
    runs = df[_RUN_COLUMNS].drop_duplicates()
    twice = runs[runs.duplicated(_RUN_COLUMNS[:3], keep=False)]
    if not twice.empty:
        raise ValueError(
            "Argument `df` must hold one run per benchmark, method and seed. "
            f"Received: df with runs {twice['run'].tolist()}"
        )
    tasks = df.groupby("run")["task"].transform("nunique")
    longest = tasks.groupby(df["benchmark"]).transform("max")
    if "num_tasks" not in df:
        return tasks, longest
    planned = df["num_tasks"].fillna(longest)
    reached = (tasks == planned).groupby(df["benchmark"]).transform("any")
    return tasks, longest.where(~reached, planned).astype(int)


def _common_seeds(runs: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """Joins the windows of two methods of one benchmark by seed."""
    left, right = (runs[runs["method"] == name].set_index("seed") for name in (a, b))
    return left.join(right, how="inner", lsuffix="_a", rsuffix="_b").sort_index()


def _paired(runs: pd.DataFrame, a: str, b: str, window: str, method: str) -> PairedDifference:
    pairs = _common_seeds(runs, a, b)
    if pairs.empty:
        raise ValueError(
            "Arguments `a` and `b` must be methods with complete runs on common seeds; "
            f"there are runs of {sorted(runs['method'].unique())}. Received: a={a!r}, b={b!r}"
        )
    difference = (pairs[f"{window}_a"] - pairs[f"{window}_b"]).to_numpy()
    low, high = interval(difference, method=method)
    seeds = tuple(int(seed) for seed in pairs.index)
    return PairedDifference(float(difference.mean()), low, high, len(seeds), seeds)
