"""A penalty that keeps the largest singular value of each kernel at one."""

from __future__ import annotations

import math
import typing

import keras
import numpy as np
from keras import ops

from keras_plasticity.regularizers.stateful_regularizer import StatefulRegularizer

_GAINS, _SHIFTS, _BIASES = ("gamma",), ("beta", "offset"), ("bias",)
_TINY = 1e-12


@keras.saving.register_keras_serializable(package="keras_plasticity")
class SpectralRegularizer(StatefulRegularizer):
    """Keeps the largest singular value of each kernel at one, and biases at zero.

    ```python
    strength * ((sigma(W)**power - 1)**2)              # kernels, see below
    strength * sum(b**2)**power                        # biases
    strength * sum((gamma**power - 1)**2)              # scales of normalisations
    strength * sum(beta**(2 * power))                  # their offsets
    ```

    Scales and offsets are known by the names `gamma` and `beta`. What is neither a kernel nor
    named so is left alone: also all that is named `scale`, since a weight does not tell whether
    it is that of an `RMSNormalization` or of a layer that is to learn another one
    (`kp.layers.Diagonal`, `kp.layers.NormalizedLogits`). Which of them are reached is said by
    the policy of `kp.optimizers.Regularized`: kernels alone by default, all with
    `DecayPolicy("all")`.

    `sigma` is the largest singular value of the kernel as a matrix (all axes but the last, the
    last). For `Dense` that is the operator norm. For a convolution it is the **norm of the
    reshaped kernel**, a lower bound of the operator norm; the square root of the number of
    places in the window times it is an upper bound. It comes from one power iteration per
    step, with singular vectors that are kept from step to step and saved:

    ```python
    v = W @ u / norm(W @ u);  u = W.T @ v / norm(W.T @ v)  # no gradient passes here
    sigma = v @ W @ u
    ```

    Example:

    ```python
    kp.optimizers.Regularized(
        keras.optimizers.Adam(1e-3),
        [kp.regularizers.SpectralRegularizer(1e-4)],
        kp.optimizers.DecayPolicy("all"),
    )
    ```

    Args:
        strength: float, at least 0. Default 1e-4.
        power: int, at least 1, `k` of the paper. Default 2.

    Raises:
        ValueError: an argument is out of its range; or it is used as `kernel_regularizer`.

    Reference:
        Lewandowski et al., "Learning Continually by Spectral Regularization", 2024,
        https://arxiv.org/abs/2406.06811.

    Deviations:
        The scale of `RMSNormalization` has no penalty, see above.
        No code of the authors was found; the default strength is that of ports. The singular
        vectors start from fixed random numbers, and at the first steps sigma is too small.
    """

    def __init__(self, strength: float = 1e-4, power: int = 2) -> None:
        super().__init__(strength)
        if not isinstance(power, int) or power < 1:
            raise ValueError(f"`power` must be a whole number above 0. Received: power={power!r}")
        self.power = power

    def applied_to(self, variable: keras.Variable) -> typing.Any:
        """The penalty of a weight, by what it is."""
        k = self.power
        if variable.name in _GAINS:
            return lambda x: self.strength * ops.sum(ops.square(x**k - 1))
        if variable.name in _SHIFTS:
            return lambda x: self.strength * ops.sum(x ** (2 * k))
        if variable.name in _BIASES:
            return lambda x: self.strength * ops.sum(ops.square(x)) ** k
        return self if len(variable.shape) >= 2 else None

    def state(self, variable: keras.Variable) -> list:
        """What is kept for a kernel: its singular vectors, of the outputs and of the inputs."""
        outputs = variable.shape[-1]
        inputs = math.prod(variable.shape[:-1])
        u = np.random.default_rng([outputs, inputs]).normal(size=outputs).astype("float32")
        u /= np.linalg.norm(u)
        return list(self.update(ops.cast(variable.value, "float32"), u, None))

    def update(self, x: typing.Any, u: typing.Any, v: typing.Any) -> list:
        """One power iteration."""
        w = matrix(x)
        v = ops.matmul(w, ops.cast(u, w.dtype))
        v = v / ops.maximum(ops.norm(v), _TINY)
        new = ops.matmul(v, w)
        size = ops.norm(new)
        # A kernel of zeros would leave no direction to go on from.
        return [ops.where(size > _TINY, new / ops.maximum(size, _TINY), ops.cast(u, w.dtype)), v]

    def penalty(self, x: typing.Any, *state: typing.Any) -> typing.Any:
        """The penalty of a kernel, a scalar."""
        sigma, _, _ = self._sigma(x, *state)
        return self.strength * ops.square(sigma**self.power - 1)

    def gradient(self, x: typing.Any, u: typing.Any, v: typing.Any) -> typing.Any:
        """`2 * strength * (sigma**k - 1) * k * sigma**(k - 1) * outer(v, u)`."""
        sigma, u, v = self._sigma(x, u, v)
        k = self.power
        slope = 2 * self.strength * (sigma**k - 1) * k * sigma ** (k - 1)
        return ops.reshape(slope * v[:, None] * u[None, :], x.shape)

    @staticmethod
    def _sigma(x: typing.Any, u: typing.Any, v: typing.Any) -> tuple:
        w = matrix(x)
        u, v = ops.cast(u, w.dtype), ops.cast(v, w.dtype)
        return ops.sum(ops.matmul(v, w) * u), u, v

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "power": self.power}


def matrix(x: typing.Any) -> typing.Any:
    """Returns a kernel as a matrix: all axes but the last, the last (the outputs)."""
    return ops.reshape(x, (-1, x.shape[-1]))
