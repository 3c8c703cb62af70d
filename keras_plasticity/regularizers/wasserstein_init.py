"""A penalty on the distance from the distribution of the initial weights."""

from __future__ import annotations

import math
import typing

import keras
import tensorflow as tf
from keras import ops

from keras_plasticity.regularizers.stateful_regularizer import StatefulRegularizer


@keras.saving.register_keras_serializable(package="keras_plasticity")
class WassersteinInit(StatefulRegularizer):
    """Keeps the values of a weight distributed as at its start, whichever entry has which.

    ```python
    strength * sum((sort(w) - sort(w_initial))**2) / size(w)
    ```

    This is the squared 2-Wasserstein distance between the two sets of entries. Use it where
    `L2Init` holds too much of what was learnt: entries may change places at no cost. It sorts
    every weight at every step.

    Example:

    ```python
    kp.optimizers.Regularized(keras.optimizers.Adam(1e-3), [kp.regularizers.WassersteinInit()])
    ```

    Args:
        strength: float, at least 0. Default 1e-3. It multiplies a mean over entries, that of
            `L2Init` a sum.

    Raises:
        ValueError: `strength` is out of its range; or it is used as `kernel_regularizer`.

    Reference:
        Lewandowski et al., "Directions of Curvature as an Explanation for Loss of Plasticity",
        2023, https://arxiv.org/abs/2312.00246. The mean over entries and the default: the
        code of Chung et al., "Parseval Regularization for Continual Reinforcement Learning",
        2024, https://arxiv.org/abs/2412.07224.

    Deviations:
        None known from that code.
    """

    def __init__(self, strength: float = 1e-3) -> None:
        super().__init__(strength)

    def state(self, variable: keras.Variable) -> list:
        """What is kept for a weight: its initial entries in ascending order."""
        return [ops.sort(ops.reshape(variable.value, (-1,)))]

    def penalty(self, x: typing.Any, *state: typing.Any) -> typing.Any:
        """The penalty, a scalar."""
        return self.strength * ops.mean(ops.square(self._apart(x, *state)))

    def gradient(self, x: typing.Any, initial: typing.Any) -> typing.Any:
        """`2 * strength / size * (w - partner)`, `partner` the initial entry of the same rank."""
        return 2 * self.strength / math.prod(x.shape) * self._apart(x, initial)

    @staticmethod
    def _apart(x: typing.Any, initial: typing.Any) -> typing.Any:
        """Each entry less the initial one of its rank."""
        order = tf.argsort(tf.reshape(x, (-1,)))
        partner = tf.scatter_nd(order[:, None], ops.cast(initial, x.dtype), tf.shape(initial))
        return x - tf.reshape(partner, x.shape)
