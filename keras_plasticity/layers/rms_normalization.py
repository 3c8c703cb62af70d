"""RMS normalisation with or without a learned scale."""

from __future__ import annotations

import typing

import keras


@keras.saving.register_keras_serializable(package="keras_plasticity")
class RMSNormalization(keras.layers.RMSNormalization):
    """`x * rsqrt(mean(square(x), axis) + epsilon) * scale`, with a scale per channel or none.

    Keras' own layer always learns a scale, and one per element of all of `axis`.

    Args:
        axis: int or tuple of int, axes the mean square is taken over. Defaults to -1.
        epsilon: float, keeps the root from zero. Defaults to 1e-6.
        affine: bool, whether to learn a scale per channel (last axis). Defaults to
            True.
        **kwargs: further arguments of `keras.layers.Layer`.
    """

    def __init__(
        self,
        axis: int | tuple[int, ...] = -1,
        epsilon: float = 1e-6,
        affine: bool = True,
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(axis=axis, epsilon=epsilon, **kwargs)
        self.affine = affine

    def build(self, input_shape: tuple) -> None:
        """Makes the variables."""
        shape = (input_shape[-1],)
        self.scale = (
            self.add_weight(name="scale", shape=shape, initializer="ones") if self.affine else None
        )
        self.built = True

    def call(self, x: typing.Any) -> typing.Any:
        """Computes the outputs."""
        outputs = keras.ops.rms_normalization(x, axis=self.axis, epsilon=self.epsilon)
        return outputs if self.scale is None else outputs * self.scale

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "affine": self.affine}
