"""Weights that never leave a bound set by the number of their inputs."""

from __future__ import annotations

import math
import typing

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_plasticity")
class WeightClipping(keras.constraints.Constraint):
    """Clips a weight to `[-kappa / sqrt(fan_in), kappa / sqrt(fan_in)]` after each update.

    `fan_in` is the number of inputs of a unit: `inputs` of a `Dense` kernel
    `(inputs, units)`, `window * channels` of a convolution `(*window, channels, filters)`. The
    shape of a bias does not say it, so a bias takes it from the kernel of its layer:
    `kp.constraints.constrain` sees to that, elsewhere give `fan_in`. It is no constraint for
    scales and offsets of normalisations, which have no inputs to count.

    Kernels of another layout (depthwise and transposed convolutions, `EinsumDense` with several
    axes) need `fan_in`; `constrain` knows it.

    Example:

    ```python
    keras.layers.Dense(64, kernel_constraint=kp.constraints.WeightClipping(2.0),
                       bias_constraint=kp.constraints.WeightClipping(2.0, fan_in=784))
    kp.constraints.constrain(model, kp.constraints.WeightClipping(2.0))  # one built already
    ```

    Args:
        kappa: float above 0; 1 to 5 is usual. Default 2.0.
        fan_in: int, at least 1. Default None: from the shape, of two axes or more.

    Raises:
        ValueError: an argument is out of its range; or a vector is clipped without `fan_in`.

    Reference:
        Elsayed et al., "Weight Clipping for Deep Continual and Reinforcement Learning", 2024,
        https://arxiv.org/abs/2407.01704.

    Deviations:
        In the authors' code a bias takes the bound of the weight before it in the list of
        parameters, and so would parameters of normalisations. Weights are not clipped before
        the first update.
    """

    def __init__(self, kappa: float = 2.0, fan_in: int | None = None) -> None:
        if not (isinstance(kappa, (int, float)) and 0 < kappa < math.inf):
            raise ValueError(f"`kappa` must be above 0. Received: kappa={kappa!r}")
        if fan_in is not None and not (isinstance(fan_in, int) and fan_in >= 1):
            raise ValueError(
                f"`fan_in` must be a whole number above 0, or None. Received: fan_in={fan_in!r}"
            )
        self.kappa, self.fan_in = kappa, fan_in

    def bound(self, shape: typing.Sequence[int]) -> float:
        """Returns the largest absolute value that a weight of this shape may have."""
        if self.fan_in is None and len(shape) < 2:
            raise ValueError(
                "`fan_in` must be given for a vector, whose shape does not say how many inputs a "
                f"unit has. Received: fan_in=None, shape={tuple(shape)}"
            )
        return self.kappa / math.sqrt(self.fan_in or math.prod(shape[:-1]))

    def with_fan_in(self, fan_in: int) -> WeightClipping:
        """Returns one of the same kind for weights of units with so many inputs."""
        return WeightClipping(self.kappa, self.fan_in or fan_in)

    def __call__(self, w: typing.Any) -> typing.Any:
        bound = self.bound(w.shape)
        return ops.clip(w, -bound, bound)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {"kappa": self.kappa, "fan_in": self.fan_in}
