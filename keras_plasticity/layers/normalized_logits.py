"""Logits that cannot grow: cosines between features and class vectors."""

from __future__ import annotations

import math
import typing

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_plasticity")
class NormalizedLogits(keras.layers.Layer):
    """Cosines of the features with a vector per class, times a scale.

    Use it as the last layer of a classifier, or for action values, where logits grow until
    the softmax saturates. No logit leaves `[-scale, scale]`, however large weights become.

    ```python
    x = inputs / sqrt(sum(inputs**2) + epsilon)
    w = kernel / sqrt(sum(kernel**2, axis=0) + epsilon)
    outputs = scale * x @ w
    ```

    The gradient of the kernel is at right angles to each class vector and falls as the vector
    grows, as before a normalisation layer: give it weight decay, or its steps become small.

    Args:
        units: int, classes.
        scale: float above 0, the inverse of the softmax's temperature. Default 10.0.
        learn_scale: bool, whether the scale is trained; then it bounds nothing by itself.
            Default False.
        epsilon: float above 0, keeps the roots from zero. Default 1e-12.
        kernel_initializer: as in `keras.layers.Dense`. Default `"glorot_uniform"`.
        kernel_regularizer: as in `keras.layers.Dense`. Default None.
        kernel_constraint: as in `keras.layers.Dense`. Default None.
        **kwargs: further arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: features, shape `(..., features)`. Norms are computed in float32 at least.

    Returns:
        Logits, shape `(..., units)`, in the compute dtype.

    Raises:
        ValueError: an argument is out of its range.

    References:
        Wang et al., "NormFace: L2 Hypersphere Embedding for Face Verification", 2017,
        https://arxiv.org/abs/1704.06369. The scale and its default: Gidaris and Komodakis,
        "Dynamic Few-Shot Visual Learning without Forgetting", 2018,
        https://arxiv.org/abs/1804.09458, who train it.
    """

    def __init__(
        self,
        units: int,
        scale: float = 10.0,
        learn_scale: bool = False,
        epsilon: float = 1e-12,
        kernel_initializer: typing.Any = "glorot_uniform",
        kernel_regularizer: typing.Any = None,
        kernel_constraint: typing.Any = None,
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(units, bool) or not isinstance(units, int) or units < 1:
            raise ValueError(f"`units` must be a positive int. Received: units={units!r}")
        for name, value in (("scale", scale), ("epsilon", epsilon)):
            if not 0 < value < math.inf:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value!r}")
        self.units, self.scale, self.epsilon = units, scale, epsilon
        self.learn_scale = learn_scale
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)

    def build(self, input_shape: tuple) -> None:
        """Makes the variables."""
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], self.units),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.learned_scale = (
            self.add_weight(
                name="scale", shape=(), initializer=keras.initializers.Constant(self.scale)
            )
            if self.learn_scale
            else None
        )
        self.built = True

    def call(self, inputs: typing.Any) -> typing.Any:
        """Computes the outputs."""
        x, w = _unit(inputs, -1, self.epsilon), _unit(self.kernel, 0, self.epsilon)
        cosines = ops.matmul(ops.cast(x, self.compute_dtype), ops.cast(w, self.compute_dtype))
        scale = self.scale if self.learned_scale is None else self.learned_scale
        return cosines * ops.cast(scale, cosines.dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape of the outputs."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "units": self.units,
            "scale": self.scale,
            "learn_scale": self.learn_scale,
            "epsilon": self.epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
        }


def _unit(x: typing.Any, axis: int, epsilon: float) -> typing.Any:
    x = ops.convert_to_tensor(x)
    wide = "float64" if keras.backend.standardize_dtype(x.dtype) == "float64" else "float32"
    x = ops.cast(x, wide)
    return x * ops.rsqrt(ops.sum(ops.square(x), axis=axis, keepdims=True) + epsilon)
