"""Which mechanism explains which: from what was measured to findings in order.

The rules, each of which asks whether the effect would be there without the cause:

- Rank collapse follows from dead or cloned units if the kernels' rank is normal among the units
  that live and are no copies.
- Clones follow from rank collapse if it is low even among those, and random kernels with the same
  singular values have as many units that are alike: they have few directions to lie in.
- Saturation follows from norm growth if hidden layers grew and the output layer did not grow
  much more than they did.
- Saturation follows from linearised units if it is gone once the logits' mean over examples is
  taken out, and the output layer has not grown: what is always on adds a constant.
- Norm growth in the output layer alone follows from saturation, or from large targets.
- Dead units follow from linearised ones (or the other way round) if the layer that is affected
  first has only the latter: constant activations push the layers behind to either side.
- Dead and linearised units follow from norm growth if they would live, and bend, at
  preactivations divided by the growth of all layers since the last normalisation (never so with
  ReLU, whose units do not feel a scale).
- Dead and linearised units follow from a preactivation shift if living units are shifted too.
- Dead and linearised units, and a low rank, follow from large targets if fresh copies of the
  network that are trained on these targets lose as many units, or as much rank, see
  `retraining`. Where no copy can tell, units and the rank of features follow (fitting an offset
  pushes all units of a layer one way) and the rank of kernels does not. Norm growth follows if
  the output layer grew most.
"""

from __future__ import annotations

import numpy as np

from keras_plasticity.diagnosis import retraining, unit_masks
from keras_plasticity.diagnosis.findings import Evidence, Finding
from keras_plasticity.diagnosis.indicators import Measured
from keras_plasticity.diagnosis.mechanisms import INDICATORS, MECHANISMS
from keras_plasticity.probes.inputs import ProbeInputs
from keras_plasticity.probes.probe import NotApplicableError
from keras_plasticity.probes.unit_state import slope_below_zero, straight

_MANY = 1000  # examples from which on shares of units are sure
_SOME = 256
_MORE = 3.0  # times that the output layer must outgrow hidden ones to saturate by itself
_KEPT = "units lost here of those that fresh copies trained on the targets keep"
_BY_RETRAINING = {  # attribute of `Excess`, what it is, its unit
    "dead_units": ("dead", f"dead {_KEPT}", "share of units"),
    "linearised_units": ("linear", f"linearised {_KEPT}", "share of units"),
    "rank_collapse": (
        "rank",
        "lowest own rank of a kernel in fresh copies trained on the targets, minus that here",
        "share",
    ),
}
_UNIT_STATES = ("dead_units", "linearised_units", "cloned_units", "rank_collapse")


def findings(measured: Measured, inputs: ProbeInputs) -> tuple[Finding, ...]:
    """Returns a finding for each mechanism, the likely cause first."""
    severity = {
        name: max((e.severity for e in evidence), default=0.0)
        for name, evidence in measured.evidence.items()
    }
    explained = explain(measured, severity, inputs)
    found = []
    for mechanism in MECHANISMS:
        name = mechanism.name
        if name in measured.missing or name not in measured.evidence:
            reason = measured.missing.get(name, "it was not asked for")
            found.append(Finding(name, "not applicable", reason=reason))
            continue
        evidence = tuple(measured.evidence[name])
        follows, reason = explained.get(name, ((), ""))
        found.append(
            Finding(
                name,
                status(severity[name]),
                severity[name],
                evidence,
                certainty(name, evidence, inputs.examples),
                follows if severity[name] >= 1 else (),
                reason if severity[name] >= 1 else "",
            )
        )
    return order(found)


def status(severity: float) -> str:
    """Returns the status that a severity means."""
    return "failing" if severity >= 2 else "warning" if severity >= 1 else "healthy"


def order(found: list[Finding]) -> tuple[Finding, ...]:
    """Sorts: causes, the worst first; what follows; healthy; not applicable.

    Causes of one status stand in the order of the table where both are failing by far.
    """
    place = {mechanism.name: i for i, mechanism in enumerate(MECHANISMS)}

    def key(finding: Finding) -> tuple:
        kind = 0 if finding.is_cause else 1 if finding.at_work else 2
        kind = 3 if finding.status == "not applicable" else kind
        failing = -min(finding.severity, 3.0) if kind < 3 else 0.0
        return kind, finding.status != "failing", failing, place[finding.mechanism]

    return tuple(sorted(found, key=key))


def certainty(name: str, evidence: tuple[Evidence, ...], examples: int) -> str:
    """Returns "high", "medium" or "low": how sure the status of a finding is.

    High: the deciding number lies half the distance between the two thresholds or more away from
    either; what is told from units has 1,000 examples or more; and where it says that something
    is wrong in a model of several layers, it is so in more than one of them or in all units
    together. Low: less than a tenth of that distance, or unit states of fewer than 256 examples.
    Medium: all else.
    """
    worst = max(evidence, key=lambda e: e.severity)
    distance = min(abs(worst.severity - 1), abs(worst.severity - 2))
    by_units = name in (*_UNIT_STATES, "preactivation_shift")
    if distance < 0.1 or (by_units and examples < _SOME):
        return "low"
    if distance < 0.5 or (by_units and examples < _MANY):
        return "medium"
    row = INDICATORS[worst.indicator]
    affected = [v for v in worst.layers.values() if row.severity(v) >= 1]
    if worst.severity >= 1 and len(worst.layers) > 2 and len(affected) == 1:
        return "medium"
    return "high"


def explain(
    measured: Measured, severity: dict[str, float], inputs: ProbeInputs
) -> dict[str, tuple[tuple[str, ...], str]]:
    """Returns which mechanisms follow from which, and why."""
    at_work = {name for name, value in severity.items() if value >= 1}
    found: dict[str, tuple[tuple[str, ...], str]] = {}
    grown = _severity(measured, "norm_growth", "hidden_growth") >= 1
    if "norm_growth" in at_work and not grown:
        for cause in ("large_targets", "saturation"):
            if cause in at_work:
                found["norm_growth"] = ((cause,), "only the output layer has grown")
                break
    if "saturation" in at_work and grown and _outgrown(measured) < _MORE:
        reason = "the output layer has grown no more than hidden ones"
        found["saturation"] = (("norm_growth",), reason)
    elif {"saturation", "linearised_units"} <= at_work and _constant_logits(measured):
        reason = "the logits lie apart by what they are on average, which units always on give"
        found["saturation"] = (("linearised_units",), reason)
    _rank_and_clones(measured, at_work, found)
    _by_depth(measured, at_work, found)
    first = tuple(m.name for m in MECHANISMS if m.name in at_work - found.keys() - {"trainability"})
    if "trainability" in at_work and first:
        found["trainability"] = (first, "what mechanisms come to in the end")
    if "preactivation_shift" in at_work:
        for name in ("dead_units", "linearised_units"):
            if name in at_work:
                reason = "units that live and bend are shifted as well"
                found[name] = (("preactivation_shift",), reason)
    elif grown:
        rescaled = _rescaled(measured, inputs)
        for name, share in rescaled.items():
            if name in at_work and INDICATORS[share[0]].severity(share[1]) < 1:
                reason = f"{share[1]:.0%} of units at preactivations divided by the growth"
                found[name] = (("norm_growth",), reason)
    if "large_targets" in at_work:
        _from_targets(measured, at_work, grown, found, inputs)
    return found


def _from_targets(measured, at_work, grown, found, inputs) -> None:
    pushed = "fitting an offset pushes all units and features one way"
    effects = {
        "dead_units": (True, pushed),
        "linearised_units": (True, pushed),
        "rank_collapse": (_severity(measured, "rank_collapse", "own_rank_share") < 1, pushed),
        "norm_growth": (not grown or _outgrown(measured) >= _MORE, pushed),
    }
    tested = at_work & _BY_RETRAINING.keys()
    if tested:
        try:
            excess = retraining.excess(measured, inputs)
        except NotApplicableError as error:
            for name in tested:
                effects[name] = effects[name][0], f"{pushed}; not tested: {error}"
        else:
            for name in tested:
                effects[name] = _retrained(measured, name, excess, found)
    for name, (follows, reason) in effects.items():
        if name in at_work and follows and name not in found:
            found[name] = (("large_targets",), reason)


def _retrained(measured, name, excess, found) -> tuple[bool, str]:
    """Whether fresh copies trained on the targets are as ill; notes what they were found to be."""
    kind, text, unit = _BY_RETRAINING[name]
    value = getattr(excess, kind)
    measured.evidence[name].append(Evidence(f"excess_{kind}", value, text=text, unit=unit))
    own = value >= retraining.OWN
    if own and set(found.get(name, ((),))[0]) <= _BY_RETRAINING.keys():
        found.pop(name, None)  # not by what other units came to either
    return not own, "fresh copies that are trained on these targets come to the same"


def _rank_and_clones(measured, at_work, found) -> None:
    own = measured.own_rank
    row = INDICATORS["kernel_rank_share"]
    low = (
        bool(row.severity(own) >= 1)
        or _severity(measured, "rank_collapse", "feature_rank_share") >= 1
    )
    if "rank_collapse" not in at_work:
        return
    causes = tuple(n for n in ("dead_units", "cloned_units") if n in at_work)
    if not low and causes:
        if np.isnan(own):
            reason = "in no layer are there enough units that live and are no copies"
        else:
            reason = f"{own:.0%} of a random kernel's rank among units that live and are no copies"
        found["rank_collapse"] = (causes, reason)
    elif low and "cloned_units" in at_work and not _copied(measured):
        reason = "as many units are alike as in random kernels of so low a rank"
        found["cloned_units"] = (("rank_collapse",), reason)


def _copied(measured: Measured) -> bool:
    """Whether more units are copies than kernels of such singular values have by chance."""
    excess, count = 0.0, 0
    for units in measured.units:
        matrix = unit_masks.kernel(units.group)
        alive = int(units.alive.sum())
        if matrix is None or not alive:
            continue
        sigma = np.linalg.svd(matrix[:, units.alive], compute_uv=False)
        rng = np.random.default_rng(0)
        left = np.linalg.qr(rng.standard_normal((len(matrix), len(sigma))))[0]
        right = np.linalg.qr(rng.standard_normal((alive, len(sigma))))[0]
        chance = unit_masks.copies(None, (left * sigma) @ right.T, np.ones(alive, bool))
        excess += max(0, int(units.copies.sum()) - int(chance.sum()))
        count += alive
    return INDICATORS["redundant_share"].severity(excess / max(count, 1)) >= 1


def _by_depth(measured, at_work, found) -> None:
    """Dead and linearised units behind a layer of the other kind."""
    if not {"dead_units", "linearised_units"} <= at_work:
        return
    row = {"dead": INDICATORS["dead_share"], "linear": INDICATORS["linearised_share"]}
    for units in measured.units:
        share = {k: float(getattr(units, k).mean()) for k in row}
        hit = {k for k in row if row[k].severity(share[k]) >= 1}
        if not hit:
            continue
        if len(hit) == 1:
            kind = hit.pop()
            cause = {"dead": "dead_units", "linear": "linearised_units"}[kind]
            effect = {"dead": "linearised_units", "linear": "dead_units"}[kind]
            reason = f"the first layer that is affected, {units.group.name}, has none of them"
            found[effect] = ((cause,), reason)
        return


def _severity(measured: Measured, name: str, indicator: str) -> float:
    found = [e.severity for e in measured.evidence.get(name, ()) if e.indicator == indicator]
    return max(found, default=0.0)


def _constant_logits(measured: Measured) -> bool:
    """Whether the logits lie apart on average alone, and the output layer has not grown."""
    margins = [e.value for e in measured.evidence["saturation"] if e.indicator == "centred_margin"]
    grown = _severity(measured, "saturation", "logit_growth") >= 1
    return not grown and INDICATORS["logit_margin"].severity(margins[0]) < 1


def _outgrown(measured: Measured) -> float:
    """Growth of the output layer, in times of the typical hidden one."""
    growth = measured.growth
    if not growth.output or not growth.hidden:
        return 1.0
    return max(growth.output.values()) / float(np.median(list(growth.hidden.values())))


def _rescaled(measured: Measured, inputs: ProbeInputs) -> dict[str, tuple[str, float]]:
    """Shares of dead and linear units if all layers before them had not grown."""
    if not measured.units:
        return {}
    grown, dead, linear = 1.0, [], []
    samples = inputs.units("samples")
    for units in measured.units:
        paths = {piece.variable.path for piece in units.group.incoming}
        growth = [g for path, g in measured.growth.hidden.items() if path in paths]
        # a normalisation takes out what the kernels before it have grown
        grown = 1.0 if _normalised(units.group) else grown * max([1.0, *growth])
        a = samples[units.group.name].astype(np.float32) / np.float32(grown)
        flat, line = _states(units.group, a)
        dead.append(units.dead & flat)
        linear.append(units.linear & line)
    return {
        "dead_units": ("dead_share", float(np.concatenate(dead).mean())),
        "linearised_units": ("linearised_share", float(np.concatenate(linear).mean())),
    }


def _normalised(group) -> bool:
    name = type(group.preactivation.operation).__name__
    return "Normalization" in name or name == "CenterScale"


def _states(group, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which units would be dead, and which linear, at given preactivations; all if not known."""
    import tensorflow as tf

    from keras_plasticity.probes.forward import _slope

    if getattr(group.nonlinearity, "weights", None):  # it may take no flat samples
        return np.ones(a.shape[-1], bool), np.ones(a.shape[-1], bool)
    tensor = tf.constant(a)
    slope, h = _slope(group, tensor), np.asarray(group.nonlinearity(tensor), np.float64)
    flat = np.zeros(a.shape[-1], bool) if slope is None else np.abs(slope).max(0) < unit_masks.FLAT
    values = a.astype(np.float64)
    x, y = values - values.mean(0), h - h.mean(0)
    fit = {"m2": (x * x).mean(0), "m2_y": (y * y).mean(0), "m_xy": (x * y).mean(0)}
    positive = (values > 0).mean(0)
    line = straight(slope_below_zero(group), positive, fit, unit_masks.STRAIGHT)
    return flat, line & ~flat
