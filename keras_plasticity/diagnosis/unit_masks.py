"""Which units of a layer are dead, linear, constant, or copies of others."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_plasticity.probes.inputs import ProbeInputs
from keras_plasticity.probes.unit_state import slopes_below_zero, straight
from keras_plasticity.units import UnitGroup

FLAT = 1e-3  # largest slope of a dead unit
STRAIGHT = 0.01  # share of the variance, or of the examples, that is not on the line
ALIKE = 0.95  # least cosine of copies
_CONSTANT = 1e-10  # variance beside the mean square


@dataclasses.dataclass(frozen=True)
class Units:
    """The units of one layer.

    Attributes:
        group: the `UnitGroup`.
        dead: bool, shape `(size,)`: passes no gradient on any example.
        constant: bool: alive, and does not depend on the input: layers before it are dead.
        linear: bool: neither dead nor constant, and a straight line on all examples.
        copies: bool: living units that copy another one, which is not marked.
    """

    group: UnitGroup
    dead: np.ndarray
    constant: np.ndarray
    linear: np.ndarray
    copies: np.ndarray

    @property
    def alive(self) -> np.ndarray:
        """Units that are neither dead nor constant."""
        return ~self.dead & ~self.constant

    @property
    def distinct(self) -> np.ndarray:
        """Living units without the copies."""
        return self.alive & ~self.copies


def units(inputs: ProbeInputs) -> list[Units]:
    """Returns the units of each layer with a nonlinearity, in the order of computation.

    As in `probes.linearised_fraction`, a ReLU channel that is off at nearly all positions is
    not linear: it still tells some examples from others.

    Raises:
        NotApplicableError: the model has none.
    """
    preactivation = inputs.units("preactivation")
    slopes, fits = inputs.units("derivative"), inputs.units("fit")
    activity, features = inputs.units("activity"), inputs.units("features")
    below = slopes_below_zero(inputs)
    found = []
    for group in inputs.groups:
        if group.name not in preactivation or group.name not in activity:
            continue
        a, h = preactivation[group.name], activity[group.name]
        slope = slopes[group.name]["max"] if group.name in slopes else 1 - (h["silent"] >= 1)
        dead = slope < FLAT
        constant = ~dead & (a["m2"] <= _CONSTANT * (a["mean"] ** 2 + 1e-20))
        linear = straight(below[group.name], a["positive"], fits[group.name], STRAIGHT)
        linear &= ~dead & ~constant
        same = copies(features[group.name], kernel(group), ~dead & ~constant)
        found.append(Units(group, dead, constant, linear, same))
    return found


def kernel(group: UnitGroup) -> np.ndarray | None:
    """Returns the weights into each unit, shape `(inputs, size)`; None where they have no such."""
    for piece in group.incoming:
        shape = piece.variable.shape
        axes = list(range(len(shape)))
        units_first = axes[piece.start : piece.stop] + axes[: piece.start] + axes[piece.stop :]
        others = int(np.prod(shape)) // max(len(piece.owner), 1)
        if others < 2 or len(piece.owner) < group.size:
            continue
        values = np.asarray(piece.variable.value, np.float64).transpose(units_first)
        rows = values.reshape(len(piece.owner), others)
        if len(piece.owner) == group.size:
            return rows[np.argsort(piece.owner, kind="stable")].T
    return None


def copies(
    features: np.ndarray | None, weights: np.ndarray | None, alive: np.ndarray
) -> np.ndarray:
    """Returns which living units copy another one, by activations and by weights.

    Args:
        features: float, shape `(examples, size)`, or None: weights alone count.
        weights: float, shape `(inputs, size)`, or None: activations alone count.
        alive: bool, shape `(size,)`.
    """
    similar = np.ones((len(alive), len(alive)), bool)
    if features is not None:
        similar &= _cosines(features - features.mean(0, dtype=np.float64)) > ALIKE
    if weights is not None:
        similar &= _cosines(weights) > ALIKE
    return alive & ~leaders(similar, alive)


def leaders(similar: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Returns which units stand for themselves: each other one is similar to one before it.

    Args:
        similar: bool, shape `(size, size)`.
        alive: bool, shape `(size,)`, units that count.
    """
    chosen = np.zeros(len(alive), bool)
    for i in np.flatnonzero(alive):
        chosen[i] = not np.any(similar[i] & chosen)
    return chosen


def _cosines(columns: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(columns, axis=0)
    unit = np.divide(columns, norm, out=np.zeros_like(columns), where=norm > 1e-12)
    return unit.T @ unit
