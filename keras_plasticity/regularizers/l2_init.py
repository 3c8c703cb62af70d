"""A penalty on the distance from the initial weights."""

from __future__ import annotations

import math
import typing

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_plasticity")
class L2Init(keras.regularizers.Regularizer):
    """Pulls weights toward where they began: `strength * sum((w - w_initial)**2)`.

    Used by `kp.optimizers.Regularized`, which keeps and saves the initial weights: those when
    the optimizer is built.

    Args:
        strength: float, at least 0. Default 1e-2.

    Raises:
        ValueError: `strength` is out of its range.

    Reference:
        Kumar et al., "Maintaining Plasticity in Continual Learning via Regenerative
        Regularization", 2023, https://arxiv.org/abs/2308.11958. Their code has half of it, on
        all parameters but those of normalisations; other ports take means or norms that are not
        squared, so that strengths cannot be carried over.
    """

    def __init__(self, strength: float = 1e-2) -> None:
        if not 0 <= strength < math.inf:
            raise ValueError(f"`strength` must be at least 0. Received: strength={strength!r}")
        self.strength = strength

    def state(self, variable: keras.Variable) -> list:
        """What is kept for a weight: its initial value."""
        return [ops.convert_to_tensor(variable)]

    def __call__(self, x: typing.Any, initial: typing.Any) -> typing.Any:
        return self.strength * ops.sum(ops.square(x - ops.cast(initial, x.dtype)))

    def gradient(self, x: typing.Any, initial: typing.Any) -> typing.Any:
        """`2 * strength * (w - w_initial)`."""
        return 2 * self.strength * (x - ops.cast(initial, x.dtype))

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {"strength": self.strength}
