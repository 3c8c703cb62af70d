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
    `L2Init` holds too much of what was learnt: entries may change places at no cost.

    Sorting is slow on a CPU (784-256x3-10 MLP, batch 128, XLA: 26 times the plain step). With
    `every=100` an entry keeps for 100 steps the initial value it is pulled to, since ranks
    change slowly, and a step costs what it costs with `L2Init` but for one in a hundred.

    Example:

    ```python
    kp.optimizers.Regularized(keras.optimizers.Adam(1e-3), [kp.regularizers.WassersteinInit()])
    ```

    Args:
        strength: float, at least 0. Default 1e-3. It multiplies a mean over entries, that of
            `L2Init` a sum.
        every: int, steps from one sorting to the next. Default 1: exact.

    Raises:
        ValueError: an argument is out of its range; or it is used as `kernel_regularizer`.

    Reference:
        Lewandowski et al., "Directions of Curvature as an Explanation for Loss of Plasticity",
        2023, https://arxiv.org/abs/2312.00246. The mean over entries and the default: the
        code of Chung et al., "Parseval Regularization for Continual Reinforcement Learning",
        2024, https://arxiv.org/abs/2412.07224.

    Deviations:
        None known from that code at `every=1`.
    """

    def __init__(self, strength: float = 1e-3, every: int = 1) -> None:
        super().__init__(strength)
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be a whole number above 0. Received: every={every!r}")
        self.every = every

    def state(self, variable: keras.Variable) -> list:
        """What is kept for a weight: its initial entries in ascending order.

        With `every` above 1 also the entry that each is pulled to, and the steps since.
        """
        initial = ops.sort(ops.reshape(variable.value, (-1,)))
        return [initial] if self.every == 1 else [initial, variable.value, ops.zeros(())]

    def update(self, x: typing.Any, *state: typing.Any) -> list:
        """Sorts, where it is time to."""
        if self.every == 1:
            return [None]
        initial, partner, count = map(tf.convert_to_tensor, state)
        due = tf.equal(count, 0)
        new = tf.cond(due, lambda: ops.cast(_partner(x, initial), partner.dtype), lambda: partner)
        return [None, new, (count + 1) % self.every]

    def penalty(self, x: typing.Any, *state: typing.Any) -> typing.Any:
        """The penalty, a scalar."""
        return self.strength * ops.mean(ops.square(x - _partner(x, state[0])))

    def gradient(self, x: typing.Any, *state: typing.Any) -> typing.Any:
        """`2 * strength / size * (w - partner)`, `partner` the initial entry of the same rank."""
        partner = _partner(x, state[0]) if self.every == 1 else ops.cast(state[1], x.dtype)
        return 2 * self.strength / math.prod(x.shape) * (x - partner)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "every": self.every}


def _partner(x: typing.Any, initial: typing.Any) -> typing.Any:
    """The initial entry of the rank of each entry."""
    order = tf.argsort(tf.reshape(x, (-1,)))
    partner = tf.scatter_nd(order[:, None], ops.cast(initial, x.dtype), tf.shape(initial))
    return tf.reshape(partner, x.shape)
