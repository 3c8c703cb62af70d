"""Tables of runs and their statistics, against numbers worked by hand."""

import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from keras_plasticity import results

# Student's 0.975 quantile, two degrees of freedom: 4.3026527...
T_TWO_DEGREES = 0.95 / math.sqrt(2 * 0.975 * 0.025)


def write_run(root, method, seed, values, metric="online_accuracy", benchmark="quickstart"):
    """Writes a run whose metric takes `values`, one per task; each task takes 2 s."""
    directory = pathlib.Path(root) / method / f"seed_{seed}"
    directory.mkdir(parents=True)
    run = {"benchmark": benchmark, "method": method, "seed": seed, "versions": {}}
    run["uses_task_boundaries"] = method == "fresh"
    (directory / "run.json").write_text(json.dumps(run))
    rows = [
        {"task": t, "name": f"task {t}", "step": 10 * t, "test_accuracy": None, "seconds": 2.0}
        | {metric: value}
        for t, value in enumerate(values)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / "metrics.jsonl").write_text(text)
    return directory


@pytest.fixture
def root(tmp_path):
    """Two methods, three seeds, twenty tasks: windows of two tasks."""
    for seed, last in ((100, 0.1), (101, 0.2), (102, 0.3)):
        write_run(tmp_path, "plain", seed, [0.3, 0.5] + [0.35] * 16 + [last, last])
        write_run(tmp_path, "fresh", seed, [0.5] * 18 + [last + 0.1 * (seed - 99)] * 2)
    return tmp_path


def test_load_reads_rows_in_order_with_nulls_as_nan(root):
    df = results.load(root)
    assert len(df) == 2 * 3 * 20
    assert df.columns[:5].tolist() == ["benchmark", "method", "seed", "run", "uses_task_boundaries"]
    assert df["method"].iloc[0] == "fresh" and df["task"].iloc[:20].tolist() == list(range(20))
    assert df["test_accuracy"].dtype == "float64" and df["test_accuracy"].isna().all()
    assert df.groupby("method")["uses_task_boundaries"].all().to_dict() == {
        "fresh": True,
        "plain": False,
    }


def test_load_takes_run_root_and_glob_and_reads_each_run_once(root):
    run = root / "plain" / "seed_100"
    assert len(results.load(run)) == 20
    assert len(results.load(f"{root}/**/seed_101")) == 40
    assert len(results.load(run, run / "metrics.jsonl", root)) == 120


@pytest.mark.parametrize("name", ["absent", "*.none"])
def test_load_names_the_argument_where_there_is_nothing(tmp_path, name):
    with pytest.raises(ValueError, match="`paths` must lead to.* Received: paths="):
        results.load(tmp_path / name)
    with pytest.raises(ValueError, match="`paths` must lead to"):
        results.load()


def test_cut_off_last_line_is_left_out(root):
    path = root / "plain" / "seed_100" / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert results.load(path)["task"].tolist() == list(range(19))


def test_broken_or_repeated_line_is_an_error_with_its_number(root):
    path = root / "plain" / "seed_100" / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace('{"task": 7', '{"task" 7'))
    with pytest.raises(ValueError, match="line 8 of .*metrics.jsonl"):
        results.load(root)
    path.write_text(whole.replace('{"task": 7,', '{"task": 6,'))
    with pytest.raises(ValueError, match="task 6 again in line 8"):
        results.load(root)


def test_run_json_must_name_the_run(root):
    path = root / "plain" / "seed_100" / "run.json"
    path.write_text('{"method": "plain"}')
    with pytest.raises(ValueError, match="run.json has the keys .* Received: .*benchmark"):
        results.load(root)
    path.unlink()
    with pytest.raises(ValueError, match="FileNotFoundError"):
        results.load(root)


def test_windows_are_first_and_last_tenth(root):
    table = results.windows(results.load(root / "plain"))
    assert table["first"].tolist() == pytest.approx([0.4] * 3)
    assert table["last"].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert table["retention"].tolist() == pytest.approx([0.25, 0.5, 0.75])
    assert table["area"].iloc[0] == pytest.approx((0.8 + 16 * 0.35 + 0.2) / 20)
    assert table["seconds"].tolist() == [40.0] * 3 and table["tasks"].tolist() == [20] * 3


def test_window_has_at_least_one_task(tmp_path):
    df = results.load(write_run(tmp_path, "plain", 0, [0.1, 0.2, 0.4]))
    row = results.windows(df).iloc[0]
    assert (row["first"], row["last"]) == (0.1, 0.4)
    assert results.windows(df, share=1)["last"].iloc[0] == pytest.approx(0.7 / 3)
    with pytest.raises(ValueError, match=r"`share` must be in \(0, 1\]. Received: share=0"):
        results.windows(df, share=0)


def test_a_null_in_a_window_is_left_out_and_a_window_of_nulls_is_nan(tmp_path):
    df = results.load(write_run(tmp_path, "plain", 0, [0.1, None] + [None] * 16 + [0.4, 0.6]))
    row = results.windows(df).iloc[0]
    assert (row["first"], row["last"]) == (0.1, 0.5)
    df = results.load(write_run(tmp_path, "l2", 0, [0.1] * 18 + [None] * 2))
    assert results.windows(df)["last"].isna().all() and results.summary(df)["last"].isna().all()


def test_null_or_unknown_metric_is_an_error(root):
    df = results.load(root)
    with pytest.raises(ValueError, match="null in every row. Received: metric='test_accuracy'"):
        results.windows(df, "test_accuracy")
    with pytest.raises(ValueError, match="numeric column .*'online_accuracy'.*metric='accuracy'"):
        results.windows(df, "accuracy")


def test_unfinished_run_is_listed_and_not_counted(root):
    path = root / "plain" / "seed_102" / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:7]))
    df = results.load(root)
    listed = results.incomplete(df)
    assert listed[["method", "seed", "tasks", "of"]].values.tolist() == [["plain", 102, 7, 20]]
    assert results.complete(df)["run"].nunique() == 5
    counts = results.summary(df).set_index("method")["seeds"]
    assert counts.to_dict() == {"fresh": 3, "plain": 2}


def test_two_runs_of_one_seed_are_an_error(root, tmp_path):
    write_run(tmp_path / "again", "plain", 100, [0.1] * 20)
    with pytest.raises(ValueError, match="one run per benchmark, method and seed"):
        results.windows(results.load(root))


def test_t_interval_by_hand():
    half = T_TWO_DEGREES * 1.0 / math.sqrt(3)  # the standard deviation of 1, 2, 3 is 1
    assert results.interval([1.0, 2.0, 3.0]) == pytest.approx((2 - half, 2 + half), abs=1e-12)
    oracle = scipy.stats.ttest_1samp([0.3, 0.1, 0.5, 0.2], 0).confidence_interval(0.9)
    assert results.interval([0.3, 0.1, 0.5, 0.2], 0.9) == pytest.approx(tuple(oracle), abs=1e-12)


def test_t_interval_covers_what_it_says_over_three_seeds():
    samples = np.random.default_rng(0).normal(size=(4000, 3))
    bounds = np.array([results.interval(sample) for sample in samples])
    covered = ((bounds[:, 0] < 0) & (bounds[:, 1] > 0)).mean()
    in_range = ((samples.min(1) < 0) & (samples.max(1) > 0)).mean()
    assert covered == pytest.approx(0.95, abs=0.012)
    assert in_range == pytest.approx(0.75, abs=0.025)


def test_bca_interval_is_scipys_and_repeatable():
    values = np.random.default_rng(1).exponential(size=12)
    low, high = results.interval(values, method="bca")
    assert (low, high) == results.interval(values, method="bca")
    oracle = scipy.stats.bootstrap((values,), np.mean, rng=np.random.default_rng(5))
    assert (low, high) == pytest.approx(tuple(oracle.confidence_interval), abs=0.06)
    assert high - values.mean() > values.mean() - low  # skewed to the right


@pytest.mark.parametrize("method", ["t", "bca"])
def test_interval_of_equal_single_and_missing_values(method):
    assert results.interval([0.5, 0.5, 0.5], method=method) == (0.5, 0.5)
    nearly = [0.1 + 0.2, 0.3, 0.3]
    assert results.interval(nearly, method=method) == pytest.approx((0.3, 0.3))
    assert np.isnan(results.interval([0.5], method=method)).all()
    assert np.isnan(results.interval([], method=method)).all()
    assert np.isnan(results.interval([0.5, np.nan, 0.4], method=method)).all()


def test_interval_checks_its_arguments():
    with pytest.raises(ValueError, match="`method` must be .* Received: method='percentile'"):
        results.interval([1, 2, 3], method="percentile")
    with pytest.raises(ValueError, match="`confidence` must be .* Received: confidence=95"):
        results.interval([1, 2, 3], confidence=95)


def test_interquartile_mean_drops_a_quarter_at_each_end():
    assert results.interquartile_mean([100.0, 1.0, 2.0, 3.0, 4.0, -50.0, 5.0, 6.0]) == 3.5


def test_paired_difference_by_hand_and_in_any_order_of_rows(root):
    df = results.load(root)
    pair = results.paired_difference(df, "fresh", "plain")
    half = T_TWO_DEGREES * 0.1 / math.sqrt(3)  # differences 0.1, 0.2, 0.3
    assert (pair.mean, pair.low, pair.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert (pair.n, pair.seeds) == (3, (100, 101, 102))
    assert results.paired_difference(df.sample(frac=1, random_state=0), "fresh", "plain") == pair
    back = results.paired_difference(df, "plain", "fresh")
    assert (back.mean, back.low) == pytest.approx((-pair.mean, -pair.high))
    first = results.paired_difference(df, "fresh", "plain", window="first")
    assert (first.mean, first.low, first.high) == pytest.approx((0.1, 0.1, 0.1))


def test_paired_difference_uses_common_seeds_alone(root):
    write_run(root, "l2", 101, [0.1] * 20)
    write_run(root, "l2", 999, [0.9] * 20)
    pair = results.paired_difference(results.load(root), "plain", "l2")
    assert pair.mean == pytest.approx(0.1) and pair.seeds == (101,) and math.isnan(pair.low)
    write_run(root, "other", 7, [0.1] * 20)
    with pytest.raises(ValueError, match="common seeds; .*'other'.* Received: a='plain', b='o"):
        results.paired_difference(results.load(root), "plain", "other")


def test_paired_difference_checks_its_arguments(root, tmp_path):
    df = results.load(root)
    with pytest.raises(ValueError, match="`window` must be .* Received: window='retention'"):
        results.paired_difference(df, "plain", "fresh", window="retention")
    write_run(tmp_path, "l2", 1, [0.1] * 20, benchmark="pixels")
    with pytest.raises(ValueError, match="one benchmark. Received: df with .*'pixels', 'quick"):
        results.paired_difference(results.load(root), "plain", "fresh")


def test_summary_by_hand(root):
    table = results.summary(results.load(root))
    assert table["method"].tolist() == ["fresh", "plain"]  # the best first
    fresh, plain = table.to_dict("records")
    half = T_TWO_DEGREES * 0.1 / math.sqrt(3)
    assert plain["seeds"] == 3 and plain["first"] == pytest.approx(0.4)
    assert (plain["last"], plain["low"], plain["high"]) == pytest.approx(
        (0.2, 0.2 - half, 0.2 + half)
    )
    gap = plain["gap_to_fresh"], plain["gap_low"], plain["gap_high"]
    assert gap == pytest.approx((0.2, 0.2 - half, 0.2 + half))  # positive: below the control
    assert plain["retention"] == pytest.approx(0.5) and plain["seconds"] == 40.0
    assert math.isnan(plain["iqm"]) and fresh["gap_to_fresh"] == 0.0
    assert fresh["uses_task_boundaries"] and not plain["uses_task_boundaries"]


def test_summary_without_control_has_no_gap(root):
    table = results.summary(results.load(root / "plain"))
    assert table[["gap_to_fresh", "gap_low", "gap_high"]].isna().all(axis=None)
    assert table["last"].tolist() == pytest.approx([0.2])


def test_summary_has_interquartile_mean_from_ten_seeds_on(tmp_path):
    for seed in range(10):
        write_run(tmp_path, "plain", seed, [seed / 10] * 10)
    table = results.summary(results.load(tmp_path))
    assert table["iqm"].tolist() == pytest.approx([0.45])


def test_summary_of_a_loss_has_the_lowest_first_and_one_block_a_benchmark(tmp_path):
    for benchmark in ("b", "a"):
        for method, loss in (("plain", 2.0), ("fresh", 1.0)):
            run = tmp_path / benchmark
            write_run(run, method, 0, [loss] * 10, metric="online_loss", benchmark=benchmark)
    table = results.summary(results.load(tmp_path), "online_loss")
    assert table["benchmark"].tolist() == ["a", "a", "b", "b"]
    assert table["method"].tolist() == ["fresh", "plain"] * 2
    assert table["gap_to_fresh"].tolist() == [0.0, -1.0] * 2


def test_benchmark_without_the_metric_is_left_out(root, tmp_path):
    write_run(tmp_path, "l2", 1, [0.1] * 20, metric="online_loss", benchmark="regression")
    assert set(results.summary(results.load(root))["benchmark"]) == {"quickstart"}


def test_import_needs_neither_tensorflow_nor_matplotlib():
    code = (
        "import sys; import keras_plasticity.results, keras_plasticity.plots; "
        "print([m for m in ('tensorflow', 'keras', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
