"""Tables of the paper's orderings from runs of the gin files; Markdown, on the terminal.

    python tests/benchmarks/orderings.py combinations runs/combinations
    python tests/benchmarks/orderings.py offset runs/target_offset
    python tests/benchmarks/orderings.py bandit runs/discount_zero_bandit

Means over seeds with 95 % t intervals; differences are within seeds.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import pandas as pd  # noqa: E402

from keras_plasticity import probe_records, results  # noqa: E402

REACHED = 0.05  # squared error to which the first noise has to be learnt
PARTS = ("plain", "layer_norm", "l2", "layer_norm_l2")


def cell(values, digits: int = 3) -> str:
    """Mean and half the width of its interval."""
    values = pd.Series(values, dtype="float64")
    low, high = results.interval(values)
    return f"{values.mean():.{digits}f} ± {(high - low) / 2:.{digits}f}"


def markdown(rows: list[dict]) -> str:
    """A table of rows with the same keys."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row[n]) for n in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def paired(one: pd.Series, other: pd.Series, digits: int = 3) -> str:
    """Mean difference within seeds, of two series over seeds."""
    return cell((one - other).dropna(), digits)


def combinations(root: str) -> list[dict]:
    """Online accuracy over the last tenth of the tasks, a row per network and nonlinearity."""
    last = results.windows(results.load(root)).set_index(["method", "seed"])["last"]
    networks = dict.fromkeys(
        name.removesuffix(f"_{part}")
        for name in last.index.get_level_values("method").unique()
        for part in PARTS
        if name.endswith(f"_{part}") and not name.removesuffix(f"_{part}").endswith("_layer_norm")
    )
    rows = []
    for network in networks:
        found = {part: last[f"{network}_{part}"] for part in PARTS}
        row = {"network": network} | {part: cell(values) for part, values in found.items()}
        best = max(PARTS[:3], key=lambda part: found[part].mean())
        row["both minus best other"] = f"{paired(found[PARTS[3]], found[best])} ({best})"
        rows.append(row)
    return rows


def offset(root: str) -> list[dict]:
    """Squared error on new noise beside a fresh network, a row per loss and offset."""
    rows = []
    for directory in sorted(pathlib.Path(root).glob("c*"), key=lambda d: float(d.name[1:])):
        table = results.load(directory)
        probes = probe_records.load(directory)
        top = probes[(probes["probe"] == "feature_top_singular_value")]
        for method in [m for m in table["method"].unique() if not m.endswith("_fresh")]:
            runs = table[table["method"] == method]
            final = runs[runs["task"] == runs["task"].max()].set_index("seed")
            before = runs[runs["task"] == runs["task"].max() - 1].set_index("seed")
            fresh = table[table["method"] == f"{method}_fresh"]
            fresh = fresh[fresh["task"] == fresh["task"].max()].set_index("seed")
            sizes = top[(top["method"] == method) & (top["task"] == before["task"].iloc[0])]
            sizes = sizes[sizes["step_in_task"] > 0].groupby("seed")["value"].last()
            learnt = before["train_squared_error"]
            reached = f"{(learnt <= REACHED).sum()} of {len(learnt)}"
            rows.append(
                {
                    "loss": method,
                    "c": directory.name[1:],
                    "first noise": f"{learnt.mean():.3g} ({reached})",
                    "new noise, online": f"{final['online_squared_error'].mean():.3g}",
                    "fresh": f"{fresh['online_squared_error'].mean():.3g}",
                    "excess online": paired(
                        final["online_squared_error"], fresh["online_squared_error"]
                    ),
                    "excess at the end": paired(
                        final["train_squared_error"], fresh["train_squared_error"]
                    ),
                    "sigma_1": f"{sizes.mean():.3g}",
                }
            )
    return sorted(rows, key=lambda row: (row["loss"], float(row["c"])))


def bandit(root: str) -> list[dict]:
    """What a change of rewards does, means over all tasks but the first."""
    table = results.load(root)
    probes = probe_records.load(root)
    rows = []
    for method in table["method"].unique():
        runs = table[(table["method"] == method) & (table["task"] > 0)]
        records = probes[(probes["method"] == method) & (probes["layer"] == "model")]
        row = {"method": method}
        columns = ("first_presentation_loss", "online_accuracy", "train_accuracy")
        for name in columns:
            row[name.replace("_", " ")] = cell(runs.groupby("seed")[name].mean())
        for name, begin in (("gradient_norm", True), ("softmax_entropy", False)):
            found = records[(records["probe"] == name) & (records["task"] > 0)]
            found = found[(found["step_in_task"] == 0) == begin].groupby("seed")["value"].mean()
            when = "after the change" if begin else "at the end"
            row[f"{name.replace('_', ' ')} {when}"] = cell(found) if len(found) else ""
        rows.append(row)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=("combinations", "offset", "bandit"))
    parser.add_argument("root")
    arguments = parser.parse_args()
    print(markdown(globals()[arguments.table](arguments.root)))
