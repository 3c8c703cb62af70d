"""A penalty on the distance from the initial weights."""

from __future__ import annotations

import typing

import keras
from keras import ops

from keras_plasticity.regularizers.stateful_regularizer import StatefulRegularizer


@keras.saving.register_keras_serializable(package="keras_plasticity")
class L2Init(StatefulRegularizer):
    """Pulls weights toward where they began: `strength * sum((w - w_initial)**2)`.

    Used by `kp.optimizers.Regularized`, which keeps and saves the initial weights: those when
    the optimizer is built. It is the same as `keras.regularizers.L2` with
    `kp.optimizers.DecayPolicy(toward="initial")`.

    Example:

    ```python
    kp.optimizers.Regularized(keras.optimizers.Adam(1e-3), [kp.regularizers.L2Init(1e-2)])
    ```

    Args:
        strength: float, at least 0. Default 1e-2.

    Raises:
        ValueError: `strength` is out of its range; or it is used as `kernel_regularizer`.

    Reference:
        Kumar et al., "Maintaining Plasticity in Continual Learning via Regenerative
        Regularization", 2023, https://arxiv.org/abs/2308.11958.

    Deviations:
        The authors' code has half of it, on all parameters but those of normalisations; other
        ports take means or norms that are not squared, so that strengths cannot be carried over.
    """

    def __init__(self, strength: float = 1e-2) -> None:
        super().__init__(strength)

    def state(self, variable: keras.Variable) -> list:
        """What is kept for a weight: its initial value."""
        return [variable.value]

    def penalty(self, x: typing.Any, *state: typing.Any) -> typing.Any:
        """The penalty, a scalar."""
        (initial,) = state
        return self.strength * ops.sum(ops.square(x - ops.cast(initial, x.dtype)))

    def gradient(self, x: typing.Any, initial: typing.Any) -> typing.Any:
        """`2 * strength * (w - w_initial)`."""
        return 2 * self.strength * (x - ops.cast(initial, x.dtype))
