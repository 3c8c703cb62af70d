"""Activations that learn to be linear where they are flat."""

from __future__ import annotations

import math
import typing

import keras


def _tanh_slope(x: typing.Any) -> typing.Any:
    return 1 - keras.ops.square(keras.ops.tanh(x))


def _relu_slope(x: typing.Any) -> typing.Any:
    return keras.ops.cast(x > 0, x.dtype)


def _gelu_slope(x: typing.Any) -> typing.Any:
    ops = keras.ops
    density = ops.exp(-ops.square(x) / 2) / math.sqrt(2 * math.pi)
    return (1 + ops.erf(x / math.sqrt(2))) / 2 + x * density


def _silu_slope(x: typing.Any) -> typing.Any:
    gate = keras.ops.sigmoid(x)
    return gate * (1 + x * (1 - gate))


def _sigmoid_slope(x: typing.Any) -> typing.Any:
    gate = keras.ops.sigmoid(x)
    return gate * (1 - gate)


# Derivative, and the largest absolute value of it.
SLOPES: dict[str, tuple[typing.Callable, float]] = {
    "relu": (_relu_slope, 1.0),
    "tanh": (_tanh_slope, 1.0),
    "gelu": (_gelu_slope, 1.12890414),
    "silu": (_silu_slope, 1.09983932),
    "sigmoid": (_sigmoid_slope, 0.25),
}


@keras.saving.register_keras_serializable(package="keras_plasticity")
class AdaLin(keras.layers.Layer):
    """Adaptive linearisation: adds a learned line to an activation where that is flat.

    ```python
    gate = stop_gradient(cos(pi / 2 * abs(phi'(x)) / max(abs(phi'))))
    outputs = phi(x) + alpha * gate * x  # alpha is learned, one per channel
    ```

    The gate is 1 where phi passes no gradient and 0 where it passes most. With ReLU it is
    PReLU with one slope per channel. The unit passes `phi'(x) + alpha * gate` back.

    Example:
    >>> layer = AdaLin("relu", alpha_initializer=keras.initializers.Constant(0.5))
    >>> layer(np.array([[1.0, -2.0]], "float32")).numpy().tolist()
    [[1.0, -1.0]]

    Args:
        activation: `"relu"`, `"tanh"`, `"gelu"`, `"silu"` or `"sigmoid"`. Default `"relu"`.
        alpha_initializer: initializer of the slopes. Default `"zeros"`: it begins as phi.
        axis: int, of the channels. Default -1.
        **kwargs: further arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `activation` is none of these, or `axis` is that of the batch.

    Reference:
        Rohani et al., "Preserving Plasticity in Continual Learning with Adaptive Linearity
        Injection", 2025, https://arxiv.org/abs/2505.09486.

    Deviations:
        Formula and gate were read in an account of the paper; the value that alpha begins with
        was not to be found there, zero is ours. A convolution has one alpha per channel, at all
        positions. The paper uses ReLU, tanh and GELU.
    """

    def __init__(
        self,
        activation: str = "relu",
        alpha_initializer: typing.Any = "zeros",
        axis: int = -1,
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(**kwargs)
        if activation not in SLOPES:
            raise ValueError(
                f"`activation` must be one of {tuple(SLOPES)}. Received: activation={activation!r}"
            )
        if axis == 0:
            raise ValueError(f"`axis` must not be that of the batch. Received: axis={axis!r}")
        # Not `activation`: what has an attribute of this name calls it once per call.
        self.name_of_activation, self.axis = activation, axis
        self.alpha_initializer = keras.initializers.get(alpha_initializer)
        self.supports_masking = True

    def build(self, input_shape: tuple) -> None:
        """Makes the variables."""
        self.alpha = self.add_weight(
            name="alpha",
            shape=(input_shape[self.axis],),
            initializer=self.alpha_initializer,
        )
        self.built = True

    def call(self, inputs: typing.Any) -> typing.Any:
        """Computes the outputs."""
        shape = [1] * len(inputs.shape)
        shape[self.axis] = -1
        return linearised(inputs, self.name_of_activation, keras.ops.reshape(self.alpha, shape))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape of the outputs."""
        return input_shape

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        initializer = keras.initializers.serialize(self.alpha_initializer)
        own = {"activation": self.name_of_activation, "alpha_initializer": initializer}
        return {**super().get_config(), **own, "axis": self.axis}


def linearised(x: typing.Any, activation: str, alpha: typing.Any) -> typing.Any:
    """Returns `phi(x) + alpha * gate(x) * x`.

    Args:
        x: floating-point tensor.
        activation: key of `SLOPES`.
        alpha: floating-point tensor, broadcast over `x`.
    """
    slope, largest = SLOPES[activation]
    return keras.activations.get(activation)(x) + alpha * gate(slope(x), largest) * x


def gate(slope: typing.Any, largest: float) -> typing.Any:
    """Returns `cos(pi / 2 * abs(slope) / largest)`, through which no gradient goes."""
    ops = keras.ops
    share = ops.minimum(ops.abs(slope) / largest, 1)
    return ops.stop_gradient(ops.cos(math.pi / 2 * share))
