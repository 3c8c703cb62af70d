"""A leaky ReLU without a kink."""

from __future__ import annotations

import typing

import keras


@keras.saving.register_keras_serializable(package="keras_plasticity")
class SmoothLeakyReLU(keras.layers.Layer):
    """`alpha * x + (1 - alpha) * x * sigmoid(c * x / p)`.

    Far from zero it is a line of slope `alpha` on the left and 1 on the right; between, the
    slope changes smoothly. With the defaults it is nowhere below 0.01; with an `alpha` below
    about 0.09 it is negative in places.

    Example:
    >>> SmoothLeakyReLU()(np.array([[0.0, 100.0]], "float32")).numpy().tolist()
    [[0.0, 100.0]]

    Args:
        alpha: float in [0, 1], slope far below zero. Default 0.1.
        p: positive float, width of the bend. Default 3.
        c: positive float, steepness of the bend; only `c / p` counts. Default 5.
        **kwargs: further arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is out of its range.

    Reference:
        Lillo, Cheney, "Activation Function Design Sustains Plasticity in Continual Learning",
        2025, https://arxiv.org/abs/2509.22562.

    Deviations:
        None known. The variant of the paper whose slope is drawn at random is not built.
    """

    def __init__(
        self, alpha: float = 0.1, p: float = 3.0, c: float = 5.0, **kwargs: typing.Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= alpha <= 1:
            raise ValueError(f"`alpha` must be in [0, 1]. Received: alpha={alpha!r}")
        for name, value in (("p", p), ("c", c)):
            if not value > 0:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value!r}")
        self.alpha, self.p, self.c = float(alpha), float(p), float(c)
        self.supports_masking = True
        self.built = True

    def call(self, inputs: typing.Any) -> typing.Any:
        """Computes the outputs."""
        gate = keras.ops.sigmoid(inputs * (self.c / self.p))
        return inputs * (self.alpha + (1 - self.alpha) * gate)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape of the outputs."""
        return input_shape

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "alpha": self.alpha, "p": self.p, "c": self.c}
