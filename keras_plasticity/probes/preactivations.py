"""Where preactivations lie, and how far they have moved."""

from __future__ import annotations

import numpy as np

from keras_plasticity.probes.inputs import ProbeInputs
from keras_plasticity.probes.probe import NotApplicableError, probe


@probe("", needs=["preactivation"])
def preactivation_mean(inputs: ProbeInputs) -> dict[str, float]:
    """Mean over units of the mean preactivation: `mean_i E_x a_i(x)`.

    The preactivation is what enters the nonlinearity, after a normalisation that stands before.

    Args:
        inputs: `ProbeInputs`.
    """
    return {k: float(u["mean"].mean()) for k, u in inputs.units("preactivation").items()}


@probe("", needs=["preactivation"])
def preactivation_deviation(inputs: ProbeInputs) -> dict[str, float]:
    """Mean over units of the preactivation's standard deviation over examples and positions.

    Args:
        inputs: `ProbeInputs`.
    """
    return {k: float(np.sqrt(u["m2"]).mean()) for k, u in inputs.units("preactivation").items()}


@probe("", expensive=True, needs=["moments"])
def preactivation_skewness(inputs: ProbeInputs) -> dict[str, float]:
    """Mean over units of `m3 / m2**1.5` of the preactivation; 0 for units that are constant.

    Args:
        inputs: `ProbeInputs`.
    """
    return {k: _ratio(u["m3"], u["m2"] ** 1.5) for k, u in inputs.units("moments").items()}


@probe("", expensive=True, needs=["moments"])
def preactivation_kurtosis(inputs: ProbeInputs) -> dict[str, float]:
    """Mean over units of the excess kurtosis `m4 / m2**2 - 3`; 0 for the normal distribution.

    Args:
        inputs: `ProbeInputs`.
    """
    return {k: _ratio(u["m4"], u["m2"] ** 2, 3.0) for k, u in inputs.units("moments").items()}


def preactivation_histogram(inputs: ProbeInputs, bins: int = 30) -> dict[str, np.ndarray]:
    """Counts preactivations of each layer, all units together, about 16,000 of them.

    Args:
        inputs: `ProbeInputs`.
        bins: int, of equal width between the least and the largest value. Default 30.

    Returns:
        For each layer float64 rows (left, right, count), shape `(bins, 3)`; NaN where values
        are not finite.
    """
    found = {}
    for name, values in inputs.units("sketch").items():
        if not np.all(np.isfinite(values)):
            found[name] = np.full((bins, 3), np.nan)
            continue
        counts, edges = np.histogram(values, bins)
        found[name] = np.stack([edges[:-1], edges[1:], counts.astype(float)], 1)
    return found


@probe("deviations", better="lower", on="reference", needs=["preactivation"])
def preactivation_mean_shift(inputs: ProbeInputs) -> dict[str, float]:
    """How far units have moved since the beginning: `mean_i |mu_i - mu0_i| / sigma0_i`.

    Args:
        inputs: `ProbeInputs` with an `initial` snapshot of the same examples.

    Raises:
        NotApplicableError: there is no such snapshot.
    """
    found = {}
    for name, (now, then) in _since(inputs, "preactivation").items():
        shift = np.abs(now["mean"] - then["mean"])
        found[name] = _ratio(shift, np.sqrt(then["m2"]))
    return found


@probe("nats", better="none", on="reference", needs=["preactivation"])
def preactivation_log_variance_ratio(inputs: ProbeInputs) -> dict[str, float]:
    """How preactivations have spread since the beginning: `mean_i log(var_i / var0_i)`.

    Variances are clamped below at 1e-12.

    Args:
        inputs: `ProbeInputs` with an `initial` snapshot of the same examples.

    Raises:
        NotApplicableError: there is no such snapshot.
    """
    return {
        name: float(np.mean(np.log(_floor(now["m2"]) / _floor(then["m2"]))))
        for name, (now, then) in _since(inputs, "preactivation").items()
    }


@probe("deviations", better="lower", expensive=True, on="reference", needs=["samples"])
def preactivation_wasserstein(inputs: ProbeInputs) -> dict[str, float]:
    """Mean over units of the 1-Wasserstein distance to the beginning, in its deviations.

    `mean_i mean_k |sort(a_i)_k - sort(a0_i)_k| / sigma0_i`, on up to 2,048 examples and
    positions per chunk of examples.

    Args:
        inputs: `ProbeInputs` with an `initial` snapshot of the same examples that was taken
            after `inputs.units("samples")`.

    Raises:
        NotApplicableError: there is no such snapshot.
    """
    found = {}
    for name, (now, then) in _since(inputs, "samples").items():
        distance = np.abs(np.sort(now, 0) - np.sort(then, 0)).mean(0)
        found[name] = _ratio(distance, then.std(0))
    return found


def _since(inputs: ProbeInputs, piece: str) -> dict:
    """Pairs of what is and what was, of the layers that both know."""
    now, initial = inputs.units(piece), inputs.initial
    then = None if initial is None else getattr(initial, piece)
    if not then:
        raise NotApplicableError("the shift needs an `initial` snapshot of the same examples")
    return {name: (now[name], then[name]) for name in now if name in then}


def _floor(variance: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(variance), np.nan, np.maximum(variance, 1e-12))


def _ratio(a: np.ndarray, b: np.ndarray, less: float = 0.0) -> float:
    """Mean of a / b - less over the units at which b is not 0; NaN passes."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    there = b > 1e-24
    if not (np.all(np.isfinite(a)) and np.all(np.isfinite(b))):
        return float("nan")
    return float(np.mean(a[there] / b[there] - less)) if there.any() else 0.0
