"""A penalty that keeps the weight vectors of a layer's units orthogonal."""

from __future__ import annotations

import math
import typing

import keras
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

    It remembers nothing, so it also works as `kernel_regularizer` of Keras.

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

    Raises:
        ValueError: an argument is out of its range.

    Reference:
        Chung et al., "Parseval Regularization for Continual Reinforcement Learning", 2024,
        https://arxiv.org/abs/2412.07224.

    Deviations:
        There are neither groups of units nor the normalisation of rows that the authors' code
        offers. Keras kernels are the transpose of the paper's matrices.
    """

    def __init__(self, strength: float = 1e-3, scale: float = 2.0) -> None:
        self.strength = checked(strength)
        if not 0 < scale < math.inf:
            raise ValueError(f"`scale` must be above 0. Received: scale={scale!r}")
        self.scale = scale

    def applied_to(self, variable: keras.Variable) -> typing.Any:
        """The penalty of a weight: none of vectors."""
        return self if len(variable.shape) >= 2 else None

    def __call__(self, x: typing.Any) -> typing.Any:
        _, apart, strength = self._apart(x)
        return strength * ops.sum(ops.square(apart))

    def gradient(self, x: typing.Any) -> typing.Any:
        """`4 * strength * (64 / units)**2 * K @ (K.T @ K - scale * I)`."""
        kernel, apart, strength = self._apart(x)
        return ops.reshape(4 * strength * ops.matmul(kernel, apart), x.shape)

    def _apart(self, x: typing.Any) -> tuple:
        kernel = matrix(x)
        units = kernel.shape[-1]
        eye = ops.cast(self.scale, kernel.dtype) * ops.eye(units, dtype=kernel.dtype)
        apart = ops.matmul(ops.transpose(kernel), kernel) - eye
        return kernel, apart, self.strength * (64 / units) ** 2

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {"strength": self.strength, "scale": self.scale}
