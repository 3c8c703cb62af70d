"""Units that are silent, constant, linear or copies of others."""

from __future__ import annotations

import typing

import keras
import numpy as np
import tensorflow as tf

from keras_plasticity.probes.inputs import ProbeInputs
from keras_plasticity.probes.probe import probe
from keras_plasticity.units import UnitGroup


@probe("share", better="lower", needs=["activity"])
def dormant_fraction(inputs: ProbeInputs, threshold: float = 0.025) -> dict[str, float]:
    """Share of units whose activation is small beside their layer's.

    ```python
    score = mean(abs(h), examples and positions)  # per unit
    mean(score / mean(score, units) <= threshold)
    ```

    The score is relative: a layer that is silent as a whole is all dormant, one whose units
    all shrink alike is not dormant at all.

    Args:
        inputs: `ProbeInputs`.
        threshold: float. Default 0.025.

    Reference:
        Sokar et al., "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", 2023,
        https://arxiv.org/abs/2302.12902.
    """
    found = {}
    for name, units in inputs.units("activity").items():
        size = units["mean_abs"]
        found[name] = _share(size <= threshold * size.mean(), size)
    return found


@probe("share", better="lower", needs=["activity"])
def dead_fraction(inputs: ProbeInputs, tolerance: float = 0.0) -> dict[str, float]:
    """Share of units that are silent: `mean(P(|h| <= 1e-7 at all positions) >= 1 - tolerance)`.

    For ReLU and its like. Units of tanh or sigmoid die at another value, see
    `gradient_dead_fraction`. A unit that fires on 1 % of inputs is silent on all of 64 examples
    with probability .53, on all of 1,000 with 4e-5: use 1,000 or more.

    Args:
        inputs: `ProbeInputs`.
        tolerance: float, share of examples at which a dead unit may fire. Default 0, strictly
            dead; 0.05 is common as well, 0.01 is the "dormant" of Dohare et al.

    Reference:
        Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks", 2024,
        https://arxiv.org/abs/2402.18762.
    """
    return {
        name: _share(units["silent"] >= 1 - tolerance - 1e-6, units["mean_abs"])
        for name, units in inputs.units("activity").items()
    }


@probe("share", better="lower", needs=["derivative"])
def gradient_dead_fraction(inputs: ProbeInputs, epsilon: float = 1e-3) -> dict[str, float]:
    """Share of units that pass no gradient: `mean(max_x |phi'(a(x))| < epsilon)`.

    For any nonlinearity phi with preactivation a: silent ReLUs, saturated tanhs and sigmoids.

    Args:
        inputs: `ProbeInputs`.
        epsilon: float, largest slope of a dead unit. Default 1e-3.

    Reference:
        Lyle et al. 2024 define a dead unit by its gradient; `epsilon` is ours.
    """
    return {
        name: _share(units["max"] < epsilon, units["max"])
        for name, units in inputs.units("derivative").items()
    }


@probe("share", better="lower", needs=["activity", "preactivation"])
def linearised_fraction(inputs: ProbeInputs, tolerance: float = 0.01) -> dict[str, float]:
    """Share of units that live and yet are linear on all examples ("zombie" units).

    With a kink at zero: the preactivation is positive at a share of `1 - tolerance` of examples
    and positions or more; or, where there is a slope below zero (LeakyReLU), negative.
    With any other nonlinearity: a straight line explains the unit,

    ```python
    1 - corr(a, h)**2 <= tolerance  # and max_x |phi'(a)| >= 1e-3, else it is dead
    ```

    Args:
        inputs: `ProbeInputs`.
        tolerance: float. Default 0.01.

    Reference:
        Lyle et al. 2024: units that are always on, and for smooth nonlinearities those of low
        preactivation variance. The line and `tolerance` are ours.
    """
    found = {}
    below = slopes_below_zero(inputs)
    preactivation, activity = inputs.units("preactivation"), inputs.units("activity")
    smooth = [name for name in preactivation if below[name] is None]
    fits = inputs.units("fit") if smooth else {}
    slopes = inputs.units("derivative") if smooth else {}
    for name, units in preactivation.items():
        if below[name] is not None:
            alive = activity[name]["silent"] < 1 - tolerance - 1e-6
        elif name in slopes:
            alive = slopes[name]["max"] >= 1e-3
        else:
            continue
        linear = straight(below[name], units["positive"], fits.get(name, {}), tolerance)
        found[name] = _share(linear & alive, units["mean"])
    return found


@probe("bits", better="higher", needs=["preactivation"])
def sign_entropy(inputs: ProbeInputs) -> dict[str, float]:
    """Mean entropy of the sign of the preactivation: `-(p log2 p + (1-p) log2(1-p))`.

    p is the share of examples and positions at which a unit's preactivation is positive. 0 for
    dead and linearised units, 1 for those that are on half of the time.

    Args:
        inputs: `ProbeInputs`.

    Reference:
        Lewandowski et al., "Plastic Learning with Deep Fourier Features", 2024,
        https://arxiv.org/abs/2410.20634; binary entropy as written above.
    """
    found = {}
    for name, units in inputs.units("preactivation").items():
        p = np.stack([units["positive"], 1 - units["positive"]])
        bits = -np.sum(p * np.log2(np.where(p > 0, p, 1)), 0)
        found[name] = float(np.where(np.isfinite(units["mean"]), bits, np.nan).mean())
    return found


@probe("share", better="lower", expensive=True, needs=["features"])
def cloned_fraction(inputs: ProbeInputs, similarity: float = 0.95) -> dict[str, float]:
    """Share of units with a double: `max_j cos(h_i - mean, h_j - mean) > similarity`.

    Activations of channels are averaged over positions first. Constant units have no double.

    Args:
        inputs: `ProbeInputs`.
        similarity: float, least cosine of a double. Default 0.95.

    Reference:
        Joudaki et al., "Barriers for Learning in an Evolving World", 2025,
        https://arxiv.org/abs/2510.00304.
    """
    return {
        name: _share(clones(features, similarity), features)
        for name, features in inputs.units("features").items()
    }


def clones(features: np.ndarray, similarity: float = 0.95) -> np.ndarray:
    """Returns which units have a double.

    Args:
        features: float, shape `(examples, size)`; further axes are averaged over already.
        similarity: float, least cosine of a double. Default 0.95.

    Returns:
        A bool array of shape `(size,)`.
    """
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    centred = flat - flat.mean(0)
    norm = np.sqrt(np.sum(centred**2, 0))
    alive = norm > 1e-6 * np.sqrt(len(flat)) * np.maximum(np.abs(flat).max(0), 1e-30)
    unit = np.divide(centred, norm, out=np.zeros_like(centred), where=alive)
    cosine = unit.T @ unit
    np.fill_diagonal(cosine, -1)
    return cosine.max(0) > similarity if len(cosine) > 1 else np.zeros(len(cosine), bool)


def _share(units: np.ndarray, values: np.ndarray) -> float:
    """Share of units that are marked; NaN where the values it was read from are not finite."""
    return float(np.mean(units)) if np.all(np.isfinite(values)) else float("nan")


def straight(
    below: float | None,
    positive: np.ndarray,
    fit: typing.Mapping[str, np.ndarray],
    tolerance: float = 0.01,
) -> np.ndarray:
    """Returns which units are straight lines, dead ones among them; see `linearised_fraction`.

    Args:
        below: float, `slope_below_zero` of their nonlinearity.
        positive: float, shape `(size,)`, share of positive preactivations.
        fit: dict with `m2`, `m2_y` and `m_xy`, variance of preactivations, of activations, and
            their covariance, each of shape `(size,)`. Read where `below` is None.
        tolerance: float. Default 0.01.

    Returns:
        A bool array of shape `(size,)`.
    """
    if below is not None:
        much = 1 - tolerance - 1e-6
        return (positive >= much) | ((1 - positive >= much) & (below != 0))
    product = fit["m2"] * fit["m2_y"]
    explained = np.divide(fit["m_xy"] ** 2, product, out=np.zeros_like(product), where=product > 0)
    return (1 - explained <= tolerance) & (product > 0)


def slopes_below_zero(inputs: ProbeInputs) -> dict[str, float | None]:
    """Returns `slope_below_zero` of each group of hidden units, by name."""
    return inputs.kept("sides", lambda: {g.name: slope_below_zero(g) for g in inputs.groups})


def slope_below_zero(group: UnitGroup) -> float | None:
    """Slope of phi below zero where phi is a line on each side of zero, another one; else None."""
    phi = group.nonlinearity
    if isinstance(phi, keras.layers.PReLU):
        return 1.0  # whatever it has learned
    if phi is None:
        return None
    try:
        low, high = (phi(tf.constant([[-s, s]])).numpy()[0] for s in (0.5, 10.0))
    except Exception:  # what a layer of a user's takes is not known
        return None
    kinked = np.allclose(20 * low, high, rtol=1e-5) and not np.allclose(low[0], -low[1])
    return float(-2 * low[0]) if kinked else None
