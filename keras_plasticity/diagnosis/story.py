"""The story of a run: which mechanism moved before accuracy fell."""

from __future__ import annotations

import collections.abc
import math
import os
import pathlib
import typing

import numpy as np

from keras_plasticity.diagnosis import causes
from keras_plasticity.diagnosis.findings import Diagnosis, Evidence, Finding, judged
from keras_plasticity.diagnosis.mechanisms import BY_NAME, INDICATORS, MECHANISMS

SHARE = 0.1  # of the best window that online accuracy must lose to have fallen
_WINDOW = 0.1  # of the tasks
_METRIC = "online_accuracy"
Values = dict[str, float]


def _mean(values: Values, first: Values, layers: dict) -> Values:
    """Over units, where the records say how many each layer has; else over layers."""
    units = layers.get("units", {})
    known = all(name in units for name in values)
    weights = [units[name] for name in values] if known else None
    return {"": float(np.average(list(values.values()), weights=weights))}


def _worst(values: Values, first: Values, layers: dict) -> Values:
    return values if len(values) > 1 else {}


def _growth(values: Values, first: Values, layers: dict) -> Values:
    """Of all kernels but those of the outputs."""
    outputs = _outputs(first, layers)
    return _ratio({n: v for n, v in values.items() if n not in (*outputs, "model")}, first, layers)


def _output_growth(values: Values, first: Values, layers: dict) -> Values:
    outputs = _outputs(first, layers)
    return _ratio({n: v for n, v in values.items() if n in outputs}, first, layers)


def _outputs(first: Values, layers: dict) -> list[str]:
    """Kernels that compute the outputs; the last one where the records do not say."""
    kernels = [name for name in first if name != "model"]
    return layers.get("outputs") or kernels[-1:]


def _excess(values: Values, first: Values, layers: dict) -> Values:
    """Half of the cloned units that were not there at first: one of two copies is redundant."""
    return _mean({n: (v - first.get(n, 0)) / 2 for n, v in values.items()}, first, layers)


def _ratio(values: Values, first: Values, layers: dict) -> Values:
    return {name: value / first[name] for name, value in values.items() if first.get(name, 0) > 0}


def _same(values: Values, first: Values, layers: dict) -> Values:
    return values


# Mechanism, indicator, probe, and how the indicator follows from the probe now and at first.
_READINGS: tuple[tuple[str, str, str, collections.abc.Callable], ...] = (
    ("dead_units", "dead_share", "gradient_dead_fraction", _mean),
    ("dead_units", "dead_layer", "gradient_dead_fraction", _worst),
    ("dead_units", "dead_share", "dead_fraction", _mean),
    ("dead_units", "dead_layer", "dead_fraction", _worst),
    ("linearised_units", "linearised_share", "linearised_fraction", _mean),
    ("linearised_units", "linearised_layer", "linearised_fraction", _worst),
    ("norm_growth", "hidden_growth", "weight_norm", _growth),
    ("norm_growth", "output_growth", "weight_norm", _output_growth),
    ("saturation", "logit_margin", "logit_margin", _same),
    ("saturation", "logit_margin", "logit_norm", _same),
    ("cloned_units", "redundant_share", "cloned_fraction", _excess),
    ("rank_collapse", "rank_fall", "effective_rank", _ratio),
    ("preactivation_shift", "mean_shift", "preactivation_mean_shift", _same),
    ("trainability", "trainability_gap", "trainability_gap", _same),
)


def tell(run_dir: str | os.PathLike, share: float = SHARE) -> dict[str, typing.Any]:
    """Returns what moved when, in the probe records of a run and beside its online accuracy.

    Growth, rank and clones are beside the first record. Shares of units are over all units, and
    the output layer is the one that the records name; in records that name neither, shares are
    means over layers and the last kernel is the output's. Where the records have no
    `logit_margin`, `logit_norm` stands in: it is about the margin where one logit stands out.

    An indicator has crossed its threshold at the first record from which on it stays beyond it
    for this and the next record. Accuracy has fallen at the first task at which its mean over
    a window of a tenth of the tasks lies `share` below the best such window before.

    Args:
        run_dir: directory with `metrics.jsonl`.
        share: float, of the best window. Default 0.1.

    Returns:
        A dict for JSON: `lines` (the story in words), `fall` (task, step, best and present
        accuracy, or None), `crossings` (a list by step: mechanism, indicator, layer, status,
        task, step, value, before), `series` (`[step, value]` of each indicator),
        `accuracy` (`[step, value]`).

    Raises:
        ValueError: there is no such directory, or it holds no records of probes.
    """
    tasks, records = _read(pathlib.Path(run_dir))
    series = _series(records)
    fall = _fall(tasks, share)
    where = {record["step"]: record["task"] for record in records}
    crossings = []
    for (mechanism, indicator), points in series.items():
        for level, status in ((1, "warning"), (2, "failing")):
            step = _crossing(indicator, points, level)
            if step is not None:
                value, layer = next((v, layer) for s, v, layer in points if s == step)
                crossings.append(
                    {
                        "mechanism": mechanism,
                        "indicator": indicator,
                        "layer": layer,
                        "status": status,
                        "task": where[step],
                        "step": step,
                        "value": value,
                        "from_start": step == points[0][0],
                        "before": fall is not None and step <= fall["step"],
                    }
                )
    crossings.sort(key=lambda c: (c["step"], c["status"] != "failing", c["mechanism"]))
    accuracy = [[t["step"], t[_METRIC]] for t in tasks if t.get(_METRIC) is not None]
    return {
        "lines": _lines(fall, crossings, len(records), len(accuracy)),
        "fall": fall,
        "crossings": crossings,
        "series": {key[1]: [[s, v] for s, v, _ in points] for key, points in series.items()},
        "accuracy": accuracy,
    }


def diagnose_run(run_dir: str | os.PathLike, share: float = SHARE) -> Diagnosis:
    """Returns the diagnosis of a run from its rows alone, with its story.

    A finding is of the last record. A mechanism follows from another that can bring it about
    (`leads_to` in the table) and crossed its threshold earlier. Certainty is high where an
    indicator was beyond its threshold in four of five of the records since it crossed, low
    where there are fewer than three records, else medium.

    Args:
        run_dir: see `tell`.
        share: see `tell`.

    Raises:
        ValueError: see `tell`.
    """
    path = pathlib.Path(run_dir)
    _, records = _read(path)
    story, series = tell(run_dir, share), _series(records)
    found = [_finding(m.name, series, len(records)) for m in MECHANISMS]
    first = {c["mechanism"]: c["step"] for c in reversed(story["crossings"])}
    at_work = {f.mechanism for f in found if f.at_work}
    explained = []
    for finding in found:
        earlier = tuple(
            name
            for name in at_work
            if finding.mechanism in BY_NAME[name].leads_to
            and first.get(name, math.inf) < first.get(finding.mechanism, math.inf)
        )
        if finding.at_work and earlier:
            earlier = (min(earlier, key=first.__getitem__),)
            reason = f"which crossed its threshold at step {first[earlier[0]]:,}, earlier"
            finding = _replace(finding, earlier, reason)
        explained.append(finding)
    ordered = sorted(
        causes.order(explained),
        key=lambda f: (
            not f.is_cause,
            not f.at_work,
            first.get(f.mechanism, math.inf) if f.is_cause else 0,
        ),
    )
    notes = ("from the records of a run alone: thresholds were set on networks, not on runs",)
    return Diagnosis(path.name, tuple(ordered), 0, notes, story)


def _replace(finding: Finding, follows: tuple[str, ...], reason: str) -> Finding:
    import dataclasses

    return dataclasses.replace(finding, follows_from=follows, reason=reason)


def _finding(name: str, series: dict, records: int) -> Finding:
    mine = {indicator: p for (mechanism, indicator), p in series.items() if mechanism == name}
    if not mine:
        probes = sorted({probe for mechanism, _, probe, _ in _READINGS if mechanism == name})
        reason = f"the records hold no {' or '.join(probes)}" if probes else "rows hold no targets"
        return Finding(name, "not applicable", reason=reason)
    evidence = [judged(key, points[-1][1], points[-1][2]) for key, points in mine.items()]
    severity = max(e.severity for e in evidence)
    worst = max(evidence, key=lambda e: e.severity)
    sure = _certainty(worst, mine[worst.indicator], records)
    return Finding(name, causes.status(severity), severity, tuple(evidence), sure)


def _certainty(worst: Evidence, points: list, records: int) -> str:
    if records < 3:
        return "low"
    beyond = [INDICATORS[worst.indicator].severity(value) >= 1 for _, value, _ in points]
    since = beyond[beyond.index(True) :] if worst.severity >= 1 else [not b for b in beyond]
    return "high" if np.mean(since) >= 0.8 else "medium"


def _read(path: pathlib.Path) -> tuple[list[dict], list[dict]]:
    from keras_plasticity.run_files import ROWS_FILE, read_probes, read_rows

    file = path / ROWS_FILE
    if not file.is_file():
        raise ValueError(f"`run_dir` must hold {ROWS_FILE}. Received: {path}")
    records = [r for r in read_probes(file) if isinstance(r.get("probes"), dict) and "step" in r]
    if not records:
        raise ValueError(
            f"`run_dir` must hold records of a `Monitor` in {ROWS_FILE}; train with "
            f"kp.callbacks.Monitor(). Received: {path}"
        )
    tasks = [row for row in read_rows(file) if row.get("step") is not None]
    return tasks, sorted(records, key=lambda r: r["step"])


def _series(records: list[dict]) -> dict[tuple[str, str], list[tuple[int, float, str]]]:
    """Step, worst value and its layer of each indicator that the records allow."""
    found: dict[tuple[str, str], list] = {}
    named = [r["layers"] for r in records if isinstance(r.get("layers"), dict)]
    layers = named[0] if named else {}
    for mechanism, indicator, probe, reading in _READINGS:
        if (mechanism, indicator) in found:
            continue  # an earlier reading is the better one
        first: Values | None = None
        points = []
        for record in records:
            values = record["probes"].get(probe)
            values = {k: v for k, v in (values or {}).items() if isinstance(v, (int, float))}
            if not values:
                continue
            first = first or values
            read = reading(values, first, layers)
            if read:
                worst = max(read, key=lambda name: INDICATORS[indicator].severity(read[name]))
                points.append((record["step"], read[worst], "" if worst == "model" else worst))
        if points:
            found[mechanism, indicator] = points
    return found


def _crossing(indicator: str, points: list, level: float) -> int | None:
    """Step of the first record at which this and the next one are beyond."""
    beyond = [INDICATORS[indicator].severity(value) >= level for _, value, _ in points]
    for i, now in enumerate(beyond):
        if now and all(beyond[i : i + 2]):
            return points[i][0]
    return None


def _fall(tasks: list[dict], share: float) -> dict | None:
    rows = [row for row in tasks if row.get(_METRIC) is not None]
    if len(rows) < 2:
        return None
    size = max(1, round(_WINDOW * len(rows)))
    values = np.array([row[_METRIC] for row in rows], float)
    windows = np.convolve(values, np.ones(size) / size, "valid")
    best = np.maximum.accumulate(windows)
    low = np.flatnonzero(windows <= (1 - share) * best)
    if not len(low):
        return None
    end = rows[low[0] + size - 1]
    return {
        "task": end["task"],
        "step": end["step"],
        "best": float(best[low[0]]),
        "now": float(windows[low[0]]),
        "window": size,
        "share": share,
    }


def _lines(fall: dict | None, crossings: list[dict], records: int, tasks: int) -> list[str]:
    first: dict[str, dict] = {}
    for crossing in crossings:
        first.setdefault(crossing["mechanism"], crossing)
    if fall is None:
        lines = [f"Online accuracy did not fall by {SHARE:.0%} in {tasks} tasks."]
        if tasks < 2:
            lines = ["There are not two tasks with an online accuracy."]
    else:
        lines = [
            f"Online accuracy was {fall['share']:.0%} below its best window at task "
            f"{fall['task']} (step {fall['step']:,}): {fall['now']:.3f} after {fall['best']:.3f}, "
            f"means over {fall['window']} tasks."
        ]
    before = [c for c in first.values() if c["before"] and not c["from_start"]]
    for crossing in first.values():
        title = BY_NAME[crossing["mechanism"]].title
        where = f" in {crossing['layer']}" if crossing["layer"] else ""
        at = f"at task {crossing['task']}, step {crossing['step']:,}"
        text = f"{title}{where} crossed the {crossing['status']} threshold {at}"
        if crossing["from_start"]:
            text = f"{title}{where} was beyond the {crossing['status']} threshold from the start"
        elif fall is not None and crossing["before"]:
            text += f", {fall['step'] - crossing['step']:,} steps before accuracy had fallen"
            text += ": moved first" if crossing is before[0] else ""
        elif fall is not None:
            text += f", {crossing['step'] - fall['step']:,} steps after accuracy had fallen"
        lines.append(f"{text}.")
    if not crossings:
        lines.append(f"No indicator crossed its threshold in {records} records.")
    return lines
