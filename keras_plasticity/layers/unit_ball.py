"""Features of length one."""

from __future__ import annotations

import typing

import keras


@keras.saving.register_keras_serializable(package="keras_plasticity")
class UnitBall(keras.layers.UnitNormalization):
    """`x / max(norm(x, axis), epsilon)`, safe at zero and in half precision.

    Use it on the features before the output layer, whose kernel alone then sets the scale of
    values that grow without bound (output feature normalisation).

    `keras.layers.UnitNormalization` has a gradient of 1e12 where all features are zero, as
    after ReLU in a layer of dead units, NaN under XLA and in half precision; and it returns
    zeros in half precision where the sum of squares is above 65,504.

    Example:
    >>> UnitBall()(np.array([[3.0, 4.0], [0.0, 0.0]], "float32")).numpy().round(1).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]

    Args:
        axis: int or list of int, axes that the length is taken over. Default -1.
        epsilon: float, shorter vectors are divided by it, which bounds the gradient by
            `1 / epsilon`. Default 1e-3.
        **kwargs: further arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `epsilon` is not positive.

    Reference:
        Hussing et al., "Dissecting Deep RL with High Update Ratios: Combatting Value
        Divergence", 2024, https://arxiv.org/abs/2403.05996.

    Deviations:
        Vectors shorter than `epsilon` stay shorter than 1, and zero stays zero, where the
        formula has no value.
    """

    def __init__(
        self, axis: int | list[int] = -1, epsilon: float = 1e-3, **kwargs: typing.Any
    ) -> None:
        super().__init__(axis=axis, **kwargs)
        if not epsilon > 0:
            raise ValueError(f"`epsilon` must be positive. Received: epsilon={epsilon!r}")
        self.epsilon = epsilon

    def call(self, inputs: typing.Any) -> typing.Any:
        """Computes the outputs."""
        return keras.ops.cast(unit_length(inputs, self.axis, self.epsilon), inputs.dtype)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "epsilon": self.epsilon}


def unit_length(x: typing.Any, axis: typing.Any, epsilon: float) -> typing.Any:
    """Returns `x / max(norm(x, axis), epsilon)`, in float32 or better."""
    ops = keras.ops
    x = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
    total = ops.sum(ops.square(x), axis=axis, keepdims=True)
    return x * ops.rsqrt(ops.maximum(total, epsilon**2))
