"""The report: what is printed, what is written, and what is left out."""

import importlib.util
import json
import pathlib

import pandas as pd
import pytest

from keras_plasticity import recovery, results
from keras_plasticity import report as report_module
from keras_plasticity.report import report

LAST = {"plain": 0.12, "layer_norm_l2": 0.53, "fresh": 0.54}


def write_run(root, method, seed, tasks=20, benchmark="quickstart", null=False):
    """Writes a run that falls from 0.6 to `LAST`, apart by 0.01 a seed."""
    directory = pathlib.Path(root) / benchmark / method / f"seed_{seed}"
    directory.mkdir(parents=True)
    run = {"benchmark": benchmark, "method": method, "seed": seed}
    run["uses_task_boundaries"] = method == "fresh"
    (directory / "run.json").write_text(json.dumps(run))
    with (directory / "metrics.jsonl").open("w") as file:
        for task in range(tasks):
            value = 0.6 if task < 10 else LAST[method] + 0.01 * (seed - 101)
            row = {"task": task, "name": "t", "step": task, "seconds": 3.0, "test_accuracy": None}
            file.write(json.dumps({**row, "online_accuracy": None if null else value}) + "\n")
    return directory


@pytest.fixture
def root(tmp_path):
    for method in LAST:
        for seed in (100, 101, 102):
            write_run(tmp_path, method, seed)
    return tmp_path / "quickstart"


def line_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(start)).split()


def test_report_prints_table_differences_and_notes(root, capsys):
    report(root, formats=())
    text = capsys.readouterr().out
    title = "quickstart: online_accuracy, 20 tasks, windows of 2 tasks, 95 % t intervals over seeds"
    assert title in text
    # 4.3027 * 0.01 / sqrt(3) = 0.0248; the gap is the same at every seed.
    assert " ".join(line_of(text, "plain")) == "plain 3 0.600 0.120 ± 0.025 +0.420 ± 0.000 0.20 1.0"
    assert line_of(text, "fresh*")[-3] == "control"
    assert "Gap: fresh minus method, paired by seed. Minutes: mean per run." in text
    assert "*: is told where a task begins." in text
    differences = text.split("Last window of layer_norm_l2 (the best on these seeds)")[1]
    assert " ".join(line_of(differences, "plain")) == "plain +0.410 ± 0.000 3"
    assert " ".join(line_of(differences, "fresh")) == "fresh -0.010 ± 0.000 3"
    assert "Incomplete" not in text and "Written" not in text


def test_piped_output_is_plain_and_at_most_100_wide(root, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    report(root, formats=())
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert 60 < max(map(len, text.splitlines())) <= 100


def test_report_returns_the_summary_and_writes_whole_files(root):
    summary = report(root)
    pd.testing.assert_frame_equal(summary, results.summary(results.load(root)))
    names = sorted(path.name for path in (root / "report").iterdir())
    figures = ["online_accuracy.png", "online_accuracy.svg"]
    figures += ["online_accuracy_last_window.png", "online_accuracy_last_window.svg"]
    assert names == [*figures, "runs.csv", "summary.csv"]
    read = pd.read_csv(root / "report" / "summary.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(read, summary, check_exact=True, check_dtype=False)
    runs = pd.read_csv(root / "report" / "runs.csv", float_precision="round_trip")
    assert len(runs) == 180
    pd.testing.assert_frame_equal(results.summary(runs), summary, check_exact=True)
    report(root)  # The directory of the first report is no run.
    assert len(pd.read_csv(root / "report" / "runs.csv")) == 180


def test_parquet_round_trip(root, tmp_path):
    pytest.importorskip("pyarrow", reason="Parquet is an extra")
    summary = report(root, out=tmp_path / "out", formats=["parquet"])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "runs.parquet",
        "summary.parquet",
    ]
    read = pd.read_parquet(tmp_path / "out" / "summary.parquet")
    pd.testing.assert_frame_equal(read, summary, check_exact=True)


def test_parquet_without_pyarrow_names_the_extra(root, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "keras-plasticity\[parquet\]"'):
        report(root, formats=("csv", "parquet"))
    assert not (root / "report").exists()


@pytest.mark.parametrize("formats", ["csv", ("csv", "pdf")])
def test_unknown_format_is_an_error(root, formats):
    with pytest.raises(ValueError, match="`formats` must be a sequence of .* Received: formats="):
        report(root, formats=formats)


def test_incomplete_runs_are_listed(root, capsys):
    write_run(root.parent, "plain", 103, tasks=4)
    write_run(root.parent, "plain", 104, tasks=0)
    summary = report(root, formats=("csv",))
    text = capsys.readouterr().out
    assert "Incomplete, not counted: 2" in text
    assert "plain/seed_103: 4 of 20 tasks" in text
    assert "plain/seed_104: no finished task" in text
    assert summary.set_index("method")["seeds"]["plain"] == 3
    assert len(pd.read_csv(root / "report" / "runs.csv")) == 184


def test_a_table_a_benchmark_and_a_line_where_the_metric_is_absent(root, tmp_path, capsys):
    write_run(tmp_path, "plain", 100, tasks=5, benchmark="pixels")
    write_run(tmp_path, "plain", 100, tasks=5, benchmark="regression", null=True)
    summary = report(tmp_path, formats=("png",))
    text = capsys.readouterr().out
    assert text.index("pixels: online_accuracy, 5 tasks, windows of 1 task,") < text.index(
        "quickstart: online_accuracy"
    )
    assert "No complete run of fresh: gaps are unknown." in text
    assert "regression: no complete run has online_accuracy." in text
    assert set(summary["benchmark"]) == {"pixels", "quickstart"}


def test_null_metric_is_an_error(root):
    with pytest.raises(ValueError, match="null in every row. Received: metric='test_accuracy'"):
        report(root, metric="test_accuracy")


def test_methods_without_a_common_seed_are_shown_without_difference(root, capsys):
    for path in (root / "plain").glob("*/run.json"):
        run = json.loads(path.read_text())
        path.write_text(json.dumps(run | {"seed": run["seed"] + 50}))
    report(root, formats=())
    differences = capsys.readouterr().out.split("Last window of")[1]
    assert line_of(differences, "plain") == ["plain", "-", "0"]


def test_ten_seeds_have_an_interquartile_mean_and_bca_shows_both_ends(tmp_path, capsys):
    for seed in range(100, 110):
        for method in ("plain", "fresh"):
            write_run(tmp_path, method, seed)
    summary = report(tmp_path, formats=("svg",), method="bca")
    text = capsys.readouterr().out
    assert "IQM" in text and "95 % BCa intervals" in text
    low, high = summary["low"][1], summary["high"][1]
    assert f"[{low:.3f}, {high:.3f}]" in text
    assert (
        "BCa interval over 10 seeds"
        in (tmp_path / "report" / "online_accuracy_last_window.svg").read_text()
    )


def test_narrow_output_drops_the_interquartile_mean_and_no_number(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report_module, "PIPE_WIDTH", 80)
    for seed in range(100, 110):
        for method in LAST:
            write_run(tmp_path, method, seed)
    report(tmp_path, formats=())
    text = capsys.readouterr().out
    assert "IQM" not in text and "…" not in text
    assert line_of(text, "layer_norm_l2")[:2] == ["layer_norm_l2", "10"]


def test_default_folder_is_below_the_first_path(root):
    assert report_module.default_folder(root) == root / "report"
    assert report_module.default_folder(f"{root}/**/seed_100") == root / "report"
    run = root / "plain" / "seed_100"
    assert report_module.default_folder(run / "metrics.jsonl") == run / "report"
    assert report_module.default_folder("*/seed_1") == pathlib.Path("report")


def test_one_run_alone(root, capsys):
    summary = report([root / "plain" / "seed_100"])
    assert "Last window of" not in capsys.readouterr().out
    assert summary["seeds"].tolist() == [1] and summary["low"].isna().all()
    assert (root / "plain" / "seed_100" / "report" / "summary.csv").exists()


def test_gap_adds_a_table_and_files(root, capsys):
    report(root, out=root.parent / "without")
    without = capsys.readouterr().out
    write_run(root.parent, "layer_norm_l2", 103)  # a seed that the controls lack
    summary = report(root, gap=("plain", "fresh"))
    text = capsys.readouterr().out
    title = "Share of the gap from plain to fresh that each method recovers"
    assert title in text and title not in without
    lines = text.split(title)[1]
    # (0.53 - 0.12) / (0.54 - 0.12) at the end and the same over the ten last of 20 tasks
    expected = "layer_norm_l2 3 0.98 ± 0.00 0.98 ± 0.00 +0.000 ± 0.000 +0.205 ± 0.000 1.0 1.00"
    assert " ".join(line_of(lines, "layer_norm_l2")) == expected
    assert [line_of(lines, name)[2:4] for name in ("fresh*", "plain")] == [["1", "1"], ["0", "0"]]
    order = [lines.index(name) for name in ("fresh* ", "layer_norm_l2 ", "plain ")]
    assert order == sorted(order)
    assert "(method - plain) / (fresh - plain) at each seed, averaged" in lines
    assert "Gap: +0.420 ± 0.000 at the end, +0.210 ± 0.000 overall, on seeds 100-102." in lines
    assert "not clear" not in lines and "*: is told where a task begins." in lines
    assert max(map(len, text.splitlines()[:-1])) <= 100  # the last line is of paths
    new = {path.name for path in (root / "report").iterdir()}
    old = {path.name for path in (root.parent / "without").iterdir()}
    assert new - old == {"recovery.csv", "recovery.png", "recovery.svg"} and old < new
    table = pd.read_csv(root / "report" / "recovery.csv", float_precision="round_trip")
    expected = recovery.gap_recovered(results.load(root), "plain", "fresh")
    pd.testing.assert_frame_equal(table, expected, check_exact=True, check_dtype=False)
    pd.testing.assert_frame_equal(summary, results.summary(results.load(root)))


def test_gap_that_is_not_clear_is_said_and_has_no_share(root, capsys):
    report(root, formats=(), gap=("fresh", "plain"))
    lines = capsys.readouterr().out.split("Share of the gap")[1]
    assert "The gap at the end is not clear: no share is given." in lines
    assert "The gap overall is not clear: no share is given." in lines
    assert "plain is better at each seed, and the t interval excludes 0" in lines
    assert line_of(lines, "layer_norm_l2")[2:4] == ["-", "-"]


def test_gap_of_one_seed_and_of_a_benchmark_without_it(root, tmp_path, capsys):
    write_run(tmp_path, "plain", 100, benchmark="pixels")
    one = [root / name / "seed_100" for name in LAST]
    report([*one, tmp_path / "pixels"], formats=(), gap=("plain", "fresh"))
    text = capsys.readouterr().out
    assert "No complete runs of plain and fresh on a common seed: no gap." in text
    assert "on seed 100." in text and "One seed: no intervals" in text
    lines = text.split("Share of the gap")[1]
    assert " ".join(line_of(lines, "layer_norm_l2")[1:5]) == "1 0.98 0.98 +0.000"


def test_gap_of_long_names_has_intervals_below_the_means(root, capsys, monkeypatch):
    monkeypatch.setattr(report_module, "PIPE_WIDTH", 80)
    report(root, formats=(), gap=("plain", "fresh"))
    lines = capsys.readouterr().out.split("Share of the gap")[1]
    assert max(map(len, lines.splitlines())) <= 80 and "…" not in lines
    assert line_of(lines, "layer_norm_l2")[1:4] == ["3", "0.98", "0.98"]


def test_gap_without_its_control_writes_nothing(root, capsys):
    with pytest.raises(ValueError, match="`high` must be .* Received: high='full_reset'"):
        report(root, gap=("plain", "full_reset"))
    assert not (root / "report").exists() and not capsys.readouterr().out
