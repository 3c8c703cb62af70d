"""A dense layer that multiplies two branches."""

from __future__ import annotations

import typing

import keras


@keras.saving.register_keras_serializable(package="keras_plasticity")
class HadamardDense(keras.layers.Layer):
    """`tanh(x @ kernel + bias) * tanh(x @ second_kernel + second_bias)`.

    A unit stops passing gradient only where both branches saturate; where one alone does, it
    is a factor of the other, near 1 or -1. It has twice the weights of a dense layer with as
    many units.

    Example:
    >>> HadamardDense(4)(np.ones((2, 3), "float32")).shape
    TensorShape([2, 4])

    Args:
        units: int, number of units.
        use_bias: bool. Default True.
        kernel_initializer: initializer of both kernels, which are drawn apart. Default
            `"glorot_uniform"`.
        bias_initializer: of both biases. Default `"zeros"`.
        kernel_regularizer: of both kernels. Default none.
        **kwargs: further arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: floating-point tensor of shape (..., features).

    Raises:
        ValueError: `units` is no positive integer.

    Reference:
        Kooi et al., "Hadamard Representations: Augmenting Hyperbolic Tangents in RL", 2024,
        https://arxiv.org/abs/2406.09079.

    Deviations:
        None known. The nonlinearities are inside, so a normalisation cannot stand before them;
        `kp.fortify` leaves the layer as it is.
    """

    def __init__(
        self,
        units: int,
        use_bias: bool = True,
        kernel_initializer: typing.Any = "glorot_uniform",
        bias_initializer: typing.Any = "zeros",
        kernel_regularizer: typing.Any = None,
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(units, bool) or not isinstance(units, int) or units < 1:
            raise ValueError(f"`units` must be a positive integer. Received: units={units!r}")
        self.units, self.use_bias = units, use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.second_kernel_initializer = another(self.kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.second_bias_initializer = another(self.bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.supports_masking = True

    def build(self, input_shape: tuple) -> None:
        """Makes the variables."""
        self.bias = self.second_bias = None
        self.kernel = self._kernel("kernel", input_shape[-1])
        if self.use_bias:
            self.bias = self._bias("bias")
        self.second_kernel = self._kernel("second_kernel", input_shape[-1])
        if self.use_bias:
            self.second_bias = self._bias("second_bias")
        self.built = True

    def _kernel(self, name: str, inputs: int) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=(inputs, self.units),
            initializer=getattr(self, f"{name}_initializer"),
            regularizer=self.kernel_regularizer,
        )

    def _bias(self, name: str) -> keras.Variable:
        initializer = getattr(self, f"{name}_initializer")
        return self.add_weight(name=name, shape=(self.units,), initializer=initializer)

    def call(self, inputs: typing.Any) -> typing.Any:
        """Computes the outputs."""
        pairs = (self.kernel, self.bias), (self.second_kernel, self.second_bias)
        first, second = (_branch(inputs, kernel, bias) for kernel, bias in pairs)
        return first * second

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape of the outputs."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "units": self.units,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }


def _branch(x: typing.Any, kernel: typing.Any, bias: typing.Any) -> typing.Any:
    x = keras.ops.matmul(x, kernel)
    return keras.ops.tanh(x if bias is None else x + bias)


def another(initializer: typing.Any) -> typing.Any:
    """Returns an initializer like another one, that draws other numbers if any.

    Keras' initializers draw the same numbers at each call.
    """
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    if isinstance(config.get("seed"), int):
        config["seed"] += 1
    return type(initializer).from_config(config)
