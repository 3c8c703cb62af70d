"""A penalty that keeps the weight vectors of a layer's units orthogonal."""

from __future__ import annotations

import math
import typing

import keras
import tensorflow as tf
from keras import ops

from keras_plasticity.regularizers.spectral_regularizer import matrix
from keras_plasticity.regularizers.stateful_regularizer import checked


@keras.saving.register_keras_serializable(package="keras_plasticity")
class ParsevalRegularizer(keras.regularizers.Regularizer):
    """Keeps the weight vectors of the units of a layer orthogonal and of one length.

    ```python
    strength * (64 / units)**2 * sum((K.T @ K - scale * I)**2)  # K: kernel (inputs, units)
    ```

    It is meant for the matrices **between hidden layers**: leave the first and the last
    kernel out by the policy. Use orthogonal initializers of gain `sqrt(scale)`, and
    `kp.layers.Diagonal` behind the layers to give back what networks of orthogonal layers
    cannot express. Convolutional kernels are taken as matrices (all axes but the last, the
    last); biases and other vectors have no penalty.

    It is zero where the units' vectors are orthogonal with squared length `scale`, which
    needs at least as many inputs as units; with fewer inputs the least it can be is
    `strength * (64 / units)**2 * scale**2 * (units - inputs)`.

    Its two products of matrices cost about half of a plain step of an MLP of equal layers at a
    batch of half their width, and less at larger ones. With `turns=2` half of the units have
    their turn at a step, with twice the strength, at half the cost; the mean over two steps is
    the same. Where `turns` does not divide the units, the last of them have a smaller turn.

    With `turns=1` it remembers nothing, so it also works as `kernel_regularizer` of Keras.

    Example:

    ```python
    kp.optimizers.Regularized(
        keras.optimizers.Adam(1e-3),
        [kp.regularizers.ParsevalRegularizer(1e-3)],
        kp.optimizers.DecayPolicy("dense_[12]/kernel"),  # of dense_0 ... dense_2, logits
    )
    ```

    Args:
        strength: float, at least 0. Default 1e-3.
        scale: float above 0, squared length of the units' vectors, the square of the gain of
            the initializer. Default 2.0, for ReLU with a gain of `sqrt(2)`.
        turns: int, steps in which every unit has its turn once. Default 1: all at each step.

    Raises:
        ValueError: an argument is out of its range.

    Reference:
        Chung et al., "Parseval Regularization for Continual Reinforcement Learning", 2024,
        https://arxiv.org/abs/2412.07224.

    Deviations:
        There are neither groups of units nor the normalisation of rows that the authors' code
        offers. Keras kernels are the transpose of the paper's matrices.
    """

    def __init__(self, strength: float = 1e-3, scale: float = 2.0, turns: int = 1) -> None:
        self.strength = checked(strength)
        if not 0 < scale < math.inf:
            raise ValueError(f"`scale` must be above 0. Received: scale={scale!r}")
        if not isinstance(turns, int) or turns < 1:
            raise ValueError(f"`turns` must be a whole number above 0. Received: turns={turns!r}")
        self.scale, self.turns = scale, turns

    def applied_to(self, variable: keras.Variable) -> typing.Any:
        """The penalty of a weight: none of vectors."""
        return self if len(variable.shape) >= 2 else None

    def state(self, variable: keras.Variable) -> list:
        """What is kept for a kernel: whose turn it is, where units take turns."""
        return [] if self.turns == 1 else [ops.zeros(())]

    def update(self, x: typing.Any, *state: typing.Any) -> list:
        """Counts."""
        return [(tf.convert_to_tensor(count) + 1) % self.turns for count in state]

    def __call__(self, x: typing.Any, *state: typing.Any) -> typing.Any:
        kernel = matrix(x)
        eye = ops.eye(kernel.shape[-1], dtype=kernel.dtype)
        product = ops.matmul(ops.transpose(kernel), kernel)
        return self._factor(kernel) * ops.sum(ops.square(product - self.scale * eye))

    def gradient(self, x: typing.Any, *state: typing.Any) -> typing.Any:
        """`4 * strength * (64 / units)**2 * (K @ (K.T @ K) - scale * K)`, of units in turn."""
        kernel = matrix(x)
        units, part = kernel.shape[-1], kernel
        size = -(-units // self.turns)
        if state:
            first = ops.cast(state[0] % self.turns, "int32") * size
            part = tf.gather(kernel, (first + tf.range(size)) % units, axis=1)
        apart = ops.matmul(kernel, tf.matmul(kernel, part, transpose_a=True)) - self.scale * part
        slope = 4 * self._factor(kernel) * apart
        if state:  # back to the columns it came from
            fresh = first + tf.range(size) < units  # those behind had their turn already
            slope = slope * self.turns * ops.cast(fresh, slope.dtype)
            slope = tf.pad(slope, [[0, 0], [0, units - size]])
            slope = tf.roll(slope, first, axis=1)
        return ops.reshape(slope, x.shape)

    def _factor(self, kernel: typing.Any) -> float:
        return self.strength * (64 / kernel.shape[-1]) ** 2

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {"strength": self.strength, "scale": self.scale, "turns": self.turns}
