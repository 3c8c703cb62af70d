"""The statistics of `tests/benchmarks/validity.py`."""

import importlib.util
import json
import pathlib

import numpy as np
import pandas as pd
import pytest
import scipy.stats

FILE = pathlib.Path(__file__).parent / "benchmarks/validity.py"
spec = importlib.util.spec_from_file_location("validity", FILE)
validity = importlib.util.module_from_spec(spec)
spec.loader.exec_module(validity)


def runs(methods=10, seeds=5):
    """Runs whose gap differs between methods, with probes that agree as their names say."""
    rng = np.random.default_rng(0)
    rows = []
    for method in range(methods):
        for seed in range(seeds):
            gap = method / methods + 0.01 * rng.standard_normal()
            row = {"method": f"m{method}", "seed": seed, validity.GAP: gap}
            row |= {"same": 2 * gap + 1, "reverse": -np.exp(gap), "noise": rng.standard_normal()}
            rows.append(row | {"constant": 1.0, "some": gap if method < 3 else np.nan})
    return pd.DataFrame(rows)


def describe(**better):
    return {name: {"better": value} for name, value in better.items()}


def test_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (2, 40)).astype(float)  # with ties
    assert validity.correlation(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    values = (np.array([1.0, 2, 3, 4]), np.array([10.0, 30, 20, 40]))
    assert validity.correlation(*values) == pytest.approx(1 - 6 * 2 / (4 * 15))  # by hand
    assert np.isnan(validity.correlation(np.ones(4), np.arange(4.0)))
    counts = rng.integers(0, 4, (3, 40))
    expected = [scipy.stats.spearmanr(np.repeat(a, n), np.repeat(b, n))[0] for n in counts]
    assert validity.correlation(a, b, counts) == pytest.approx(expected)


def test_every_probe_has_a_row_and_a_verdict():
    given = describe(same="lower", reverse="lower", noise="higher", constant="none")
    given |= describe(some="none", absent="lower", trainability_gap="lower")
    table = validity.agreement(runs(), given).set_index("probe")
    assert len(table) == 6 and validity.GAP not in table.index
    assert table.loc["same", ["spearman", "low", "high"]].tolist() == pytest.approx([1, 1, 1])
    assert table.loc["reverse", "spearman"] == pytest.approx(-1)
    verdicts = {"same": "yes", "reverse": "OPPOSITE", "noise": "unclear", "constant": "constant"}
    assert table["agrees"].to_dict() == verdicts | {"some": "unclear", "absent": "no value"}
    assert table.loc["some", ["runs", "methods"]].tolist() == [15, 3]
    assert np.isnan(table.loc["some", "low"])  # three methods are too few


def test_methods_are_drawn_and_not_runs():
    """Twenty copies of each run add no evidence."""
    rng = np.random.default_rng(1)
    methods, gaps = np.arange(12), rng.standard_normal(12)
    values = gaps + rng.standard_normal(12)
    once = validity.interval(values, gaps, methods)
    many = validity.interval(*(np.repeat(a, 20) for a in (values, gaps, methods)))
    assert many == pytest.approx(once, abs=1e-9)
    single = validity.interval(*(np.repeat(a, 20) for a in (values, gaps)), np.arange(240))
    assert single[1] - single[0] < 0.5 * (once[1] - once[0])


def test_interval_covers_a_known_correlation():
    """Normal values with correlation r have rank correlation 6 / pi * asin(r / 2)."""
    truth = 6 / np.pi * np.arcsin(0.6 / 2)
    covered = 0
    for seed in range(20):
        a, b = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 40).T
        low, high = validity.interval(a, b, np.arange(40), seed)
        covered += low <= truth <= high
    assert covered >= 17


def test_tables_from_records(tmp_path, capsys):
    for method in range(6):
        for seed in range(2):
            folder = tmp_path / f"m{method}/seed_{seed}"
            folder.mkdir(parents=True)
            run = {"benchmark": "b", "method": f"m{method}", "seed": seed}
            run |= {"uses_task_boundaries": False}
            (folder / "run.json").write_text(json.dumps(run))
            phi = "relu" if method else "tanh"
            (folder / "operative_config.gin").write_text(f"activation = '{phi}'\n")
            gap = method + seed / 10
            ends = {"weight_norm": {"a": gap, "b": -9.0}, "reference/dead_fraction": {"a": 1.0}}
            rows = [{"weight_norm": {"a": 5.0}, "trainability_gap": {"model": -1.0}}]
            rows += [ends | {"trainability_gap": {"model": gap}}]
            rows = rows[: 1 if method == 5 and seed == 1 else 2]  # one has only begun
            (folder / "metrics.jsonl").write_text(
                "".join(
                    json.dumps(
                        {"kind": "probe", "task": 0, "step": i, "step_in_task": i, "probes": row}
                    )
                    + "\n"
                    for i, row in enumerate(rows)
                )
            )
    validity.main(str(tmp_path))
    printed = capsys.readouterr().out
    assert "11 runs of 6 methods" in printed
    row = next(line for line in printed.splitlines() if "`weight_norm`" in line)
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells[:4] == ["+", "+1.00", "+1.00 to +1.00", "11"] and cells[4:6] == ["yes", "+1.00"]
    assert cells[-1] == "9"  # of ReLU
    table = pd.read_csv(tmp_path / "report/validity.csv")
    found = table[(table["probe"] == "weight_norm") & (table["networks"] == "all")]
    by_rule = found.set_index("layers")["spearman"]
    assert by_rule["mean"] == by_rule["max"] == 1 and np.isnan(by_rule["last"])
    assert "| m4 | 4.050 | 4.000 | 4.100 | 2 |" in printed
