"""Records of monitors: the table, the figure and the option of the command line."""

import json

import numpy as np
import pandas as pd
import pytest

from keras_plasticity import probe_plots, probe_records, probe_report, results, train

STEPS = (0, 10, 20, 40)


def value(method, seed, task, step):
    return round(0.1 * ("norm" in method) + 0.01 * seed + 0.2 * task + step / 1000, 6)


def write(root, methods=("relu", "relu_norm", "tanh", "tanh_norm"), seeds=(0, 1, 2), tasks=2):
    for method in methods:
        for seed in seeds:
            folder = root / method / f"seed_{seed}"
            folder.mkdir(parents=True)
            run = {"benchmark": "made", "method": method, "seed": seed, "num_tasks": tasks}
            run |= {"uses_task_boundaries": False, "stream": "s"}
            (folder / "run.json").write_text(json.dumps(run))
            lines = []
            for task in range(tasks):
                for step in STEPS:
                    at = value(method, seed, task, step)
                    probes = {"dead_fraction": {"dense_0": 0.5, "dense_1": at}}
                    probes["weight_norm"] = {"dense_0": 1.0, "dense_1": at, "model": 7.0}
                    row = {"kind": "probe", "task": task, "step": 40 * task + max(step, 1)}
                    lines.append(json.dumps(row | {"step_in_task": step, "probes": probes}))
                row = {"task": task, "step": 40 * task + 40, "online_accuracy": 0.5}
                lines.append(json.dumps(row))
            (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return root


def test_records_are_one_table(tmp_path):
    df = probe_records.load(write(tmp_path))
    assert len(df) == 4 * 3 * 2 * len(STEPS) * 5  # 2 layers of one probe and 3 of the other
    row = df[(df["method"] == "relu_norm") & (df["seed"] == 2) & (df["layer"] == "dense_1")]
    row = row[(row["task"] == 1) & (row["step_in_task"] == 20) & (row["probe"] == "dead_fraction")]
    assert row["value"].tolist() == [0.34] and row["step"].tolist() == [60]
    assert set(probe_records.load(tmp_path, probes=["dead_fraction"])["probe"]) == {"dead_fraction"}


def test_layers_to_one_value_by_hand():
    rows = [("a", 0.25), ("b", 0.75)]
    df = pd.DataFrame(rows, columns=["layer", "value"]).assign(probe="p")
    whole = pd.DataFrame([("a", 1.0), ("model", 9.0)], columns=["layer", "value"])
    df = pd.concat([df, whole.assign(probe="q")], ignore_index=True)
    run = {"benchmark": "", "method": "m", "seed": 0, "run": "r", "task": 0}
    df = df.assign(**run, step=1, step_in_task=0)
    for rule, expected in (("last", 0.75), ("mean", 0.5), ("max", 0.75)):
        found = probe_records.over_layers(df, rule)
        assert found["value"].tolist() == [expected, 9.0]
        assert found["layer"].tolist() == ["b" if rule == "last" else rule, "model"]
    assert probe_records.over_layers(df, "a")["value"].tolist() == [0.25, 1.0]
    with pytest.raises(ValueError, match="Received: layer='c'"):
        probe_records.over_layers(df, "c")


def test_mean_and_interval_over_seeds(tmp_path):
    df = probe_records.load(write(tmp_path), probes=["dead_fraction"])
    table = probe_records.over_seeds(probe_records.over_layers(df))
    row = table[(table["method"] == "tanh") & (table["task"] == 1) & (table["step_in_task"] == 10)]
    values = [value("tanh", seed, 1, 10) for seed in (0, 1, 2)]
    assert row["mean"].item() == pytest.approx(np.mean(values))
    assert (row["low"].item(), row["high"].item()) == pytest.approx(results.interval(values))
    assert row["seeds"].item() == 3


def test_records_that_a_seed_lacks_are_left_out(tmp_path):
    file = write(tmp_path) / "relu/seed_1/metrics.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[:2]) + "\n")
    df = probe_records.load(tmp_path, probes=["dead_fraction"])
    table = probe_records.over_seeds(probe_records.over_layers(df))
    assert table[table["method"] == "relu"]["step_in_task"].tolist() == [0, 10]
    assert len(table[table["method"] == "tanh"]) == 8


def test_lines_of_the_figure(tmp_path):
    df = probe_records.load(write(tmp_path), probes=["dead_fraction"])
    figure = probe_plots.over_training(df)
    upper, lower = figure.axes  # a row per pair of methods
    assert [upper.get_ylabel(), lower.get_ylabel()] == ["relu", "tanh"]
    lines = {line.get_label(): line for line in upper.lines if line.get_label()[0] != "_"}
    assert set(lines) == {"norm", "without norm"}
    x, y = lines["norm"].get_data()
    expected = [value("relu_norm", 1, task, step) for task in (0, 1) for step in STEPS]
    assert y == pytest.approx(expected)
    within = np.log1p(np.array(STEPS) / 10) / np.log1p(4)
    assert x == pytest.approx([*within, *(1 + within)])
    switches = [line for line in upper.lines if np.ptp(line.get_xdata()) == 0]
    assert [line.get_xdata()[0] for line in switches] == [1]
    assert "3 seeds" in figure.get_supxlabel()


def test_linear_scale_with_many_tasks(tmp_path):
    df = probe_records.load(write(tmp_path, ("relu",), (0,), 12), probes=["dead_fraction"])
    figure = probe_plots.over_training(df)
    (axis,) = figure.axes
    x, _ = axis.lines[0].get_data()
    assert list(x[:5]) == [1, 10, 20, 40, 41]
    assert "no interval" in figure.get_supxlabel()


@pytest.mark.parametrize(
    ("methods", "ending"),
    [
        (["gelu", "gelu_ln", "relu", "relu_ln"], "ln"),
        (["leaky_relu", "leaky_relu_layer_norm", "relu", "relu_layer_norm"], "layer_norm"),
        (["layer_norm", "layer_norm_l2", "plain"], None),
        (["fresh", "l2", "layer_norm", "layer_norm_l2", "plain"], None),
        (["only"], None),
        ([""], None),
    ],
)
def test_pairs_of_methods(methods, ending):
    assert probe_plots._ending(methods) == ending


def test_command(tmp_path, capsys):
    root = write(tmp_path / "runs")
    arguments = ["report", str(root), "--probes", "weight_norm", "dead_fraction"]
    assert train.main([*arguments, "--format", "csv", "png"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("weight_norm, model") < printed.index("dead_fraction, dense_1")
    row = next(
        line for line in printed.splitlines() if line.startswith("relu_norm") and "7" not in line
    )
    assert row.split()[1:] == ["3", "0.110", "±", "0.025", "0.350", "±", "0.025", "0.110", "0.350"]
    table = pd.read_csv(root / "report/probes.csv")
    assert set(table["probe"]) == {"weight_norm", "dead_fraction"}
    assert (root / "report/probes.png").stat().st_size > 10_000
    assert train.main(["report", str(root), "--probes", "ded_fraction"]) == train.USAGE
    assert "dead_fraction" in capsys.readouterr().err


def test_directory_of_a_monitor_without_a_run(tmp_path):
    folder = write(tmp_path, ("relu",), (0,)) / "relu/seed_0"
    (folder / "run.json").unlink()
    table = probe_report.report(folder, ["dead_fraction"], formats=["png"])
    assert set(table["method"]) == {"seed_0"}
    assert sorted(path.name for path in (folder / "report").iterdir()) == ["probes.png"]


def test_runs_without_a_monitor(tmp_path):
    root = write(tmp_path)
    for file in root.rglob("metrics.jsonl"):
        file.write_text('{"task": 0, "step": 40}\n')
    with pytest.raises(ValueError, match="Monitor"):
        probe_records.load(root)
