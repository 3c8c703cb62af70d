"""A learnable factor per unit."""

from __future__ import annotations

import typing

import keras


@keras.saving.register_keras_serializable(package="keras_plasticity")
class Diagonal(keras.layers.Layer):
    """Multiplies each unit by a factor of its own: `outputs = inputs * scale`.

    Use it behind layers whose kernels `kp.regularizers.ParsevalRegularizer` keeps orthogonal,
    between kernel and nonlinearity, so that the network can express what layers of one
    length cannot. The factors start at 1, and then the layer changes nothing.

    Example:
    >>> outputs = Diagonal()(np.ones((2, 3), "float32"))

    Args:
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        inputs: floating-point tensor of shape `(..., units)`.

    Attributes:
        scale: weight of shape `(units,)`. No kernel: policies that choose kernels leave it.

    Reference:
        Chung et al., "Parseval Regularization for Continual Reinforcement Learning", 2024,
        https://arxiv.org/abs/2412.07224.

    Deviations:
        None known.
    """

    def __init__(self, **kwargs: typing.Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: tuple) -> None:
        """Makes the factors."""
        self.scale = self.add_weight(name="scale", shape=(input_shape[-1],), initializer="ones")

    def call(self, inputs: typing.Any) -> typing.Any:
        """Computes the outputs."""
        return inputs * keras.ops.cast(self.scale, inputs.dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape of the outputs."""
        return input_shape
