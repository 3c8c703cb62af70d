"""A penalty on the size of features."""

from __future__ import annotations

import typing

import keras
from keras import ops

from keras_plasticity.regularizers.stateful_regularizer import checked


@keras.saving.register_keras_serializable(package="keras_plasticity")
class FeatureNorm(keras.regularizers.Regularizer):
    """Keeps features small: `strength * mean over examples of sum(phi(x)**2)`.

    An `activity_regularizer` of a layer, whose outputs are the features; positions are summed
    like units. Keras divides what it returns, the sum over a batch, by the number of examples,
    and adds that to the loss, also to the one that is reported. In float32 it is
    `keras.regularizers.L2(strength)`; in half precision squares are summed in float32, where
    those of Keras overflow.

    Example:

    ```python
    keras.layers.Dense(256, "relu", activity_regularizer=kp.regularizers.FeatureNorm(1e-3))
    layer.activity_regularizer = kp.regularizers.FeatureNorm(1e-3)  # before `compile`
    ```

    Args:
        strength: float, at least 0. Default 1e-3.

    Raises:
        ValueError: `strength` is out of its range.

    Reference:
        Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks", 2024,
        https://arxiv.org/abs/2402.18762, which compares it to L2 and finds it weaker.

    Deviations:
        The strength is not stated there.
    """

    def __init__(self, strength: float = 1e-3) -> None:
        self.strength = checked(strength)

    def __call__(self, x: typing.Any) -> typing.Any:
        half = keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16")
        x = ops.cast(x, "float32") if half else x
        return self.strength * ops.sum(ops.square(x))

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {"strength": self.strength}
