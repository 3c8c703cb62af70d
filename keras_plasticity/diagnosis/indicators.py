"""Measures the indicators of all mechanisms on one network."""

from __future__ import annotations

import dataclasses
import math
import typing

import keras
import numpy as np

from keras_plasticity.diagnosis import unit_masks
from keras_plasticity.diagnosis.findings import Evidence, judged
from keras_plasticity.diagnosis.growth import Growth
from keras_plasticity.layers import PopArt
from keras_plasticity.losses import TargetNormalization
from keras_plasticity.probes import spectrum
from keras_plasticity.probes.inputs import ProbeInputs
from keras_plasticity.probes.probe import NotApplicableError

PIECES = ("preactivation", "activity", "derivative", "fit", "features", "outputs")
_FEW = 8  # units: a layer of fewer does not count as the worst one


@dataclasses.dataclass
class Measured:
    """What was measured.

    Attributes:
        evidence: dict from the name of each mechanism to its evidence.
        missing: dict from the name of a mechanism that does not apply to the reason.
        units: list of `unit_masks.Units`, empty where there are none.
        growth: `Growth`.
        own_rank: lowest share of the kernels' rank among distinct living units; NaN without.
    """

    evidence: dict[str, list[Evidence]] = dataclasses.field(default_factory=dict)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)
    units: list[unit_masks.Units] = dataclasses.field(default_factory=list)
    growth: Growth = dataclasses.field(default_factory=lambda: Growth({}, {}, {}))
    own_rank: float = math.nan


def measure(inputs: ProbeInputs, growth: Growth, reference: dict | None) -> Measured:
    """Measures everything but trainability.

    Args:
        inputs: `ProbeInputs`.
        growth: `Growth` of the weights.
        reference: pieces "preactivation" of the reference by layer, or None.
    """
    measured = Measured(growth=growth)
    try:
        measured.units = unit_masks.units(inputs)
    except NotApplicableError as error:
        for name in ("dead_units", "linearised_units", "cloned_units", "preactivation_shift"):
            measured.missing[name] = str(error).split(": ", 1)[-1]
    parts: dict[str, typing.Callable] = {
        "large_targets": lambda: _targets(inputs),
        "preactivation_shift": lambda: _shift(inputs, measured.units, reference),
        "norm_growth": lambda: _growth(growth),
        "linearised_units": lambda: _shares(measured.units, "linear", "linearised"),
        "dead_units": lambda: _shares(measured.units, "dead", "dead"),
        "cloned_units": lambda: _shares(measured.units, "copies", "redundant"),
        "rank_collapse": lambda: _rank(inputs, measured),
        "saturation": lambda: _saturation(inputs, growth),
    }
    for name, part in parts.items():
        if name in measured.missing:
            continue
        try:
            measured.evidence[name] = part()
        except NotApplicableError as error:
            measured.missing[name] = str(error)
    return measured


def _shares(units: list[unit_masks.Units], kind: str, prefix: str) -> list[Evidence]:
    """Share of units of a kind, overall and in the worst layer."""
    masks = {u.group.name: getattr(u, kind) for u in units}
    if kind == "copies":
        masks = {u.group.name: u.copies[u.alive] for u in units if u.alive.any()}
    if not masks:
        return [judged(f"{prefix}_share", 0.0)]
    layers = {name: float(mask.mean()) for name, mask in masks.items()}
    share = float(np.concatenate(list(masks.values())).mean())
    found = [judged(f"{prefix}_share", share, layers=layers)]
    sizes = {u.group.name: u.group.size for u in units}
    large = {name: value for name, value in layers.items() if sizes[name] >= _FEW}
    if large and len(layers) > 1:
        worst = max(large, key=large.__getitem__)
        found.append(judged(f"{prefix}_layer", large[worst], worst, layers))
    if kind == "linear" and (constant := np.concatenate([u.constant for u in units])).any():
        text = "units that do not depend on the input, though alive; not counted as linear"
        found.append(Evidence("constant_share", float(constant.mean()), text=text, unit="share"))
    return found


def _growth(growth: Growth) -> list[Evidence]:
    found = []
    for kind in ("hidden", "output"):
        values = getattr(growth, kind)
        if values:
            worst = max(values, key=values.__getitem__)
            found.append(judged(f"{kind}_growth", values[worst], _layer(worst), _layers(values)))
    if not found:
        raise NotApplicableError(
            "no weight is known to start from other values than zero; pass a `reference`"
        )
    return found


def _targets(inputs: ProbeInputs) -> list[Evidence]:
    if inputs.y is None:
        raise NotApplicableError("no targets were given")
    flat, outputs = keras.tree.flatten(inputs.y), inputs.outputs
    if len(flat) != 1 or not isinstance(outputs, np.ndarray):
        raise NotApplicableError("several outputs")
    if inputs.classifies:
        raise NotApplicableError("the targets are classes")
    y = np.asarray(flat[0], np.float64)
    if y.ndim == 1:
        y = y[:, None]
    loss = getattr(inputs.model, "loss", None)
    if getattr(loss, "bins", None) is not None:
        raise NotApplicableError("the loss puts targets into bins, so that their size is nothing")
    if y.shape != outputs.shape:
        raise NotApplicableError(f"targets {y.shape[1:]} are no outputs {outputs.shape[1:]}")
    if isinstance(loss, TargetNormalization):
        y = (y - np.asarray(loss.mean)) / np.asarray(loss.deviation)
    y = _before_rescaling(inputs.model, y)
    rest = y - _bias(inputs.model, y)
    found = [judged("target_magnitude", float(np.sqrt(np.mean(rest**2))))]
    found.append(
        Evidence("target_mean", float(np.mean(y)), text="mean of the targets", unit="outputs")
    )
    found.append(
        Evidence("target_deviation", float(np.std(y)), text="their deviation", unit="outputs")
    )
    return found


def _before_rescaling(model: keras.Model, y: np.ndarray) -> np.ndarray:
    """Targets as the last kernel sees them, under a `Rescaling` or `PopArt` at the end."""
    layers = getattr(model, "layers", [])
    if layers and isinstance(layers[-1], PopArt):
        return (y - np.asarray(layers[-1].mu)) / np.sqrt(np.asarray(layers[-1].variance))
    if layers and isinstance(layers[-1], keras.layers.Rescaling):
        return (y - np.asarray(layers[-1].offset)) / np.asarray(layers[-1].scale)
    return y


def _bias(model: keras.Model, y: np.ndarray) -> np.ndarray:
    """Bias of the output layer, zero where it is not known."""
    layers = [layer for layer in getattr(model, "layers", []) if layer.trainable_variables]
    bias = getattr(layers[-1], "bias", None) if layers else None
    if bias is None or tuple(bias.shape) != y.shape[1:]:
        return np.zeros(y.shape[1:])
    return np.asarray(bias.value, np.float64)


def _saturation(inputs: ProbeInputs, growth: Growth) -> list[Evidence]:
    if not isinstance(inputs.outputs, np.ndarray):
        raise NotApplicableError("several outputs")
    if not inputs.classifies:
        raise NotApplicableError("the model is no classifier with logits or probabilities")
    logits = inputs.logits.astype(np.float64)
    margin = _margin(logits)
    centred = float(np.median(_margin(logits - logits.mean(0))))
    share = float(np.mean(margin > 15.9))
    remarks = {
        "centred_margin": (centred, "the same without the logits' mean over examples", "nats"),
        "rounded_share": (
            share,
            "examples whose softmax gradient rounds to zero in float32 (margin above 15.9)",
            "share of examples",
        ),
    }
    found = [judged("logit_margin", float(np.median(margin)))]
    if growth.output:
        found.append(judged("logit_growth", max(growth.output.values())))
    return found + [Evidence(n, v, text=t, unit=unit) for n, (v, t, unit) in remarks.items()]


def _margin(logits: np.ndarray) -> np.ndarray:
    top = np.sort(logits, -1)
    return top[:, -1] - top[:, -2]


def _shift(
    inputs: ProbeInputs, units: list[unit_masks.Units], reference: dict | None
) -> list[Evidence]:
    if reference is None:
        raise NotApplicableError("needs a `reference`, and its layers with units")
    layers = {}
    now = inputs.units("preactivation")
    for unit in units:
        name = unit.group.name
        then = reference.get(name)
        living = unit.alive & ~unit.linear
        if then is None or len(then["mean"]) != unit.group.size or not living.any():
            continue
        moved = _position(now[name])[living].mean() - _position(then)[living].mean()
        layers[name] = float(abs(moved))
    if not layers:
        raise NotApplicableError("no layer of the `reference` has the same units")
    worst = max(layers, key=layers.__getitem__)
    return [judged("position_shift", layers[worst], worst, layers)]


def _position(a: dict) -> np.ndarray:
    """Mean of each unit's preactivation in its own deviations, within [-10, 10]."""
    return np.clip(a["mean"] / np.sqrt(a["m2"] + 1e-12), -10, 10)


def _rank(inputs: ProbeInputs, measured: Measured) -> list[Evidence]:
    by_kernel: dict[str, unit_masks.Units] = {}
    for units in measured.units:
        for piece in units.group.incoming:
            by_kernel[piece.variable.path] = units
    shares, own = {}, {}
    last = set(measured.growth.output)
    for path, variable in inputs.kernels.items():
        unit = by_kernel.get(variable.path)
        if variable.path in last:
            continue
        matrix = unit_masks.kernel(unit.group) if unit else None
        if matrix is None:
            matrix, unit = np.asarray(variable.value, np.float64), None
            matrix = matrix.reshape(-1, matrix.shape[-1])
        if min(matrix.shape) < 4:
            continue  # of so few directions no share can be told
        if unit is None:
            shares[path] = own[path] = _share(matrix, matrix.shape)
            continue
        shares[path] = _share(matrix * ~unit.dead, matrix.shape)
        chosen = matrix[:, unit.distinct]
        if min(chosen.shape) >= 4:
            own[path] = _share(chosen, chosen.shape)
        elif unit.alive.sum() >= 2 * _FEW:  # all living units are copies of very few
            own[path] = _share(matrix[:, unit.alive], matrix[:, unit.alive].shape)
    if not shares:
        raise NotApplicableError("there is no hidden kernel of at least 4 x 4")
    measured.own_rank = min(own.values(), default=math.nan)
    found = []
    for name, values in (("own_rank_share", own), ("kernel_rank_share", shares)):
        if values:
            worst = min(values, key=values.__getitem__)
            found.append(judged(name, values[worst], worst, values))
    features = _feature_shares(inputs, measured.units)
    if features:
        worst = min(features, key=features.__getitem__)
        found.append(judged("feature_rank_share", features[worst], worst, features))
    return found


def _share(matrix: np.ndarray, shape: tuple[int, ...]) -> float:
    """Effective rank beside that of a random matrix of a shape."""
    random = np.random.default_rng(0).standard_normal(shape)
    full = spectrum.effective_rank(spectrum.singular_values(random))
    return spectrum.effective_rank(spectrum.singular_values(matrix)) / full


def _feature_shares(inputs: ProbeInputs, units: list[unit_masks.Units]) -> dict[str, float]:
    found: dict[str, float] = {}
    if inputs.examples < 64:
        return found
    for unit in units:
        chosen = inputs.units("features")[unit.group.name][:, unit.distinct]
        if chosen.shape[1] >= _FEW:
            sigma = spectrum.singular_values(chosen, centred=True)
            full = min(chosen.shape[1], inputs.examples - 1)
            found[unit.group.name] = spectrum.effective_rank(sigma) / full
    return found


def _layer(path: str) -> str:
    return path.removesuffix("/kernel")


def _layers(values: dict[str, float]) -> dict[str, float]:
    return {_layer(path): value for path, value in values.items()}
